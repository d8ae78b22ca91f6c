package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRequestsThatAreRefused(t *testing.T) {
	const size = 1 << 20
	dev := &memDevice{data: make([]byte, size)}
	sock := serve(t, &Server{Exports: []Export{
		{Name: "rw", Device: dev}, {Name: "ro", Device: dev, ReadOnly: true}, {Name: "poor", Device: writeDevice{plainDevice{dev}}},
	}})
	for _, c := range []struct {
		export string
		req    request
		want   Errno
	}{
		{"rw", request{cmd: cmdRead, offset: size - 1, length: 2}, EINVAL},
		{"rw", request{cmd: cmdRead, offset: 1<<64 - 1, length: 2}, EINVAL},
		{"rw", request{cmd: cmdRead, offset: 1 << 63, length: 1}, EINVAL},
		{"rw", request{cmd: cmdRead, length: 1<<32 - 1}, EOVERFLOW},
		{"rw", request{cmd: cmdRead, length: 1, flags: cmdFlagReqOne}, EINVAL},
		{"rw", request{cmd: cmdRead, length: 1, flags: 1 << 9}, EINVAL},
		{"rw", request{cmd: cmdWrite, offset: size - 1, length: 2}, ENOSPC},
		{"rw", request{cmd: cmdWrite, length: 2, flags: cmdFlagDF}, EINVAL},
		{"rw", request{cmd: cmdWrite, length: MaxPayload + 1}, EINVAL},
		{"rw", request{cmd: cmdWriteZeros, offset: size, length: 1}, ENOSPC},
		{"rw", request{cmd: cmdTrim, offset: size, length: 1}, EINVAL},
		{"rw", request{cmd: cmdCache, offset: size, length: 1}, EINVAL},
		{"rw", request{cmd: cmdCache, length: 1, flags: cmdFlagNoHole}, EINVAL},
		{"rw", request{cmd: cmdBlockStatus, offset: size, length: 1}, EINVAL},
		{"rw", request{cmd: cmdBlockStatus}, EINVAL},
		{"rw", request{cmd: cmdFlush, length: 1}, EINVAL},
		{"rw", request{cmd: 8}, EINVAL},
		{"rw", request{cmd: 0xffff, length: 1 << 31}, EINVAL},
		{"rw", request{cmd: cmdWriteZeros, length: 1, flags: cmdFlagNoHole | cmdFlagFastZero}, ENOTSUP},
		{"ro", request{cmd: cmdWrite, length: 2}, EPERM},
		{"ro", request{cmd: cmdWriteZeros, length: 2}, EPERM},
		{"ro", request{cmd: cmdTrim, length: 2}, EPERM},
		{"poor", request{cmd: cmdTrim, length: 2}, EINVAL},
		{"poor", request{cmd: cmdFlush}, EINVAL},
		{"poor", request{cmd: cmdWrite, length: 2, flags: cmdFlagFUA}, EINVAL},
		{"poor", request{cmd: cmdWriteZeros, length: 2, flags: cmdFlagFastZero}, ENOTSUP},
	} {
		t.Run(fmt.Sprintf("%s/%d/%d+%d/%#x", c.export, c.req.cmd, c.req.offset, c.req.length, c.req.flags), func(t *testing.T) {
			cl := dialRaw(t, sock)
			cl.negotiate(c.export, true)
			var payload []byte
			if c.req.cmd == cmdWrite {
				payload = bytes.Repeat([]byte{1}, int(c.req.length))
			}
			a := cl.do(c.req, payload)
			require.Equal(t, c.want, a.errno, a.text)
			require.NotEmpty(t, a.text)
			require.Zero(t, cl.do(request{cmd: cmdRead, length: 100}, nil).errno, "the stream is still in step")
		})
	}
	equalBytes(t, make([]byte, size), dev.bytes(), "refused writes")

	cl := dialRaw(t, sock)
	cl.negotiate("rw", true)
	cl.write(make([]byte, requestSize))
	cl.ended() // a wrong magic number
}

func TestEmptyRequests(t *testing.T) {
	sock := serve(t, &Server{Exports: []Export{{Device: &memDevice{}}}})
	for _, structured := range []bool{true, false} {
		cl := dialRaw(t, sock)
		cl.negotiate("", structured)
		for _, cmd := range []uint16{cmdRead, cmdWrite, cmdTrim, cmdWriteZeros, cmdCache, cmdFlush} {
			require.Zero(t, cl.do(request{cmd: cmd}, nil).errno, "command %d", cmd)
		}
	}
}

func TestReads(t *testing.T) {
	want := picture(33<<20, 1)
	dev := &memDevice{data: want}
	sock := serve(t, &Server{Exports: []Export{{Name: "map", Device: dev}, {Name: "plain", Device: plainDevice{dev}}}})
	for _, export := range []string{"map", "plain"} {
		for _, structured := range []bool{true, false} {
			cl := dialRaw(t, sock)
			cl.negotiate(export, structured)
			for _, r := range []struct{ off, n int }{{0, 1}, {0, 300 << 10}, {5, 64 << 10}, {65536, 65536}, {12345, MaxPayload}, {len(want) - 1, 1}} {
				for _, df := range []uint16{0, cmdFlagDF} {
					if df != 0 && !structured {
						continue
					}
					a := cl.do(request{cmd: cmdRead, flags: df, offset: uint64(r.off), length: uint32(r.n)}, nil)
					require.Zero(t, a.errno)
					equalBytes(t, want[r.off:][:r.n], a.data, fmt.Sprint(r))
					if df != 0 {
						require.Equal(t, []uint16{chunkOffsetData}, a.kinds)
					}
					if structured && df == 0 && r.off == 65536 {
						require.Equal(t, []uint16{chunkOffsetHole}, a.kinds, "zeros don't travel")
					}
				}
			}
		}
	}
}

func TestBlockStatus(t *testing.T) {
	dev := &memDevice{data: picture(256<<10, 1)}
	sock := serve(t, &Server{Exports: []Export{{Name: "map", Device: dev}, {Name: "plain", Device: plainDevice{dev}}}})
	cl := dialRaw(t, sock)
	cl.negotiate("map", true)
	const both = stateHole | stateZero
	status := func(off, n int, flags uint16) []descriptor {
		a := cl.do(request{cmd: cmdBlockStatus, flags: flags, offset: uint64(off), length: uint32(n)}, nil)
		require.Zero(t, a.errno)
		return a.status
	}
	require.Equal(t, []descriptor{{65536, 0}, {65536, both}, {131072, 0}}, status(0, 256<<10, 0))
	require.Equal(t, []descriptor{{36, 0}, {64, both}}, status(65500, 100, 0))
	require.Equal(t, []descriptor{{36, 0}}, status(65500, 100, cmdFlagReqOne))
	dev.onOp(func(_ context.Context, op string, _ int64) error {
		if op == "extents" {
			return errDisk
		}
		return nil
	})
	require.Equal(t, EIO, cl.do(request{cmd: cmdBlockStatus, length: 100}, nil).errno)
	a := cl.do(request{cmd: cmdRead, length: 128 << 10}, nil)
	require.Zero(t, a.errno, "reading does without a map")
	equalBytes(t, dev.bytes()[:128<<10], a.data, "read")

	cl = dialRaw(t, sock)
	cl.negotiate("plain", true)
	require.Equal(t, []descriptor{{256 << 10, 0}}, status(0, 256<<10, 0))
}

func TestDeviceErrors(t *testing.T) {
	dev := &memDevice{data: picture(1<<20, 1)}
	sock := serve(t, &Server{Exports: []Export{{Device: dev}}})
	for _, c := range []struct {
		err  error
		want Errno
	}{
		{errDisk, EIO},
		{io.ErrUnexpectedEOF, EIO},
		{fmt.Errorf("mounted read-only: %w", fs.ErrPermission), EPERM},
		{fmt.Errorf("full: %w", syscall.ENOSPC), ENOSPC},
		{syscall.EDQUOT, ENOSPC},
		{fmt.Errorf("as it says: %w", ENOSPC), ENOSPC},
		{context.Canceled, ESHUTDOWN},
	} {
		dev.onOp(func(_ context.Context, op string, off int64) error {
			if op == "extents" || off >= 1<<19 {
				return nil
			}
			return c.err
		})
		for _, structured := range []bool{true, false} {
			cl := dialRaw(t, sock)
			cl.negotiate("", structured)
			for _, req := range []request{
				{cmd: cmdRead, length: 10}, {cmd: cmdRead, length: 1 << 20}, {cmd: cmdWrite, length: 10}, {cmd: cmdWrite, length: 600 << 10},
				{cmd: cmdFlush}, {cmd: cmdTrim, length: 10}, {cmd: cmdWriteZeros, length: 10},
				{cmd: cmdWriteZeros, length: 10, flags: cmdFlagNoHole},
				{cmd: cmdWriteZeros, offset: 1 << 19, length: 10, flags: cmdFlagFUA},
				{cmd: cmdWrite, offset: 1 << 19, length: 300 << 10, flags: cmdFlagFUA},
			} {
				var payload []byte
				if req.cmd == cmdWrite {
					payload = make([]byte, req.length)
				}
				require.Equal(t, c.want, cl.do(req, payload).errno, "%+v %v", req, c.err)
			}
			require.Zero(t, cl.do(request{cmd: cmdRead, offset: 1 << 19, length: 10}, nil).errno)
		}
	}
}

// A short read is a failure whatever the device says of it.
type shortDevice struct{ plainDevice }

func (d shortDevice) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return d.plainDevice.ReadAt(ctx, p[:len(p)/2], off)
}

func TestShortReadIsAnError(t *testing.T) {
	sock := serve(t, &Server{Exports: []Export{{Device: shortDevice{plainDevice{&memDevice{data: make([]byte, 100)}}}}}})
	cl := dialRaw(t, sock)
	cl.negotiate("", true)
	require.Equal(t, EIO, cl.do(request{cmd: cmdRead, length: 10}, nil).errno)
}

func TestFUAFlushesOnceAfterTheWrite(t *testing.T) {
	var mu sync.Mutex
	var ops []string
	taken := func() []string {
		mu.Lock()
		defer mu.Unlock()
		got := ops
		ops = nil
		return got
	}
	dev := &memDevice{data: make([]byte, 1<<20)}
	dev.onOp(func(_ context.Context, op string, _ int64) error {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, op)
		return nil
	})
	sock := serve(t, &Server{Exports: []Export{{Device: dev}}})
	cl := dialRaw(t, sock)
	cl.negotiate("", true)
	require.Zero(t, cl.do(request{cmd: cmdWrite, flags: cmdFlagFUA, length: 1 << 20}, make([]byte, 1<<20)).errno)
	require.Equal(t, []string{"write", "write", "write", "write", "flush"}, taken())
	require.Zero(t, cl.do(request{cmd: cmdWriteZeros, flags: cmdFlagFUA, length: 5}, nil).errno)
	require.Equal(t, []string{"zero", "flush"}, taken())
	require.Zero(t, cl.do(request{cmd: cmdRead, flags: cmdFlagFUA, length: 5}, nil).errno)
	require.NotContains(t, taken(), "flush")
}

// A slow operation delays neither others of its connection nor other clients.
func TestSlowOperationsDelayNobody(t *testing.T) {
	release := make(chan struct{})
	dev := &memDevice{data: picture(1<<20, 1)}
	dev.onOp(func(_ context.Context, op string, off int64) error {
		if op == "read" && off == 0 {
			<-release
		}
		return nil
	})
	sock := serve(t, &Server{Exports: []Export{{Device: dev}}})
	cl := dialRaw(t, sock)
	cl.negotiate("", true)
	slow := cl.send(request{cmd: cmdRead, length: 10}, nil)
	quick := request{cmd: cmdRead, offset: 4096, length: 10}
	require.Equal(t, cl.send(quick, nil), cl.receive(quick).cookie)
	other := dialRaw(t, sock)
	other.negotiate("", true)
	require.Zero(t, other.do(quick, nil).errno)
	close(release)
	require.Equal(t, slow, cl.receive(request{cmd: cmdRead, length: 10}).cookie)
}

// However much a client asks for at once, the device sees MaxInFlight of it.
func TestInFlightIsBounded(t *testing.T) {
	const limit = 3
	var now, most atomic.Int32
	gate, entered := make(chan struct{}), make(chan struct{}, 100)
	dev := &memDevice{data: picture(1<<20, 1)}
	dev.onOp(func(_ context.Context, op string, _ int64) error {
		if op == "read" {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			entered <- struct{}{}
			<-gate
			now.Add(-1)
		}
		return nil
	})
	sock := serve(t, &Server{Exports: []Export{{Device: plainDevice{dev}}}, MaxInFlight: limit})
	cl := dialRaw(t, sock)
	cl.negotiate("", true)
	const n = 50
	for range n {
		cl.send(request{cmd: cmdRead, length: 1000}, nil)
	}
	for range limit {
		<-entered
	}
	for range n {
		gate <- struct{}{}
		require.Zero(t, cl.receive(request{cmd: cmdRead, length: 1000}).errno)
	}
	require.EqualValues(t, limit, most.Load())
}

func TestMaxConns(t *testing.T) {
	sock := serve(t, &Server{Exports: []Export{{Device: &memDevice{data: make([]byte, 10)}}}, MaxConns: 1})
	first := dialRaw(t, sock)
	first.negotiate("", true)
	second, err := net.Dial("unix", sock)
	require.NoError(t, err)
	defer second.Close()
	_, err = second.Read(make([]byte, 1))
	require.Error(t, err)
	require.Zero(t, first.do(request{cmd: cmdRead, length: 1}, nil).errno)
}

// What is under way when the server ends is finished and answered.
func TestServeDrains(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	dev := &memDevice{data: make([]byte, 10)}
	dev.onOp(func(ctx context.Context, op string, _ int64) error {
		if op == "write" {
			close(started)
			<-release
			return ctx.Err()
		}
		return nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- (&Server{Exports: []Export{{Device: dev}}}).Serve(ctx, l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	cl := greetRaw(t, conn, flagFixedNewstyle)
	cl.negotiate("", true)
	req := request{cmd: cmdWrite, length: 2}
	cl.send(req, []byte("ab"))
	<-started
	cancel()
	_, err = net.Dial("tcp", l.Addr().String())
	for err == nil { // until the listener is closed
		_, err = net.Dial("tcp", l.Addr().String())
	}
	close(release)
	require.Zero(t, cl.receive(req).errno)
	cl.ended()
	require.NoError(t, <-done)
	require.Equal(t, "ab", string(dev.bytes()[:2]))
}

// What would not finish is cancelled after DrainTimeout.
func TestDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &memDevice{data: make([]byte, 10)}
		dev.onOp(func(ctx context.Context, op string, _ int64) error {
			if op != "read" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		client, server := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			s := &Server{Exports: []Export{{Device: dev}}, DrainTimeout: time.Minute}
			s.serveConn(ctx, server)
		}()
		cl := greetRaw(t, client, flagFixedNewstyle)
		cl.negotiate("", true)
		cl.send(request{cmd: cmdRead, length: 5}, nil)
		synctest.Wait()
		start := time.Now()
		cancel()
		<-gone
		require.Equal(t, time.Minute, time.Since(start))
	})
}

// A client that vanishes takes its connection with it and nothing else.
func TestVanishingClient(t *testing.T) {
	dev := &memDevice{data: picture(4<<20, 1)}
	sock, stop := serveUntil(t, &Server{Exports: []Export{{Device: dev}}})
	for i := range 20 {
		cl := dialRaw(t, sock)
		cl.negotiate("", i%2 == 0)
		for range 5 {
			cl.send(request{cmd: cmdRead, length: 4 << 20}, nil)
		}
		cl.write(append(request{cmd: cmdWrite, length: 1 << 20}.append(nil), make([]byte, 1000)...))
		cl.conn.Close()
	}
	stop()
}

func TestRandomOperations(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const size = 2<<20 + 333
	overlay, err := OpenOverlay(&memDevice{data: picture(size, 3)}, OverlayOptions{})
	require.NoError(t, err)
	poor := &memDevice{data: picture(size, 3)}
	sock := serve(t, &Server{Exports: []Export{
		{Name: "memory", Device: &memDevice{data: picture(size, 3)}},
		{Name: "poor", Device: writeDevice{plainDevice{poor}}},
		{Name: "overlay", Device: overlay},
	}})
	for _, export := range []string{"memory", "poor", "overlay"} {
		for _, structured := range []bool{true, false} {
			t.Run(fmt.Sprint(export, structured), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 0))
				cl := dialRaw(t, sock)
				cl.negotiate(export, structured)
				whole := cl.do(request{cmd: cmdRead, length: size}, nil)
				require.Zero(t, whole.errno)
				model := whole.data
				for range 400 {
					off := rng.IntN(size)
					n := 1 + rng.IntN(min(size-off, 1<<rng.IntN(20)+1))
					req := request{offset: uint64(off), length: uint32(n)}
					switch rng.IntN(6) {
					case 0:
						p := make([]byte, n)
						c := byte(rng.Uint32())
						for i := range p {
							p[i] = c + byte(i)
						}
						req.cmd = cmdWrite
						require.Zero(t, cl.do(req, p).errno)
						copy(model[off:], p)
					case 1:
						req.cmd, req.flags = cmdWriteZeros, slices.Compact([]uint16{0, cmdFlagNoHole})[rng.IntN(2)]
						require.Zero(t, cl.do(req, nil).errno)
						clear(model[off:][:n])
					case 2:
						if export == "poor" {
							continue
						}
						req.cmd = cmdTrim
						require.Zero(t, cl.do(req, nil).errno)
						clear(model[off:][:n]) // as these devices do
					case 3:
						if !structured {
							continue
						}
						req.cmd = cmdBlockStatus
						at := off
						for _, d := range cl.do(req, nil).status {
							if d.status&stateZero != 0 {
								require.Empty(t, bytes.Trim(model[at:][:d.length], "\x00"))
							}
							at += int(d.length)
						}
						require.Equal(t, off+n, at)
					default:
						req.cmd = cmdRead
						if structured && rng.IntN(2) == 0 {
							req.flags = cmdFlagDF
						}
						a := cl.do(req, nil)
						require.Zero(t, a.errno)
						equalBytes(t, model[off:][:n], a.data, fmt.Sprint("read at ", off))
					}
				}
			})
		}
	}
}

func TestErrno(t *testing.T) {
	require.ErrorIs(t, EPERM, fs.ErrPermission)
	require.ErrorIs(t, ENOTSUP, errors.ErrUnsupported)
	require.NotErrorIs(t, EIO, fs.ErrPermission)
	for _, e := range []Errno{EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN} {
		require.NotContains(t, e.Error(), "nbd error")
		require.Equal(t, e, errnoOf(fmt.Errorf("wrapped: %w", e)))
	}
	require.Contains(t, Errno(7).Error(), "7")
	require.Zero(t, errnoOf(nil))
}

package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func unixOptions(socket, export string) Options {
	return Options{Network: "unix", Address: socket, Export: export}
}

func dialTest(t testing.TB, o Options) *Client {
	t.Helper()
	c, err := Dial(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func readAll(t testing.TB, c *Client) []byte {
	t.Helper()
	b := bytes.Repeat([]byte{0xa5}, int(c.Size()))
	n, err := c.ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	require.Len(t, b, n)
	return b
}

func TestClientReadsAndWrites(t *testing.T) {
	want := picture(oddSize, 1)
	dev := &memDevice{data: bytes.Clone(want)}
	sock := serve(t, &Server{Exports: []Export{{Name: "disk", Description: "of a test", Device: dev}}})
	c := dialTest(t, unixOptions(sock, "disk"))
	require.Equal(t, Info{
		Size: oddSize, Description: "of a test", CanFlush: true, CanFUA: true, CanTrim: true, CanZero: true, CanCache: true,
		CanMultiConn: true, MinBlock: 1, PreferredBlock: 64 << 10, MaxPayload: MaxPayload,
		Contexts: []string{ContextAllocation}, Structured: true,
	}, c.Info())
	equalBytes(t, want, readAll(t, c), "read")

	p := make([]byte, 100)
	n, err := c.ReadAt(t.Context(), p, oddSize-40)
	require.Equal(t, 40, n)
	require.ErrorIs(t, err, io.EOF)
	n, err = c.ReadAt(t.Context(), p, oddSize+1)
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
	_, err = c.ReadAt(t.Context(), p, -1)
	require.ErrorIs(t, err, EINVAL)

	n, err = c.WriteAt(t.Context(), []byte("hello"), 77)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	copy(want[77:], "hello")
	before := dev.flushed()
	_, err = c.WriteThrough(t.Context(), []byte("through"), 1000)
	require.NoError(t, err)
	require.Equal(t, before+1, dev.flushed(), "FUA")
	copy(want[1000:], "through")
	require.NoError(t, c.Zero(t.Context(), 4000, 200_000))
	clear(want[4000:204_000])
	require.NoError(t, c.Trim(t.Context(), 300_000, 5))
	clear(want[300_000:300_005])
	require.NoError(t, c.Flush(t.Context()))
	require.Equal(t, before+2, dev.flushed())
	require.NoError(t, c.Prefetch(t.Context(), 0, oddSize))
	equalBytes(t, want, dev.bytes(), "on the device")

	var re *RequestError
	_, err = c.WriteAt(t.Context(), p, oddSize-99)
	require.ErrorIs(t, err, ENOSPC)
	require.ErrorAs(t, err, &re)
	require.Equal(t, RequestError{"write", "unix:" + sock, "disk", oddSize - 99, 100, re.Err}, *re)
	require.ErrorIs(t, c.Zero(t.Context(), oddSize, 1), ENOSPC)
	require.ErrorIs(t, c.Prefetch(t.Context(), oddSize, 1), EINVAL)

	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err = c.ReadAt(t.Context(), p, 0)
	require.ErrorIs(t, err, ErrClosed)
}

func TestClientOfPoorServers(t *testing.T) {
	data := picture(100_000, 1)
	sock := serve(t, &Server{Exports: []Export{
		{Name: "ro", Device: plainDevice{&memDevice{data: data}}},
		{Name: "w", Device: writeDevice{plainDevice{&memDevice{data: bytes.Clone(data)}}}},
	}})
	_, err := Dial(t.Context(), unixOptions(sock, "other"))
	require.ErrorIs(t, err, ErrNoExport)
	_, err = Dial(t.Context(), Options{})
	require.ErrorContains(t, err, "no server")
	_, err = Dial(t.Context(), unixOptions(sock+"x", "ro"))
	require.ErrorIs(t, err, os.ErrNotExist)

	ro := dialTest(t, unixOptions(sock, "ro"))
	_, err = ro.WriteAt(t.Context(), []byte{1}, 0)
	require.ErrorIs(t, err, EPERM)
	require.ErrorIs(t, err, os.ErrPermission)
	w := dialTest(t, unixOptions(sock, "w"))
	require.ErrorIs(t, w.Flush(t.Context()), errors.ErrUnsupported)
	require.ErrorIs(t, w.Trim(t.Context(), 0, 1), errors.ErrUnsupported)
	_, err = w.WriteThrough(t.Context(), []byte{1}, 0)
	require.ErrorIs(t, err, errors.ErrUnsupported)

	l, err := List(t.Context(), unixOptions(sock, ""))
	require.NoError(t, err)
	require.Equal(t, []Listed{{"ro", ""}, {"w", ""}}, l)
}

// A failure names the operation, the place and what the server said.
func TestClientErrors(t *testing.T) {
	dev := &memDevice{data: make([]byte, 100_000)}
	c := dialTest(t, unixOptions(serve(t, &Server{Exports: []Export{{Device: dev}}}), ""))
	for _, e := range []Errno{EIO, ENOSPC, EPERM, ENOMEM, ESHUTDOWN} {
		dev.onOp(func(context.Context, string, int64) error { return e })
		p := make([]byte, 5000)
		_, err := c.ReadAt(t.Context(), p, 70_000)
		require.ErrorIs(t, err, e)
		require.ErrorContains(t, err, "read of 5000 bytes at 70000")
		_, err = c.WriteAt(t.Context(), p, 70_000)
		require.ErrorIs(t, err, e)
		require.ErrorIs(t, c.Zero(t.Context(), 1, 2), e)
		require.ErrorIs(t, c.Flush(t.Context()), e)
		for _, err := range c.Extents(t.Context(), 0, 100) {
			require.ErrorIs(t, err, e)
		}
	}
	dev.onOp(func(context.Context, string, int64) error { return nil })
	require.Equal(t, dev.bytes(), readAll(t, c), "the connection is in order")
}

func TestClientSplitsAtTheMaximum(t *testing.T) {
	want := picture(MaxPayload+70_000, 4)
	dev := &memDevice{data: make([]byte, len(want))}
	c := dialTest(t, unixOptions(serve(t, &Server{Exports: []Export{{Device: dev}}}), ""))
	_, err := c.WriteAt(t.Context(), want, 0)
	require.NoError(t, err)
	equalBytes(t, want, dev.bytes(), "written")
	equalBytes(t, want, readAll(t, c), "read")
	c.info.MaxPayload = 4096
	_, err = c.WriteAt(t.Context(), want[:100_000], 13)
	require.NoError(t, err)
	equalBytes(t, want[:100_000], dev.bytes()[13:100_013], "in small parts")
	fail := errors.New("at one place")
	dev.onOp(func(_ context.Context, _ string, off int64) error {
		if off == 8192 {
			return fail
		}
		return nil
	})
	_, err = c.ReadAt(t.Context(), make([]byte, 100_000), 0)
	require.ErrorContains(t, err, "read of 4096 bytes at 8192")
}

func TestClientAligns(t *testing.T) {
	const block, size = 512, 512 * 9
	model := picture(size, 1)
	dev := &memDevice{data: bytes.Clone(model)}
	dev.onOp(func(_ context.Context, _ string, off int64) error {
		if off%block != 0 {
			return EINVAL
		}
		return nil
	})
	c := dialTest(t, unixOptions(serve(t, &Server{Exports: []Export{{Device: dev}}}), ""))
	c.info.MinBlock = block
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		off := rng.Int64N(size)
		n := 1 + rng.Int64N(size-off)
		switch rng.IntN(3) {
		case 0:
			p := make([]byte, n)
			_, err := c.ReadAt(t.Context(), p, off)
			require.NoError(t, err)
			equalBytes(t, model[off:off+n], p, "read")
		case 1:
			p := noise(int(n))
			_, err := c.WriteAt(t.Context(), p, off)
			require.NoError(t, err)
			copy(model[off:], p)
		case 2:
			require.NoError(t, c.Zero(t.Context(), off, n))
			clear(model[off:][:n])
		}
		from, to := c.outer(off, n)
		require.Zero(t, from%block+to%block)
		require.True(t, from <= off && to >= off+n && from > off-block && to < off+n+block)
		from, to = c.inner(off, n)
		require.Zero(t, from%block+to%block)
	}
	equalBytes(t, model, dev.bytes(), "in the end")

	var all sync.WaitGroup // neighbours in a block don't undo each other
	for i := range 64 {
		all.Go(func() {
			if _, err := c.WriteAt(t.Context(), bytes.Repeat([]byte{byte(i)}, 16), int64(16*i)); err != nil {
				t.Error(err)
			}
			copy(model[16*i:], bytes.Repeat([]byte{byte(i)}, 16))
		})
	}
	all.Wait()
	equalBytes(t, model, dev.bytes(), "neighbours")
}

// TestClientRandomOperations has several callers change their own parts of a
// device, over one and over several connections, and compares with a model.
func TestClientRandomOperations(t *testing.T) {
	for _, conns := range []int{1, 3} {
		t.Run(fmt.Sprint(conns), func(t *testing.T) {
			const callers, share = 4, 900_001
			dev := &memDevice{data: make([]byte, callers*share)}
			o := unixOptions(serve(t, &Server{Exports: []Export{{Device: dev}}}), "")
			o.Connections, o.InFlight = conns, 3
			c := dialTest(t, o)
			require.Len(t, c.lanes.links, conns)
			model := make([]byte, callers*share)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			var all sync.WaitGroup
			for i := range callers {
				all.Go(func() {
					randomCaller(t, c, rand.New(rand.NewPCG(seed, uint64(i))), model[i*share:][:share], int64(i*share))
				})
			}
			all.Wait()
			equalBytes(t, model, dev.bytes(), "in the end")
		})
	}
}

func randomCaller(t *testing.T, c *Client, rng *rand.Rand, model []byte, base int64) {
	size := int64(len(model))
	for range 150 {
		off := rng.Int64N(size)
		n := 1 + rng.Int64N(min(size-off, 1<<rng.IntN(20)))
		part := model[off:][:n]
		ctx, cancel := context.WithCancel(t.Context())
		switch op := rng.IntN(7); op {
		case 0, 1:
			p := bytes.Clone(part)
			for i := range p {
				p[i] ^= byte(rng.Uint32())
			}
			write := c.WriteAt
			if op == 1 {
				write = c.WriteThrough
			}
			if _, err := write(ctx, p, base+off); err != nil {
				t.Errorf("write: %v", err)
			}
			copy(part, p)
		case 2:
			if err := c.Zero(ctx, base+off, n); err != nil {
				t.Errorf("zero: %v", err)
			}
			clear(part)
		case 3:
			if err := c.Trim(ctx, base+off, n); err != nil {
				t.Errorf("trim: %v", err)
			}
			clear(part)
		case 4: // a map that calls data zero would lose it
			next := base + off
			for e, err := range c.Extents(ctx, base+off, n) {
				if err != nil || e.Off != next || e.Zero && len(bytes.Trim(model[e.Off-base:][:e.Len], "\x00")) > 0 {
					t.Errorf("extent %+v, expected at %d: %v", e, next, err)
				}
				next = e.Off + e.Len
			}
			if next != base+off+n {
				t.Errorf("the map ends at %d, not %d", next, base+off+n)
			}
		case 5: // cancelled at some time: what comes later must not land in p
			p := make([]byte, n)
			go cancel()
			if _, err := c.ReadAt(ctx, p, base+off); err == nil {
				if !bytes.Equal(part, p) {
					t.Errorf("read of %d at %d differs", n, off)
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled read: %v", err)
			} else {
				for i := range p {
					p[i] = 0xcc // the race detector sees whoever still writes here
				}
			}
		default:
			p := make([]byte, n)
			if _, err := c.ReadAt(ctx, p, base+off); err != nil || !bytes.Equal(part, p) {
				t.Errorf("read of %d at %d: %v, equal %v", n, off, err, bytes.Equal(part, p))
			}
		}
		cancel()
	}
}

package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// exclusive is a transport that refuses a disk that is open for writing.
type exclusive struct {
	Transport
	mu    sync.Mutex
	taken map[string]bool
	twice int
}

func (x *exclusive) open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error) {
	dev, err := x.Transport.open(ctx, v, d, write)
	if err != nil || !write {
		return dev, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.taken[d.file] {
		x.twice++
		return nil, errors.Join(errors.New("the file is locked"), dev.Close())
	}
	x.taken[d.file] = true
	return &exclusively{dev.(writable), func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.taken, d.file)
	}}, nil
}

type exclusively struct {
	writable
	leave func()
}

func (e *exclusively) Close() error {
	time.Sleep(time.Millisecond) // a real one is slow
	err := e.writable.Close()
	e.leave()
	return err
}

func manyDisks(n int) vmwaretest.VMSpec {
	spec := vmwaretest.VMSpec{ChangeTracking: true}
	for range n {
		spec.Disks = append(spec.Disks, vmwaretest.DiskSpec{Size: 2 * mib})
	}
	return spec
}

// A copy between two machines of one vCenter, whose ends are bounded by the
// same places: it must not wait for itself, whatever their number, and a disk
// that was closed to make room is not opened anew before that is over.
func TestCopyWithFewPlaces(t *testing.T) {
	for _, places := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(places), func(t *testing.T) {
			x := &exclusive{taken: map[string]bool{}}
			p := newPit(t, vmwaretest.Options{}, manyDisks(3), func(o *Options) {
				o.Total, o.PerHost, o.Force = places, places, true
				x.Transport, o.Transports = o.Transports[0], []Transport{x}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			want := bytes.Repeat([]byte{1, 2, 3, 4}, 64<<10/4)
			for _, k := range p.keys {
				for off := int64(0); off < 2*mib; off += 128 << 10 { // many extents
					require.NoError(t, p.vm.WriteDisk(k, want, off))
				}
			}
			i := p.capture("p")
			r, err := p.v.Prepare(ctx, backend.Placement{Key: "k", Machine: i.Point().Machine})
			require.NoError(t, err)
			d, err := p.v.Draft(ctx, r.ID, i.Point())
			require.NoError(t, err)
			defer d.Close()
			_, err = replication.Copy(ctx, d, i, replication.CopyOptions{})
			require.NoError(t, err)
			require.NoError(t, d.Close())
			require.Zero(t, x.twice, "opened while it was being closed")
			vm, keys, err := p.w.vm(r.ID)
			require.NoError(t, err)
			got := make([]byte, len(want))
			for n, id := range p.ids {
				for off := int64(0); off < 2*mib; off += 128 << 10 {
					_, err := vm.Read(keys[id], got, off)
					require.NoError(t, err)
					require.Equal(t, want, got, "disk %d at %d", n, off)
				}
			}
			require.LessOrEqual(t, p.sim.Traffic(vmwaretest.NBD).Peak, places)
		})
	}
}

// Whoever lists extents may use other disks meanwhile.
func TestExtentsHoldNoPlace(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, manyDisks(2), func(o *Options) { o.Total, o.Force = 1, true })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for off := int64(0); off < 2*mib; off += 128 << 10 {
		p.write(off, 1)
	}
	i := p.capture("p")
	n := 0
	for e, err := range i.Extents(ctx, p.ids[0]) {
		require.NoError(t, err)
		_, err = i.ReadAt(ctx, p.ids[1], make([]byte, 512), e.Off)
		require.NoError(t, err)
		n++
	}
	require.Greater(t, n, 16)
}

// hanging is a transport whose reads take until they are cancelled.
type hanging struct {
	Transport
	reading chan struct{}
}

func (h hanging) open(context.Context, *VSphere, diskRef, bool) (device, error) {
	return &hangingDevice{reading: h.reading}, nil
}

type hangingDevice struct {
	reading chan struct{}
	users   sync.WaitGroup
}

func (h *hangingDevice) ReadAt(ctx context.Context, _ []byte, _ int64) (int, error) {
	h.users.Add(1)
	defer h.users.Done()
	h.reading <- struct{}{}
	<-ctx.Done()
	return 0, ctx.Err()
}

func (h *hangingDevice) Close() error { h.users.Wait(); return nil }

// Close ends reads under way, waits for them, and may be called twice; what is
// closed says so.
func TestCloseWhileReading(t *testing.T) {
	reading := make(chan struct{})
	p := newPit(t, vmwaretest.Options{}, manyDisks(2), func(o *Options) { o.Transports[0] = hanging{o.Transports[0], reading} })
	i := p.capture("p")
	errs := make(chan error)
	for n := range 4 {
		go func() {
			_, err := i.ReadAt(context.Background(), p.ids[n%2], make([]byte, 512), 0)
			errs <- err
		}()
		<-reading
	}
	require.NoError(t, i.Close())
	for range 4 {
		err := <-errs
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.NotErrorIs(t, err, context.Canceled, "nobody cancelled it")
	}
	require.NoError(t, i.Close())
	_, err := i.ReadAt(context.Background(), p.ids[0], make([]byte, 512), 0)
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.Zero(t, len(p.v.limits.sets))
}

// lossy is a transport whose flushes fail.
type lossy struct{ Transport }

func (l lossy) open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error) {
	dev, err := l.Transport.open(ctx, v, d, write)
	if w, ok := dev.(writable); ok && err == nil {
		return lossyDevice{w}, nil
	}
	return dev, err
}

type lossyDevice struct{ writable }

func (lossyDevice) Flush(context.Context) error { return io.ErrClosedPipe }

// What a disk that made room could not keep is never committed.
func TestLostByMakingRoom(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, manyDisks(2), func(o *Options) { o.Transports[0], o.Total = lossy{o.Transports[0]}, 1 })
	point := p.point("p")
	r, err := p.v.Prepare(t.Context(), backend.Placement{Key: "k", Machine: point.Machine})
	require.NoError(t, err)
	d, err := p.v.Draft(t.Context(), r.ID, point)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), p.ids[0], make([]byte, 512), 0)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), p.ids[1], make([]byte, 512), 0)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	for range 2 {
		require.ErrorIs(t, d.Commit(t.Context(), point), io.ErrClosedPipe)
	}
	require.NoError(t, d.Close())
	require.ErrorIs(t, p.v.Start(t.Context(), r.ID), dr.ErrTorn)
}

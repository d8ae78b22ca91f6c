package vmware

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// transportRig is a vCenter with one machine, whose disk's bytes are known.
type transportRig struct {
	t     testing.TB
	sim   *vmwaretest.Simulator
	v     *VSphere
	vm    *vmwaretest.VM
	log   *logged
	want  []byte
	known *diskRef
}

// logged keeps what was logged, down to debug level.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newTransportRig(t testing.TB, o vmwaretest.Options, size int64, disks ...vmwaretest.DiskSpec) *transportRig {
	t.Helper()
	r := &transportRig{t: t, sim: vmwaretest.New(t, o), log: new(logged)}
	disks = append([]vmwaretest.DiskSpec{{Size: size}}, disks...)
	var err error
	r.vm, err = r.sim.AddVM(vmwaretest.VMSpec{Name: "web", Disks: disks})
	require.NoError(t, err)
	r.v, err = Open(context.Background(), Options{URL: r.sim.URL, Insecure: true, Force: true,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	require.NoError(t, err)
	t.Cleanup(func() { r.v.Close(context.Background()) })
	r.want = make([]byte, size)
	return r
}

// scatter writes bytes with holes between, and over grains' borders.
func (r *transportRig) scatter(seed int64) {
	r.t.Helper()
	rnd := rand.New(rand.NewSource(seed))
	for off := int64(0); off < int64(len(r.want)); {
		n := min(rnd.Int63n(300<<10)+1, int64(len(r.want))-off)
		p := make([]byte, n)
		rnd.Read(p)
		r.write(p, off)
		off += n + rnd.Int63n(2<<20)
	}
	end := []byte("the last bytes")
	r.write(end, int64(len(r.want)-len(end)))
}

func (r *transportRig) write(p []byte, off int64) {
	r.t.Helper()
	require.NoError(r.t, r.vm.WriteDisk(r.vm.Disks()[0], p, off))
	copy(r.want[off:], p)
}

func (r *transportRig) object() *object.VirtualMachine {
	return object.NewVirtualMachine(r.v.client, r.vm.Reference())
}

func (r *transportRig) snapshot(name string) types.ManagedObjectReference {
	r.t.Helper()
	task, err := r.object().CreateSnapshot(context.Background(), name, "", false, false)
	require.NoError(r.t, err)
	info, err := task.WaitForResult(context.Background())
	require.NoError(r.t, err)
	return info.Result.(types.ManagedObjectReference)
}

// ref is the machine's first disk, or that of a snapshot.
func (r *transportRig) ref(snapshot *types.ManagedObjectReference) diskRef {
	return r.refOf(snapshot, 0)
}

func (r *transportRig) refOf(snapshot *types.ManagedObjectReference, i int) diskRef {
	r.t.Helper()
	m, err := r.v.look(context.Background(), r.vm.Reference())
	require.NoError(r.t, err)
	disks := m.disks
	if snapshot != nil {
		var s mo.VirtualMachineSnapshot
		require.NoError(r.t, property.DefaultCollector(r.v.client).RetrieveOne(context.Background(), *snapshot, []string{"config.hardware.device"}, &s))
		disks = disksOf(s.Config.Hardware.Device, nil)
	}
	d := disks[i]
	return diskRef{machine: m.id, disk: d.id, vm: m.ref, host: *m.props.Runtime.Host, snapshot: snapshot, running: !m.off(),
		key: d.key, file: d.file, delta: d.delta, uuid: d.uuid, size: d.size,
		place: place{datacenter: "/DC0", datastore: d.datastore, kind: "VMFS"}}
}

func (r *transportRig) off() {
	r.t.Helper()
	require.NoError(r.t, r.vm.PowerOff())
}

func (r *transportRig) read(d device, off int64, n int) {
	r.t.Helper()
	p := make([]byte, n)
	got, err := d.ReadAt(context.Background(), p, off)
	require.NoError(r.t, err)
	require.Equal(r.t, n, got)
	require.True(r.t, bytes.Equal(r.want[off:off+int64(n)], p), "at %d", off)
}

// readAll reads the disk in pieces, several at once, in roughly ascending
// order.
func (r *transportRig) readAll(d device, piece, readers int) {
	r.t.Helper()
	offs := make(chan int64)
	errs := make(chan error, readers)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for range readers {
		go func() {
			var failed error
			p := make([]byte, piece)
			for off := range offs {
				part := p[:min(int64(piece), int64(len(r.want))-off)]
				if failed != nil {
					continue
				}
				if _, failed = d.ReadAt(ctx, part, off); failed == nil && !bytes.Equal(part, r.want[off:off+int64(len(part))]) {
					failed = fmt.Errorf("wrong bytes at %d", off)
				}
			}
			errs <- failed
		}()
	}
	for off := int64(0); off < int64(len(r.want)); off += int64(piece) {
		offs <- off
	}
	close(offs)
	for range readers {
		require.NoError(r.t, <-errs)
	}
}

// readRandom reads small ranges everywhere, unaligned.
func (r *transportRig) readRandom(d device, seed int64, count int) {
	r.t.Helper()
	rnd := rand.New(rand.NewSource(seed))
	for range count {
		n := rnd.Intn(100<<10) + 1
		r.read(d, rnd.Int63n(int64(len(r.want)-n)+1), n)
	}
}

// quiet checks at the end of a test that no goroutine is left that was begun
// since, once the connections that idle are closed.
func quiet(t testing.TB, r *transportRig) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		r.v.client.CloseIdleConnections()
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d at the beginning:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func (r *transportRig) open(t Transport, d diskRef, write bool) device {
	r.t.Helper()
	require.Empty(r.t, t.refuse(d, write))
	dev, err := t.open(context.Background(), r.v, d, write)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { dev.Close() })
	return dev
}

// drained checks what is true of every device: it can be closed twice, and
// ended contexts end calls.
func drained(t testing.TB, d device) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := d.ReadAt(ctx, make([]byte, 512), 0)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	_, err = d.ReadAt(context.Background(), make([]byte, 512), 0)
	require.Error(t, err, "a closed disk")
}

// benchmark reads 256 MiB, half of it zeros.
func benchmarkTransport(b *testing.B, off bool, open func(*transportRig, *types.ManagedObjectReference) device) {
	const size = 256 << 20
	r := newTransportRig(b, vmwaretest.Options{}, size)
	p := make([]byte, 64<<10)
	rnd := rand.New(rand.NewSource(1))
	for off := int64(0); off < size; off += 2 * int64(len(p)) {
		rnd.Read(p[:len(p)/2]) // half of it doesn't shrink
		r.write(p, off)
	}
	var snap *types.ManagedObjectReference
	if off {
		r.off()
	} else {
		s := r.snapshot("bench")
		snap = &s
	}
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		d := open(r, snap)
		r.readAll(d, 1<<20, 8)
		require.NoError(b, d.Close())
	}
}

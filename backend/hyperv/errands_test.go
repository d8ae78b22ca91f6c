package hyperv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// scribble is the guest, which writes n into some of its blocks.
func (w *world) scribble(vm *hypervtest.VM, n byte) {
	w.t.Helper()
	off := vm.Running()
	if !off {
		require.NoError(w.t, vm.Start())
	}
	for i, d := range vm.Disks() {
		for _, at := range []int64{int64(n%2) << 16, 100<<10 + int64(i)<<12} {
			require.NoError(w.t, vm.Write(d.VirtualDiskID, bytes.Repeat([]byte{n}, 3000), at))
		}
	}
	if !off {
		vm.PowerOff()
	}
	if vm == w.vm {
		w.now = contentOf(w.t, vm)
	}
}

// keep captures a point and releases it.
func (w *world) keep(name dr.PointID) {
	w.t.Helper()
	require.NoError(w.t, w.capture(context.Background(), w.id, name, dr.CrashConsistent, "", w.now))
	require.NoError(w.t, w.v.Release(context.Background(), w.id, name))
}

// capture reads a point whole, or what has changed since another, and compares
// it with what it may be.
func (w *world) capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency, since dr.PointID, may ...content) error {
	img, err := w.v.Capture(ctx, id, name, want)
	if err != nil {
		return err
	}
	defer img.Close()
	got := content{}.grown(w.disks)
	if since != "" {
		got = w.points[since].bytes.grown(w.disks)
	}
	for i, d := range w.disks {
		parts := []dr.Extent{{Len: d.Size}}
		if since != "" {
			parts = nil
			for x, err := range img.(dr.ChangeTracker).Changes(ctx, d.ID, w.points[since].Point) {
				if errors.Is(err, dr.ErrChangesLost) {
					require.Empty(w.t, parts, "%s: changes are lost amid the answer", w.what)
					if !w.f.struck {
						return err
					}
					x, err = dr.Extent{Len: d.Size}, nil
				}
				if err != nil {
					return err
				}
				parts = append(parts, x)
			}
		}
		for _, x := range parts {
			if _, err := img.ReadAt(ctx, d.ID, got[i][x.Off:x.End()], x.Off); err != nil && err != io.EOF {
				return err
			}
		}
	}
	require.True(w.t, slices.ContainsFunc(may, got.equal), "%s: point %s of %s holds other bytes than it should", w.what, name, id)
	w.points[name] = point{img.Point(), got}
	return nil
}

func (w *world) placement() backend.Placement {
	m := dr.Machine{ID: "elsewhere", Name: "web", Disks: w.disks, Firmware: dr.UEFI, CPUs: 2, Memory: 2 << 30, NICs: []dr.NIC{{ID: "nic0", Network: "production"}}}
	return backend.Placement{Key: "errand", Machine: m}
}

// prepare prepares w.far, by its key or as an original.
func (w *world) prepare(ctx context.Context) (backend.Replica, error) {
	p := w.placement()
	if w.far == w.id {
		p = backend.Placement{Original: w.id, Machine: dr.Machine{Disks: w.disks}}
	}
	r, err := w.v.Prepare(ctx, p)
	if err == nil {
		if w.far != "" {
			require.Equal(w.t, w.far, r.ID, w.what)
		}
		w.far = r.ID
	}
	return r, err
}

// fill brings w.far to a point as replication does: over what it holds only what
// differs, else what sums tell.
func (w *world) fill(ctx context.Context, p point) error {
	r, err := w.prepare(ctx)
	if err != nil {
		return err
	}
	if r.Holds == p.ID { // it had come to its end
		require.True(w.t, w.farContent().equal(p.bytes), "%s: it says that it holds %s", w.what, p.ID)
		return nil
	}
	base, known := w.points[r.Holds]
	if r.Holds != "" {
		require.True(w.t, known && w.farContent().equal(base.bytes), "%s: it says that it holds %s", w.what, r.Holds)
	}
	d, err := w.v.Draft(ctx, r.ID, p.Point)
	if err != nil {
		return err
	}
	defer d.Close()
	for i, disk := range w.disks {
		for off := int64(0); off < disk.Size; off += dr.SumBlock {
			b := p.bytes[i][off:min(off+dr.SumBlock, disk.Size)]
			if known && r.Holds != "" {
				if bytes.Equal(b, base.bytes[i][off:off+int64(len(b))]) {
					continue
				}
			} else {
				sums := make([]dr.Sum, 1)
				if err := d.(dr.Summer).Sums(ctx, disk.ID, off, sums); err != nil {
					return err
				}
				if sums[0] == blocksum.Sum(b) {
					continue
				}
			}
			if bytes.Count(b, []byte{0}) == len(b) {
				err = d.(dr.Zeroer).Zero(ctx, disk.ID, off, int64(len(b)))
			} else {
				_, err = d.WriteAt(ctx, disk.ID, b, off)
			}
			if err != nil {
				return err
			}
		}
	}
	return d.Commit(ctx, p.Point)
}

func (w *world) farVM() *hypervtest.VM {
	w.t.Helper()
	vm, err := w.s.vm(w.far)
	require.NoError(w.t, err, w.what)
	return vm
}

func (w *world) farContent() content { return contentOf(w.t, w.farVM()) }

// holds sees that w.far holds a point, and is one that changes can be told since.
func (w *world) holds(p point) {
	w.t.Helper()
	ctx := context.Background()
	r, err := w.prepare(ctx)
	require.NoError(w.t, err, w.what)
	require.Equal(w.t, backend.Replica{ID: w.far, Holds: p.ID}, r, w.what)
	require.True(w.t, w.farContent().equal(p.bytes), "%s: its bytes are not the point's", w.what)
	w.points[p.ID] = p
}

// elsewhere makes a point of another machine.
func (w *world) elsewhere(name dr.PointID, bytes content) point {
	p := point{dr.Point{ID: name, Machine: w.placement().Machine, Consistency: dr.CrashConsistent}, bytes}
	w.points[name] = p
	return p
}

// pattern is a content that is partly zero.
func (w *world) pattern(n byte) content {
	c := content{}.grown(w.disks)
	for i := range c {
		for at := range c[i] {
			if at>>16%3 != int(n%3) {
				c[i][at] = n + byte(at>>12)
			}
		}
	}
	return c
}

// replica makes one that holds p1.
func (w *world) replica() {
	p := w.elsewhere("p1", w.pattern(1))
	require.NoError(w.t, w.fill(context.Background(), p))
	w.whole = append(w.whole, p.bytes)
}

// tear leaves w.far torn, as a draft does that was cut off.
func (w *world) tear() {
	ctx := context.Background()
	p := w.elsewhere("cut", w.pattern(9))
	d, err := w.v.Draft(ctx, w.far, p.Point)
	require.NoError(w.t, err)
	_, err = d.WriteAt(ctx, "os", p.bytes[0][:1000], 0)
	require.NoError(w.t, err)
	require.NoError(w.t, d.Close())
}

func (w *world) once(checkpoints int) {
	w.t.Helper()
	require.Len(w.t, w.vm.Snapshots(), checkpoints, w.what)
}

// errands are all that is asked of the backend.
var errands = []errand{
	{
		name: "capture a running machine",
		stage: func(w *world) {
			require.NoError(w.t, w.vm.Start())
			w.scribble(w.vm, 1)
		},
		do: func(ctx context.Context, w *world) error {
			was := w.now
			if w.tries > 1 {
				was = w.whole[0]
			} else {
				w.whole = []content{w.now}
			}
			err := w.capture(ctx, w.id, "p1", dr.CrashConsistent, "", was, w.now)
			if err != nil {
				w.scribble(w.vm, 3)
			}
			return err
		},
		check: func(w *world) { w.once(1); w.released("p1") },
	},
	{
		name:  "capture a stopped machine",
		stage: func(w *world) { w.scribble(w.vm, 1) },
		do: func(ctx context.Context, w *world) error {
			return w.capture(ctx, w.id, "p1", dr.CrashConsistent, "", w.now)
		},
		check: func(w *world) { w.once(1); w.released("p1") },
	},
	{
		name: "capture a Windows machine consistently",
		stage: func(w *world) {
			w.vm.SetGuest(func(g *hypervtest.Guest) { g.Facts = map[string]string{"OSName": "Windows Server 2022"} })
			require.NoError(w.t, w.vm.Start())
			w.scribble(w.vm, 1)
		},
		do: func(ctx context.Context, w *world) error {
			return w.capture(ctx, w.id, "p1", dr.ApplicationConsistent, "", w.now)
		},
		check: func(w *world) {
			w.once(1)
			if !w.f.way.job && !w.f.way.denied { // else the guest might have failed
				require.Equal(w.t, dr.ApplicationConsistent, w.points["p1"].Consistency, w.what)
			}
			w.released("p1")
		},
	},
	{
		name: "capture and read what has changed",
		stage: func(w *world) {
			require.NoError(w.t, w.vm.Start())
			w.scribble(w.vm, 1)
			w.keep("p1")
			w.scribble(w.vm, 2)
		},
		do: func(ctx context.Context, w *world) error {
			return w.capture(ctx, w.id, "p2", dr.CrashConsistent, "p1", w.now)
		},
		check: func(w *world) { w.once(1); w.released("p2") },
	},
	{
		name: "release",
		stage: func(w *world) {
			require.NoError(w.t, w.vm.Start())
			w.scribble(w.vm, 1)
			require.NoError(w.t, w.capture(context.Background(), w.id, "p1", dr.CrashConsistent, "", w.now))
			w.scribble(w.vm, 2)
		},
		do:    func(ctx context.Context, w *world) error { return w.v.Release(ctx, w.id, "p1") },
		check: func(w *world) { w.once(0); w.tracks("p1") },
	},
	{
		name: "sweep",
		stage: func(w *world) {
			require.NoError(w.t, w.vm.Start())
			for _, p := range []dr.PointID{"p1", "p2", "p3"} {
				w.scribble(w.vm, 1)
				require.NoError(w.t, w.capture(context.Background(), w.id, p, dr.CrashConsistent, "", w.now))
			}
		},
		do: func(ctx context.Context, w *world) error {
			_, err := w.v.Sweep(ctx, w.id, func(p dr.PointID) bool { return p == "p2" })
			return err
		},
		check: func(w *world) {
			w.once(1)
			require.NoError(w.t, w.capture(context.Background(), w.id, "p2", dr.CrashConsistent, "", w.points["p2"].bytes))
			w.released("p2")
		},
	},
	{
		name: "forget",
		stage: func(w *world) {
			require.NoError(w.t, w.vm.Start())
			for _, p := range []dr.PointID{"p1", "p2", "p3"} {
				w.scribble(w.vm, 1)
				w.keep(p)
			}
		},
		do: func(ctx context.Context, w *world) error { return w.v.Forget(ctx, w.id, "p3") },
		check: func(w *world) {
			require.Len(w.t, w.vm.ReferencePoints(), 1, w.what)
			w.tracks("p3")
		},
	},
	{
		name:  "prepare a new machine",
		stage: func(w *world) { w.whole = []content{content{}.grown(w.disks)} },
		do: func(ctx context.Context, w *world) error {
			_, err := w.prepare(ctx)
			if err != nil && w.far == "" {
				w.seek()
			}
			return err
		},
		check: func(w *world) {
			r, err := w.prepare(context.Background())
			require.NoError(w.t, err, w.what)
			if len(w.whole) == 1 { // no person wrote
				require.Equal(w.t, backend.Replica{ID: w.far, New: r.New || !w.ran}, r, w.what)
				require.True(w.t, w.farContent().equal(w.whole[0]), w.what)
			} else {
				require.Equal(w.t, backend.Replica{ID: w.far}, r, w.what)
			}
			w.furnished()
			w.removed()
		},
	},
	{
		name:  "prepare again",
		stage: func(w *world) { w.replica() },
		do: func(ctx context.Context, w *world) error {
			r, err := w.prepare(ctx)
			if err == nil && len(w.whole) == 1 {
				require.Equal(w.t, dr.PointID("p1"), r.Holds, w.what)
			}
			return err
		},
		check: func(w *world) { w.furnished(); w.removed() },
	},
	{
		name: "prepare grown, with one disk more",
		stage: func(w *world) {
			w.replica()
			w.disks = append(slices.Clone(w.disks), dr.Disk{ID: "log", Size: 64 << 10})
			w.disks[1].Size += 128 << 10
			w.whole = append(w.whole, w.whole[0].grown(w.disks))
			// Of which not all may be there yet.
			w.whole = append(w.whole, w.whole[0].grown(w.disks[:2]))
		},
		do: func(ctx context.Context, w *world) error {
			r, err := w.prepare(ctx)
			if err == nil {
				require.Empty(w.t, r.Holds, w.what)
			}
			return err
		},
		check: func(w *world) {
			got := w.farContent()
			require.True(w.t, slices.ContainsFunc(w.whole, func(c content) bool { return c.grown(w.disks).equal(got) }), w.what)
			w.furnished()
			w.removed()
		},
	},
	{
		name:  "prepare an original",
		stage: func(w *world) { w.original() },
		do: func(ctx context.Context, w *world) error {
			r, err := w.prepare(ctx)
			if err == nil && len(w.whole) == 1 {
				require.Equal(w.t, dr.PointID("p1"), r.Holds, w.what)
			}
			return err
		},
	},
	{
		name:  "fill a new machine",
		stage: func(w *world) { w.whole = []content{w.pattern(2), content{}.grown(w.disks)} },
		do: func(ctx context.Context, w *world) error {
			err := w.fill(ctx, w.elsewhere("p2", w.pattern(2)))
			if err != nil && w.far == "" {
				w.seek()
			}
			return err
		},
		check: func(w *world) { w.filled() },
	},
	{
		name:  "bring a replica to the next point",
		stage: func(w *world) { w.replica(); w.whole = append(w.whole, w.pattern(2)) },
		do:    func(ctx context.Context, w *world) error { return w.fill(ctx, w.elsewhere("p2", w.pattern(2))) },
		check: func(w *world) { w.filled() },
	},
	{
		name:  "bring an original to a point",
		stage: func(w *world) { w.original(); w.whole = append(w.whole, w.pattern(2)) },
		do:    func(ctx context.Context, w *world) error { return w.fill(ctx, w.elsewhere("p2", w.pattern(2))) },
		check: func(w *world) { w.filled() },
	},
	{
		name: "fill a torn original whose checkpoint was released",
		stage: func(w *world) {
			w.original()
			require.NoError(w.t, w.capture(context.Background(), w.id, "p1b", dr.CrashConsistent, "", w.now))
			w.tear()
			require.NoError(w.t, w.v.Release(context.Background(), w.id, "p1b"))
			w.whole = []content{w.pattern(2)}
		},
		do: func(ctx context.Context, w *world) error { return w.fill(ctx, w.elsewhere("p2", w.pattern(2))) },
		check: func(w *world) {
			w.filled()
			_, err := w.v.Sweep(context.Background(), w.id, func(dr.PointID) bool { return false })
			require.NoError(w.t, err, w.what)
			w.once(0)
		},
	},
	{
		name:  "start",
		stage: func(w *world) { w.replica() },
		do:    func(ctx context.Context, w *world) error { return w.v.Start(ctx, w.far) },
		check: func(w *world) {
			require.True(w.t, w.farVM().Running(), w.what)
			require.NoError(w.t, w.v.Stop(context.Background(), w.far))
			r, err := w.prepare(context.Background())
			require.NoError(w.t, err, w.what)
			require.Equal(w.t, backend.Replica{ID: w.far}, r, w.what)
			w.removed()
		},
	},
	{
		name:  "stop",
		stage: func(w *world) { w.replica(); require.NoError(w.t, w.v.Start(context.Background(), w.far)) },
		do:    func(ctx context.Context, w *world) error { return w.v.Stop(ctx, w.far) },
		check: func(w *world) { require.False(w.t, w.farVM().Running(), w.what) },
	},
	{
		name:  "shut down",
		stage: func(w *world) { require.NoError(w.t, w.vm.Start()) },
		do:    func(ctx context.Context, w *world) error { return w.v.Shutdown(ctx, w.id) },
		check: func(w *world) { require.False(w.t, w.vm.Running(), w.what) },
	},
	{
		name:  "remove",
		stage: func(w *world) { w.replica() },
		do:    remove,
		check: gone,
	},
	{
		name:  "remove a torn replica",
		stage: func(w *world) { w.replica(); w.whole = nil; w.tear() },
		do:    remove,
		check: gone,
	},
	{
		name: "remove a running machine with captures",
		stage: func(w *world) {
			ctx := context.Background()
			w.replica()
			require.NoError(w.t, w.v.Start(ctx, w.far))
			for i, p := range []dr.PointID{"c1", "c2"} {
				w.scribble(w.farVM(), byte(4+i))
				require.NoError(w.t, w.capture(ctx, w.far, p, dr.CrashConsistent, "", w.farContent()))
			}
			w.scribble(w.farVM(), 6)
			w.whole = []content{w.farContent()}
		},
		do:    remove,
		check: gone,
	},
}

func remove(ctx context.Context, w *world) error { return w.v.Remove(ctx, w.far) }

func gone(w *world) {
	_, err := w.s.vm(w.far)
	require.Error(w.t, err, w.what)
	for _, s := range w.inventory() {
		require.NotContains(w.t, s, "file hv1/c/users", w.what)
	}
}

// seek finds the machine that a prepare which failed has made.
func (w *world) seek() {
	w.t.Helper()
	for _, s := range w.h.Inventory() {
		var id string
		if _, err := fmt.Sscanf(s, "vm %s", &id); err == nil {
			if vm, err := w.s.vm(dr.MachineID(id)); err == nil && vm != w.vm {
				require.Empty(w.t, w.far, "%s: two machines were made", w.what)
				w.far = dr.MachineID(strings.ToLower(id))
			}
		}
	}
}

// furnished sees that w.far has every disk and card once.
func (w *world) furnished() {
	w.t.Helper()
	d, err := w.v.Machine(context.Background(), w.far)
	require.NoError(w.t, err, w.what)
	require.Len(w.t, d.Disks, len(w.disks), w.what)
	require.Len(w.t, d.NICs, 1, w.what)
	require.Equal(w.t, "production", d.NICs[0].Network, w.what)
	require.Equal(w.t, 2, d.CPUs, w.what)
	require.Equal(w.t, int64(2<<30), d.Memory, w.what)
	for i, x := range w.disks {
		require.Equal(w.t, x.ID, d.Disks[i].ID, w.what)
		require.Equal(w.t, x.Size, d.Disks[i].Size, w.what)
	}
}

// removed takes w.far away: with everything.
func (w *world) removed() {
	w.t.Helper()
	require.NoError(w.t, w.v.Remove(context.Background(), w.far), w.what)
	gone(w)
}

// original makes somebody's machine the target, which holds p1.
func (w *world) original() {
	w.scribble(w.vm, 1)
	w.keep("p1")
	w.far, w.whole = w.id, []content{w.now}
	w.holds(w.points["p1"])
}

// filled sees that w.far holds p2, and goes on from there.
func (w *world) filled() {
	w.t.Helper()
	ctx := context.Background()
	w.holds(w.points["p2"])
	require.NoError(w.t, w.v.Start(ctx, w.far), w.what)
	vm := w.farVM()
	w.scribble(vm, 7)
	require.NoError(w.t, w.capture(ctx, w.far, "p3", dr.CrashConsistent, "p2", contentOf(w.t, vm)), w.what)
	require.NoError(w.t, w.v.Release(ctx, w.far, "p3"), w.what)
}

// released sees that a point can be let go, and that changes are told since.
func (w *world) released(p dr.PointID) {
	w.t.Helper()
	require.NoError(w.t, w.v.Release(context.Background(), w.id, p), w.what)
	w.once(0)
	w.tracks(p)
}

// tracks sees that changes since a point are told, and are right.
func (w *world) tracks(p dr.PointID) {
	w.t.Helper()
	ctx := context.Background()
	if !w.vm.Running() {
		require.NoError(w.t, w.vm.Start())
	}
	w.scribble(w.vm, 5)
	require.NoError(w.t, w.capture(ctx, w.id, "later", dr.CrashConsistent, p, w.now), w.what)
	require.NoError(w.t, w.v.Release(ctx, w.id, "later"), w.what)
}

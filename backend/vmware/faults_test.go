package vmware

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

var everyFault = flag.Bool("faults", false, "fail every call of vSphere in every way, not a sample of them")

// ways are how a call can fail.
var ways = map[string]vmwaretest.Fault{
	"before its effect":   {When: vmwaretest.BeforeEffect},
	"after its effect":    {When: vmwaretest.AfterEffect},
	"its task fails":      {When: vmwaretest.InsteadOfTask},
	"its task fails late": {When: vmwaretest.AfterTask},
	"answer lost":         {When: vmwaretest.AfterEffect, Drop: true},
}

// errand is what a machine goes through: it is captured, its changes are
// followed, a replica is made, filled, started and removed. Each step is tried
// again when it fails, as an engine does.
type errand struct {
	t    *testing.T
	w    *vcenter
	v    *VSphere
	vm   *vmwaretest.VM
	id   dr.MachineID
	key  string
	want map[dr.DiskID][]byte
	got  map[dr.DiskID][]byte
	p1   dr.Point
	p2   dr.Point
	far  dr.MachineID
}

func (e *errand) steps() []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error {
			return e.capture(ctx, "p1", dr.Point{}, &e.p1)
		},
		func(ctx context.Context) error { return e.v.Release(ctx, e.id, "p1") },
		func(ctx context.Context) error {
			e.scribble()
			return e.capture(ctx, "p2", e.p1, &e.p2)
		},
		func(ctx context.Context) error { return e.v.Release(ctx, e.id, "p2") },
		func(ctx context.Context) error {
			r, err := e.prepare(ctx)
			e.far = r.ID
			return err
		},
		e.fill,
		func(ctx context.Context) error {
			r, err := e.prepare(ctx)
			if err == nil && r.Holds != "p2" {
				return fmt.Errorf("it holds %q", r.Holds)
			}
			return err
		},
		func(ctx context.Context) error { return e.v.Start(ctx, e.far) },
		func(ctx context.Context) error { return e.v.Stop(ctx, e.far) },
		func(ctx context.Context) error { return e.v.Remove(ctx, e.far) },
	}
}

// scribble is the guest, writing something once.
func (e *errand) scribble() {
	if e.p2.ID != "" || e.want["a"][0] == 2 {
		return
	}
	for i, d := range []dr.DiskID{"a", "b"} {
		p := []byte{2, 3, 4}
		require.NoError(e.t, e.vm.Write(e.vm.Disks()[i], p, 0))
		copy(e.want[d], p)
	}
}

func (e *errand) capture(ctx context.Context, name dr.PointID, since dr.Point, p *dr.Point) error {
	img, err := e.v.Capture(ctx, e.id, name, dr.CrashConsistent)
	if err != nil {
		return err
	}
	defer img.Close()
	for disk, b := range e.got {
		tracked := []dr.Extent{{Len: int64(len(b))}}
		if since.ID != "" {
			tracked = nil
			for x, err := range img.(dr.ChangeTracker).Changes(ctx, disk, since) {
				if errors.Is(err, dr.ErrChangesLost) {
					x, err = dr.Extent{Len: int64(len(b))}, nil // then everything is read
				}
				if err != nil {
					return err
				}
				tracked = append(tracked, x)
			}
		}
		for _, x := range tracked {
			if _, err := img.ReadAt(ctx, disk, b[x.Off:x.End()], x.Off); err != nil && err != io.EOF {
				return err
			}
		}
	}
	*p = img.Point()
	return nil
}

func (e *errand) prepare(ctx context.Context) (backend.Replica, error) {
	return e.v.Prepare(ctx, backend.Placement{Key: e.key, Machine: e.p2.Machine})
}

func (e *errand) fill(ctx context.Context) error {
	d, err := e.v.Draft(ctx, e.far, e.p2)
	if err != nil {
		return err
	}
	defer d.Close()
	for disk, b := range e.got {
		if _, err := d.WriteAt(ctx, disk, b, 0); err != nil {
			return err
		}
	}
	if err := e.v.Start(ctx, e.far); !errors.Is(err, dr.ErrTorn) {
		// It fails for the fault, or because of the torn disks; it may not work.
		vm, _, known := e.w.vm(e.far)
		if known == nil && vm.Running() {
			e.t.Errorf("a machine with torn disks was started: %v", err)
		}
	}
	return d.Commit(ctx, e.p2)
}

// Each call of vSphere fails, one after the other: a step that is tried again
// comes to the end, nothing is left behind, and nothing torn is started.
func TestEveryCallFails(t *testing.T) {
	w := newVCenter(t, vmwaretest.Options{})
	h := w.harness(t)
	seed := *seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	// Without a fault, to know how many calls there are.
	before := w.sim.Calls("")
	require.False(t, w.errand(t, h, vmwaretest.Fault{Nth: math.MaxInt}, "without a fault"))
	calls := w.sim.Calls("") - before
	type failure struct {
		way string
		n   int
	}
	var all []failure
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		for n := 1; n <= calls; n++ {
			all = append(all, failure{way, n})
		}
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	switch {
	case testing.Short():
		all = all[:8]
	case !*everyFault:
		all = all[:30]
	}
	hits := 0
	for _, x := range all {
		f := ways[x.way]
		f.Nth = x.n
		if w.errand(t, h, f, fmt.Sprintf("%s, call %d of %d (seed %d)", x.way, x.n, calls, seed)) {
			hits++
		}
	}
	t.Logf("seed %d: %d calls, %d errands, %d with a call that failed", seed, calls, len(all), hits)
	require.Greater(t, hits, len(all)/4)
}

// errand runs one with a fault, and tells whether that struck.
func (w *vcenter) errand(t *testing.T, h backendtest.Harness, f vmwaretest.Fault, what string) bool {
	t.Helper()
	ctx := t.Context()
	v := h.Backend.(*VSphere)
	disks := []dr.Disk{{ID: "a", Size: 256 << 10}, {ID: "b", Size: 64 << 10}}
	id, err := h.Machine(t, disks)
	require.NoError(t, err)
	require.NoError(t, h.Power(id, dr.On))
	vm, _, err := w.vm(id)
	require.NoError(t, err)
	e := &errand{t: t, w: w, v: v, vm: vm, id: id, key: uuid.NewString(), want: map[dr.DiskID][]byte{}, got: map[dr.DiskID][]byte{}}
	for i, d := range disks {
		e.want[d.ID], e.got[d.ID] = bytes.Repeat([]byte{1}, int(d.Size)), make([]byte, d.Size)
		require.NoError(t, vm.Write(vm.Disks()[i], e.want[d.ID], 0))
	}
	before, err := w.inventory(v)
	require.NoError(t, err)
	armed := w.sim.Fault(f)
	defer armed.Remove()
	for i, step := range e.steps() {
		for try := 1; ; try++ {
			err := step(ctx)
			if err == nil {
				break
			}
			require.Less(t, try, 4, "%s: step %d: %v", what, i, err)
		}
		if i >= 3 {
			roundtriptest.Same(t, e.want, e.got, what)
		}
		if i == 5 { // filled
			roundtriptest.Same(t, e.want, roundtriptest.End{Harness: h}.Content(t, e.far, disks), what)
		}
	}
	struck := armed.Hits() > 0
	armed.Remove()
	after, err := w.inventory(v)
	require.NoError(t, err)
	require.Equal(t, before, after, what)
	require.NoError(t, vm.PowerOff())
	m, err := v.find(ctx, id)
	require.NoError(t, err)
	_, err = v.run(ctx, func() (*object.Task, error) { return object.NewVirtualMachine(v.client, m.ref).Destroy(ctx) })
	require.NoError(t, err)
	return struck
}

package hyperv

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// pit is a machine on a host where something goes wrong.
type pit struct {
	t   testing.TB
	s   *site
	h   *hypervtest.Host
	v   *HyperV
	vm  *hypervtest.VM
	id  dr.MachineID
	ids []dr.DiskID // of the disks, in the order of the machine's specification

	*life
}

// life is a process's. Every call of a dead one fails.
type life struct {
	mu   sync.Mutex
	dead error
}

func newPit(t testing.TB, o hypervtest.Options, spec hypervtest.VMSpec) *pit {
	t.Helper()
	p := &pit{t: t, s: newSite(t, o), life: &life{}}
	p.h = p.s.nodes[0]
	p.watch()
	p.v = p.s.connect()
	p.add(spec)
	return p
}

// newCluster is newPit with two nodes; the machine is on the first.
func newCluster(t testing.TB, spec hypervtest.VMSpec) *pit {
	t.Helper()
	p := &pit{t: t, s: siteOf(t, hypervtest.NewCluster(t, 2, hypervtest.Options{})...), life: &life{}}
	p.h = p.s.nodes[0]
	p.watch()
	p.v = p.s.connect()
	p.add(spec)
	return p
}

// add makes another machine the one that is meant, and starts it.
func (p *pit) add(spec hypervtest.VMSpec) {
	p.t.Helper()
	if spec.Name == "" {
		spec.Name = "web"
	}
	if spec.Disks == nil {
		spec.Disks = []hypervtest.DiskSpec{{Size: 4 * mib}}
	}
	vm, err := p.h.AddVM(spec)
	require.NoError(p.t, err)
	p.is(vm)
	require.NoError(p.t, vm.Start())
}

func (p *pit) is(vm *hypervtest.VM) {
	p.vm, p.id, p.ids = vm, dr.MachineID(strings.ToLower(vm.ID())), nil
	for _, d := range vm.Disks() {
		p.ids = append(p.ids, dr.DiskID(strings.ToLower(d.VirtualDiskID)))
	}
}

// watch lets a test kill the process at a call.
func (p *pit) watch() {
	for _, h := range p.s.nodes {
		h.Fail(func(hypervtest.Call) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.dead
		})
	}
}

var errDied = errors.New("the process died")

// dieAt lets the process die at the n-th call of that name from now on, or of
// any name, before or behind its effect. Whether it came to that is told by died.
func (p *pit) dieAt(n int, name string, after bool) (died func() bool) {
	seen, chosen := 0, 0
	undo := p.h.Fail(func(c hypervtest.Call) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !c.After && p.dead == nil && (name == "" || c.Name() == name) {
			if seen++; seen == n {
				chosen = c.N
			}
		}
		if c.N == chosen && c.After == after {
			p.dead = errDied
		}
		return p.dead
	})
	return func() bool {
		undo()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.dead != nil
	}
}

// sides are those of a call's effect at which a process may die. A short run has
// one, as most calls have none.
func sides() []bool { return []bool{false, true}[btoi(testing.Short()):] }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// reborn is the next process.
func (p *pit) reborn() {
	p.t.Helper()
	p.s.kill()
	p.mu.Lock()
	p.dead = nil
	p.mu.Unlock()
	p.v = p.s.connect()
}

func (p *pit) look() *machine {
	p.t.Helper()
	m, err := p.v.find(context.Background(), p.id)
	require.NoError(p.t, err)
	return m
}

func (p *pit) write(off int64, b byte) {
	p.t.Helper()
	require.NoError(p.t, p.vm.Write(string(p.ids[0]), bytes.Repeat([]byte{b}, 512), off))
}

// first is the first byte of a disk at an offset, as the machine sees it.
func (p *pit) first(disk int, off int64) byte {
	p.t.Helper()
	b := make([]byte, 1)
	require.NoError(p.t, p.vm.Read(string(p.ids[disk]), b, off))
	return b[0]
}

// capture captures a point, and closes the image with the test.
func (p *pit) capture(name dr.PointID) *image {
	p.t.Helper()
	return p.wanting(name, dr.CrashConsistent)
}

func (p *pit) wanting(name dr.PointID, want dr.Consistency) *image {
	p.t.Helper()
	i, err := p.v.Capture(context.Background(), p.id, name, want)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = i.Close() })
	return i.(*image)
}

// point captures a point and lets go of the checkpoint.
func (p *pit) point(name dr.PointID) dr.Point {
	p.t.Helper()
	i := p.capture(name)
	require.NoError(p.t, i.Close())
	p.release(name)
	return i.Point()
}

func (p *pit) release(name dr.PointID) {
	p.t.Helper()
	require.NoError(p.t, p.v.Release(context.Background(), p.id, name))
}

// changes lists the blocks of the first disk that changed.
func (p *pit) changes(i *image, since dr.Point) (blocks []int64, err error) {
	for e, err := range i.Changes(context.Background(), p.ids[0], since) {
		if err != nil {
			return blocks, err
		}
		for off := e.Off &^ (64<<10 - 1); off < e.End(); off += 64 << 10 {
			blocks = append(blocks, off)
		}
	}
	return blocks, nil
}

func (p *pit) requireLost(i *image, since dr.Point) {
	p.t.Helper()
	some, err := p.changes(i, since)
	require.ErrorIs(p.t, err, dr.ErrChangesLost)
	require.Empty(p.t, some, "a loss that comes late has let a gap through")
}

func (p *pit) requireChanged(i *image, since dr.Point, want ...int64) {
	p.t.Helper()
	some, err := p.changes(i, since)
	require.NoError(p.t, err)
	require.Equal(p.t, want, some)
}

// fill writes the first bytes of every disk and commits.
func (p *pit) fill(id dr.MachineID, point dr.Point, b byte) error {
	ctx := context.Background()
	d, err := p.v.Draft(ctx, id, point)
	if err != nil {
		return err
	}
	for _, disk := range point.Machine.Disks {
		if _, err := d.WriteAt(ctx, disk.ID, bytes.Repeat([]byte{b}, 512), 0); err != nil {
			return errors.Join(err, d.Close())
		}
	}
	return errors.Join(d.Commit(ctx, point), d.Close())
}

// described is a point of the machine as it is, which nobody captured.
func (p *pit) described(name dr.PointID) dr.Point {
	p.t.Helper()
	m, err := p.v.Machine(context.Background(), p.id)
	require.NoError(p.t, err)
	return dr.Point{ID: name, Machine: m}
}

func (p *pit) prepared(m dr.Machine) backend.Replica {
	p.t.Helper()
	r, err := p.v.Prepare(context.Background(), backend.Placement{Original: p.id, Machine: m})
	require.NoError(p.t, err)
	return r
}

func (p *pit) problems() map[string]backend.Problem {
	p.t.Helper()
	all, err := p.v.Preflight(context.Background(), p.id)
	require.NoError(p.t, err)
	out := map[string]backend.Problem{}
	for _, x := range all {
		out[x.Code] = x
		require.NotEmpty(p.t, x.Remedy, x.Code)
	}
	return out
}

// requireError tells that an error says where, and what to do.
func requireError(t testing.TB, err, is error, words string) {
	t.Helper()
	require.ErrorIs(t, err, is)
	require.ErrorContains(t, err, words)
	var e *dr.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Machine)
	require.NotEmpty(t, e.Remedy, "%v", err)
}

// twisted is a connection whose answers a test changes.
type twisted struct {
	host.Conn
	twist func(o host.Object) (host.Object, error)
}

func (c twisted) Get(ctx context.Context, path host.Ref) (host.Object, error) {
	o, err := c.Conn.Get(ctx, path)
	if err != nil {
		return o, err
	}
	return c.twist(o)
}

func (c twisted) all(in []host.Object, err error) ([]host.Object, error) {
	for i := range in {
		if err == nil {
			in[i], err = c.twist(in[i])
		}
	}
	return in, err
}

func (c twisted) Query(ctx context.Context, wql string) ([]host.Object, error) {
	return c.all(c.Conn.Query(ctx, wql))
}

func (c twisted) Associators(ctx context.Context, path host.Ref, assoc, result string) ([]host.Object, error) {
	return c.all(c.Conn.Associators(ctx, path, assoc, result))
}

// twist changes what the host answers about objects of a class.
func (p *pit) twist(class string, f func(host.Object) (host.Object, error)) (undo func()) {
	was := p.v.nodes[0].conn
	p.v.nodes[0].conn = twisted{was, func(o host.Object) (host.Object, error) {
		if o.Class != class {
			return o, nil
		}
		o.Props = maps.Clone(o.Props)
		return f(o)
	}}
	return func() { p.v.nodes[0].conn = was }
}

const mib = int64(1) << 20

// Each fact of Hyper-V that has cost somebody data, or could, with what keeps
// this package out of it.
func TestPitfalls(t *testing.T) {
	t.Run("names", pitfallsOfNames)
	t.Run("tracking", pitfallsOfTracking)
	t.Run("checkpoints", pitfallsOfCheckpoints)
	t.Run("guests", pitfallsOfGuests)
	t.Run("jobs", pitfallsOfJobs)
	t.Run("torn", pitfallsOfTornDisks)
	t.Run("machines", pitfallsOfMachines)
}

package vmware

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// An original with snapshots of somebody else's is refused, by their names, and
// not touched.
func TestForeignSnapshotsRefuseByName(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	point := p.point("p")
	_, err := p.vm.AddSnapshot("before the update", "by hand")
	require.NoError(t, err)
	_, err = p.v.Prepare(t.Context(), backend.Placement{Original: p.id, Machine: point.Machine})
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.ErrorContains(t, err, `"before the update"`)
	require.ErrorContains(t, err, "remove the snapshots")
	_, err = p.v.Draft(t.Context(), p.id, point)
	require.ErrorContains(t, err, `"before the update"`)
	require.Equal(t, 1, p.vm.Snapshots())
}

// behind serves disks in a way that change tracking doesn't see: what was
// written is in no epoch that goes on.
type behind struct {
	inProcess
	vm *vmwaretest.VM
}

func (b *behind) ServeDisk(ctx context.Context, r DiskRequest) (string, func() error, error) {
	if r.ReadOnly {
		return b.inProcess.ServeDisk(ctx, r)
	}
	uri, stop, err := b.inProcess.ServeDisk(ctx, r)
	return uri, func() error {
		err := stop()
		b.vm.ResetTracking()
		return err
	}, err
}

// A draft through something that tracking doesn't see: older points are lost, and
// never silently; the epoch that the commit begins works.
func TestDraftBehindTheTracker(t *testing.T) {
	var b *behind
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: gib}}},
		func(o *Options) {
			b = &behind{inProcess: inProcess{dir: shortFolder(t)}}
			o.Transports = []Transport{Servers(b)}
		})
	b.sim, b.vm = p.sim, p.vm
	old := p.point("old")
	point := old
	point.ID = "new"
	d, err := p.v.Draft(t.Context(), p.id, point)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), p.ids[0], []byte("behind"), 64*mib)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), point))
	require.NoError(t, d.Close())
	require.EqualValues(t, "new", p.holds(p.id, point.Machine).Holds)
	p.write(128*mib, 1)
	i := p.capture("later")
	p.requireLost(i, old, "")
	p.requireChanged(i, point, 128*mib)
}

// What the tracker leaves out of what a draft wrote is found out by asking, with
// the epoch going on.
func TestTrackerThatMissesADraft(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: gib}}})
	old := p.point("old")
	point := old
	point.ID = "new"
	d, err := p.v.Draft(t.Context(), p.id, point)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), p.ids[0], []byte("seen"), 64*mib)
	require.NoError(t, err)
	d.(*draft).wrote[p.ids[0]].Add(512*mib, 1) // and this was not
	require.NoError(t, d.Commit(t.Context(), point))
	require.NoError(t, d.Close())
	p.write(128*mib, 1)
	i := p.capture("later")
	p.requireLost(i, old, "may not have seen")
	p.requireChanged(i, point, 128*mib)
}

// A machine that somebody started, reverted or wrote to behind our back holds
// nothing, and a draft that relied on it is refused, at whichever moment.
func TestBehindOurBack(t *testing.T) {
	for name, interfere := range map[string]func(*pit, types.ManagedObjectReference) error{
		"started": func(p *pit, _ types.ManagedObjectReference) error {
			return errors.Join(p.vm.PowerOn(), p.vm.Write(p.keys[0], []byte("guest"), 0), p.vm.PowerOff())
		},
		"written": func(p *pit, _ types.ManagedObjectReference) error {
			return p.vm.WriteDisk(p.keys[0], []byte("tool"), mib)
		},
		"reverted":  func(p *pit, s types.ManagedObjectReference) error { return p.vm.Revert(s) },
		"untracked": func(p *pit, _ types.ManagedObjectReference) error { p.vm.ResetTracking(); return nil },
	} {
		for _, when := range []string{"before Prepare", "before Draft", "before the first write"} {
			t.Run(name+" "+when, func(t *testing.T) {
				ctx := t.Context()
				p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: 2 * mib}}})
				i := p.capture("p")
				require.NoError(t, i.Close())
				now := func(at string) {
					if at == when {
						require.NoError(t, interfere(p, i.snapshot.ref))
					}
				}
				now("before Prepare")
				r := p.holds(p.id, i.Point().Machine)
				next := i.Point()
				next.ID = "next"
				if when == "before Prepare" {
					require.Empty(t, r.Holds)
				} else {
					require.EqualValues(t, "p", r.Holds)
				}
				now("before Draft")
				d, err := p.v.Draft(ctx, p.id, next)
				if when == "before Draft" {
					require.ErrorIs(t, err, dr.ErrConflict)
					require.Empty(t, p.holds(p.id, i.Point().Machine).Holds)
					d, err = p.v.Draft(ctx, p.id, next) // it was prepared again
				}
				require.NoError(t, err)
				defer d.Close()
				now("before the first write")
				for range 2 {
					_, err = d.WriteAt(ctx, p.ids[0], []byte("delta"), 0)
					if when == "before the first write" {
						require.ErrorIs(t, err, dr.ErrConflict)
						continue
					}
					require.NoError(t, err)
				}
				require.Equal(t, when != "before the first write", p.holds(p.id, i.Point().Machine).Torn)
			})
		}
	}
}

// clone makes another machine that carries what the machine's advanced
// configuration says.
func (p *pit) clone(id dr.MachineID) *pit {
	p.t.Helper()
	m, err := p.v.find(context.Background(), id)
	require.NoError(p.t, err)
	raw, _ := object.OptionValueList(m.config.ExtraConfig).GetString(recordKey)
	spec := vmwaretest.VMSpec{Name: m.props.Name + " (clone " + uuid.NewString() + ")", Off: true, ChangeTracking: true, ExtraConfig: map[string]string{recordKey: raw}}
	for _, d := range m.disks {
		spec.Disks = append(spec.Disks, vmwaretest.DiskSpec{Size: d.size, UUID: d.uuid})
	}
	c := *p
	c.add(spec)
	return &c
}

func TestClones(t *testing.T) {
	ctx := t.Context()
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	point := p.point("p")
	place := backend.Placement{Key: "k", Machine: point.Machine}
	r, err := p.v.Prepare(ctx, place)
	require.NoError(t, err)
	p.fill(r.ID, point)

	c := p.clone(r.ID)
	again, err := p.v.Prepare(ctx, place)
	require.NoError(t, err, "the clone isn't a candidate")
	require.Equal(t, backend.Replica{ID: r.ID, Holds: "p"}, again)
	require.Empty(t, c.holds(c.id, point.Machine).Holds)
	require.NoError(t, p.v.Remove(ctx, c.id))
	require.NotNil(t, p.sim.VM(c.vm.Reference()), "Remove takes no clone: somebody made it")

	d, err := p.v.Draft(ctx, r.ID, point)
	require.NoError(t, err)
	_, err = d.WriteAt(ctx, p.ids[0], []byte("half"), 0)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	torn := p.clone(again.ID)
	require.ErrorIs(t, p.v.Start(ctx, torn.id), dr.ErrTorn)
	_, err = p.v.Capture(ctx, torn.id, "q", dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrTorn)
	p.fill(torn.id, point) // and is healed like any
	require.NoError(t, p.v.Start(ctx, torn.id))

	// An original that Prepare once made is somebody's machine.
	p.fill(r.ID, point)
	_, err = p.v.Prepare(ctx, backend.Placement{Original: r.ID, Machine: point.Machine})
	require.NoError(t, err)
	require.NoError(t, p.v.Remove(ctx, r.ID))
	_, err = p.v.Machine(ctx, r.ID)
	require.NoError(t, err)
}

// A first copy that was cut off goes on where it was: what was read is not read
// again.
func TestFirstCopyResumes(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(64*mib))
	for off := int64(0); off < 64*mib; off += mib {
		require.NoError(t, p.vm.WriteDisk(p.keys[0], bytes.Repeat([]byte{byte(off / mib), 1, 2, 3}, mib/4), off))
	}
	folder := t.TempDir()
	copying := func(ctx context.Context, stop func(int64) bool) error {
		points, err := vault.OpenDir(folder, vault.Options{})
		require.NoError(t, err)
		defer points.Close()
		i, err := p.v.Capture(t.Context(), p.id, "p", dr.CrashConsistent) // finds what was frozen
		require.NoError(t, err)
		defer i.Close()
		d, err := points.Create(t.Context(), i.Point())
		require.NoError(t, err)
		defer d.Close()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		before := p.sim.Traffic(vmwaretest.NBD).Sent
		_, err = replication.Copy(ctx, d, killed{i, func() {
			if stop(p.sim.Traffic(vmwaretest.NBD).Sent - before) {
				cancel()
			}
		}}, replication.CopyOptions{Have: replication.History{Blank: true}})
		return err
	}
	before := p.sim.Traffic(vmwaretest.NBD).Sent
	require.ErrorIs(t, copying(t.Context(), func(sent int64) bool { return sent > 40*mib }), context.Canceled)
	read := p.sim.Traffic(vmwaretest.NBD).Sent - before
	require.NoError(t, copying(t.Context(), func(int64) bool { return false }))
	rest := p.sim.Traffic(vmwaretest.NBD).Sent - before - read
	t.Logf("%d MiB read before it was cut off, %d after", read/mib, rest/mib)
	require.Less(t, rest, 64*mib-int64(8*mib), "what was durable is not read again")
	require.LessOrEqual(t, rest+read, int64(64*mib+40*mib))
}

// killed calls f at every read.
type killed struct {
	dr.Image
	f func()
}

func (k killed) ReadAt(ctx context.Context, disk dr.DiskID, b []byte, off int64) (int, error) {
	k.f()
	return k.Image.ReadAt(ctx, disk, b, off)
}

func (k killed) Unwrap() any { return k.Image }

// A lost tracker on either side of a failback: sums are compared, and the bytes
// are right.
func TestFailbackWithoutATracker(t *testing.T) {
	for _, side := range []string{"home", "far", "both"} {
		t.Run(side, func(t *testing.T) {
			home, far := vsphereEnd(t, "home"), vsphereEnd(t, "far")
			tr := roundtriptest.New(t, home, far)
			tr.Must(replication.Protect(tr.Record()))
			home.Scribble(t, tr.Machine, tr.Disks[0], 9)
			tr.Cycle()
			tr.Must(failover.Planned(tr.Record(), failover.Options{}))
			tr.Must(failover.Commit(tr.Record(), failover.CommitOptions{}))
			away := tr.Record().Active.Machine
			far.Scribble(t, away, tr.Disks[0], 6)
			require.NoError(t, home.Power(tr.Machine, dr.On))
			home.Scribble(t, tr.Machine, tr.Disks[1], 6)
			if side != "far" {
				require.NoError(t, home.LoseChanges(tr.Machine))
			}
			if side != "home" {
				require.NoError(t, far.LoseChanges(away))
			}
			far.Scribble(t, away, tr.Disks[1], 2)
			tr.Must(failback.Reprotect(tr.Record(), failback.ReprotectOptions{}))
			tr.Must(failback.Failback(tr.Record(), failback.Options{}))
			roundtriptest.Same(t, far.Content(t, away, tr.Disks), home.Content(t, tr.Machine, tr.Disks), "failed back")
		})
	}
}

package vmware

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// pit is a machine in a vCenter where something goes wrong.
type pit struct {
	t    testing.TB
	w    *vcenter
	sim  *vmwaretest.Simulator
	v    *VSphere
	vm   *vmwaretest.VM
	id   dr.MachineID
	keys []int32
	ids  []dr.DiskID // of the disks, in the same order
}

func newPit(t testing.TB, o vmwaretest.Options, spec vmwaretest.VMSpec, change ...func(*Options)) *pit {
	t.Helper()
	w := newVCenter(t, o)
	for _, f := range change {
		f(&w.o)
	}
	p := &pit{t: t, w: w, sim: w.sim, v: connect(t, w.o)}
	p.add(spec)
	return p
}

// add makes another machine the one that is meant.
func (p *pit) add(spec vmwaretest.VMSpec) {
	p.t.Helper()
	if spec.Name == "" {
		spec.Name = "web"
	}
	if spec.InstanceUUID == "" {
		spec.InstanceUUID = uuid.NewString()
	}
	vm, err := p.sim.AddVM(spec)
	require.NoError(p.t, err)
	p.vm, p.id, p.keys, p.ids = vm, dr.MachineID(spec.InstanceUUID), vm.Disks(), nil
	m := p.look()
	for _, k := range p.keys {
		for _, d := range m.disks {
			if d.key == k {
				p.ids = append(p.ids, d.id)
			}
		}
	}
}

func (p *pit) look() *machine {
	p.t.Helper()
	m, err := p.v.find(context.Background(), p.id)
	require.NoError(p.t, err)
	return m
}

func (p *pit) write(off int64, b byte) {
	p.t.Helper()
	require.NoError(p.t, p.vm.WriteDisk(p.keys[0], bytes.Repeat([]byte{b}, 512), off))
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
	p.t.Cleanup(func() { i.Close() })
	return i.(*image)
}

// point captures a point and lets go of the snapshot.
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

// changes lists what changed on the first disk.
func (p *pit) changes(i *image, since dr.Point) (all []dr.Extent, err error) {
	for e, err := range i.Changes(context.Background(), p.ids[0], since) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

func (p *pit) requireLost(i *image, since dr.Point, why string) {
	p.t.Helper()
	some, err := p.changes(i, since)
	require.ErrorIs(p.t, err, dr.ErrChangesLost)
	require.ErrorContains(p.t, err, why)
	require.Empty(p.t, some, "a loss that comes late has let a gap through")
}

func (p *pit) requireChanged(i *image, since dr.Point, want ...int64) {
	p.t.Helper()
	some, err := p.changes(i, since)
	require.NoError(p.t, err)
	var blocks []int64
	for _, e := range some {
		for off := e.Off; off < e.End(); off += 64 << 10 {
			blocks = append(blocks, off)
		}
	}
	require.Equal(p.t, want, blocks)
}

// fill writes every disk's bytes from f, which may be nil, and commits.
func (p *pit) fill(id dr.MachineID, point dr.Point) {
	p.t.Helper()
	ctx := context.Background()
	d, err := p.v.Draft(ctx, id, point)
	require.NoError(p.t, err)
	defer d.Close()
	for _, disk := range point.Machine.Disks {
		_, err := d.WriteAt(ctx, disk.ID, []byte("filled"), 0)
		require.NoError(p.t, err)
	}
	require.NoError(p.t, d.Commit(ctx, point))
}

func (p *pit) holds(id dr.MachineID, m dr.Machine) backend.Replica {
	p.t.Helper()
	r, err := p.v.Prepare(context.Background(), backend.Placement{Original: id, Machine: m})
	require.NoError(p.t, err)
	return r
}

// mapless is a transport that can't tell what was never written.
type mapless struct{ Transport }

func (m mapless) open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error) {
	dev, err := m.Transport.open(ctx, v, d, write)
	return struct{ device }{dev}, err
}

// expiring ends every session before each call: so each finds its session dead,
// but those that a session's own views are read by, every other time.
type expiring struct {
	soap.RoundTripper
	sim *vmwaretest.Simulator
}

func (e expiring) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	if dead, _ := ctx.Value(expiring{}).(*sync.Once); dead != nil {
		dead.Do(func() { e.sim.ExpireSessions() })
	}
	return e.RoundTripper.RoundTrip(ctx, req, res)
}

// everyCall lets expiring know where one call of the API begins.
type everyCall struct {
	soap.RoundTripper
	n *atomic.Int64
}

func (e everyCall) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	name := callName(req)
	if name != "RetrievePropertiesEx" && name != "ContinueRetrievePropertiesEx" || e.n.Add(1)%2 == 0 {
		ctx = context.WithValue(ctx, expiring{}, new(sync.Once))
	}
	return e.RoundTripper.RoundTrip(ctx, req, res)
}

const (
	gib = int64(1) << 30
	tib = int64(1) << 40
)

func oneDisk(size int64) vmwaretest.VMSpec {
	return vmwaretest.VMSpec{ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: size}}}
}

// Each pitfall of vSphere that is known to have cost somebody data, with what
// keeps this package out of it.
func TestPitfalls(t *testing.T) {
	ctx := context.Background()

	t.Run("01 more than 2,000 areas, paged to the end", func(t *testing.T) {
		for name, x := range map[string]struct {
			max        int
			size, step int64
		}{
			"pages of 7 on a disk of 3 TiB":    {7, 3 * tib, 61 * gib},
			"pages of 2,000 over 1 TiB":        {0, tib, 256 * mib},
			"an odd size":                      {3, gib + 1024, 100 * mib},
			"a page that ends with the disk":   {4, 4 * mib, mib},
			"a disk that is smaller than that": {1, 1024, 512 << 10},
		} {
			t.Run(name, func(t *testing.T) {
				p := newPit(t, vmwaretest.Options{MaxAreas: x.max}, oneDisk(x.size))
				p1 := p.point("p1")
				var want []int64
				for off := int64(0); off < x.size; off += x.step {
					p.write(off, 1)
					want = append(want, off)
				}
				if last := (x.size - 512) &^ (64<<10 - 1); last > want[len(want)-1] {
					p.write(x.size-512, 2) // the last area ends at the capacity: asking there is refused
					want = append(want, last)
				}
				i := p.capture("p2")
				before := p.sim.Calls("QueryChangedDiskAreas")
				p.requireChanged(i, p1, want...)
				if most := max(x.max, 1) + 2000*btoi(x.max == 0); len(want) > most {
					require.Greater(t, p.sim.Calls("QueryChangedDiskAreas")-before, 1)
				}
			})
		}
	})

	t.Run("02 changeIds of another epoch, power loss, revert: whole comparison", func(t *testing.T) {
		p := newPit(t, vmwaretest.Options{}, oneDisk(gib))
		p1 := p.point("p1")
		p.write(5*mib, 1)
		p.vm.ResetTracking()
		i := p.capture("p2")
		p.requireLost(i, p1, "another epoch")
		p.release("p2")

		require.NoError(t, p.vm.PowerLoss())
		require.NoError(t, p.vm.PowerOn())
		p.write(6*mib, 1)
		p3 := p.capture("p3")
		p.requireLost(p3, i.Point(), "another epoch")

		require.NoError(t, p.vm.Revert(p3.snapshot.ref))
		p.write(7*mib, 1)
		p4 := p.capture("p4") // beside p3: what begins there is not believed
		p.requireLost(p4, p3.Point(), "")
		require.Empty(t, p4.Point().Cursors)

		// And by the server, should it forget an epoch that we believe.
		_, err := first(p.v.areas(ctx, p.vm.Reference(), &p4.snapshot.ref, p4.disks[p.ids[0]], "52 00 00/1"))
		require.ErrorIs(t, err, dr.ErrChangesLost)
	})

	t.Run("03 tracking that began above a snapshot is not believed", func(t *testing.T) {
		for _, who := range []string{"nobody", "a person"} {
			t.Run(who+" turns it on", func(t *testing.T) {
				spec := oneDisk(gib)
				spec.ChangeTracking = false
				p := newPit(t, vmwaretest.Options{Bugs: vmwaretest.Bugs{TrackingUnderSnapshots: true}}, spec,
					func(o *Options) { o.Transports[0] = mapless{o.Transports[0]} })
				p.write(0, 1)
				foreign, err := p.vm.AddSnapshot("before the update", "")
				require.NoError(t, err)
				if who != "nobody" {
					require.NoError(t, p.v.reconfigure(ctx, p.look(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
				}
				i := p.capture("p1")
				require.Equal(t, who != "nobody", *p.look().config.ChangeTrackingEnabled, "a capture doesn't turn it on")
				require.Empty(t, i.Point().Cursors)
				whole, err := first(i.Extents(ctx, p.ids[0])) // "*" leaves out what was written before
				require.NoError(t, err)
				require.Equal(t, dr.Extent{Len: gib}, whole)
				p.release("p1")
				p.write(mib, 2)
				i = p.capture("p2")
				p.requireLost(i, dr.Point{ID: "p1", Machine: i.Point().Machine, Cursors: map[dr.DiskID]dr.Cursor{p.ids[0]: "52 00 00/1"}}, "")
				p.release("p2")
				// Without the snapshot it heals.
				require.NoError(t, p.vm.RemoveSnapshot(foreign))
				i = p.capture("p3")
				if who != "nobody" { // whoever began it, it was above a snapshot
					whole, err = first(i.Extents(ctx, p.ids[0]))
					require.NoError(t, err)
					require.Equal(t, dr.Extent{Len: gib}, whole)
				}
				p.release("p3")
				p.write(3*mib, 3)
				p.requireChanged(p.capture("p4"), i.Point(), 3*mib)
			})
		}
	})

	t.Run("04 growing past 128 GiB begins tracking anew", func(t *testing.T) {
		p := newPit(t, vmwaretest.Options{Bugs: vmwaretest.Bugs{ExtendPast128GiB: true}}, oneDisk(10*gib))
		p1 := p.point("p1")
		require.NoError(t, p.w.grow(p.id, p.ids[0], 100*gib)) // not past it: nothing is lost
		p.write(50*gib, 1)
		i := p.capture("p2")
		all, err := p.changes(i, p1)
		require.NoError(t, err)
		require.Equal(t, []dr.Extent{{Off: 10 * gib, Len: 90 * gib}}, all)
		p.release("p2")
		require.NoError(t, p.w.grow(p.id, p.ids[0], 200*gib))
		p.write(150*gib, 2)
		p3 := p.capture("p3")
		p.requireLost(p3, i.Point(), "")
		p.release("p3")
		p.write(160*gib, 3)
		p.requireChanged(p.capture("p4"), p3.Point(), 160*gib)
	})

	t.Run("04 growing past 128 GiB under a foreign snapshot's epoch is never believed", func(t *testing.T) {
		p := newPit(t, vmwaretest.Options{Bugs: vmwaretest.Bugs{ExtendPast128GiB: true}}, oneDisk(100*gib))
		p1 := p.point("p1")
		require.NoError(t, p.w.grow(p.id, p.ids[0], 200*gib))
		_, err := p.vm.AddSnapshot("somebody's", "") // so that tracking can't be begun anew
		require.NoError(t, err)
		p.write(150*gib, 2)
		i := p.capture("p2")
		p.requireLost(i, p1, "")
		require.Empty(t, i.Point().Cursors)
	})

	t.Run("05 what was ever written is told on VMFS only", func(t *testing.T) {
		for kind, want := range map[string][]dr.Extent{
			"VMFS": {{Len: mib, Zero: true}, {Off: mib, Len: 64 << 10}, {Off: mib + 64<<10, Len: gib - mib - 64<<10, Zero: true}},
			"NFS":  {{Len: gib}},
		} {
			t.Run(kind, func(t *testing.T) {
				spec := oneDisk(gib)
				spec.ChangeTracking, spec.Off = false, true // we begin the epoch
				o := vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{Name: "DC0", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0"}}},
					Datastores: []vmwaretest.Datastore{{Name: "store", Type: kind}}}}}
				p := newPit(t, o, spec, func(o *Options) { o.Transports[0] = mapless{o.Transports[0]} })
				p.point("p0") // from here on tracking is ours
				p.write(mib, 1)
				i := p.capture("p1")
				got, err := gather(i.Extents(ctx, p.ids[0]))
				require.NoError(t, err)
				require.Equal(t, want, got)

				// A server that refuses the question altogether.
				defer p.sim.Fault(vmwaretest.Fault{Call: "QueryChangedDiskAreas", Times: -1, Err: &types.FileFault{}}).Remove()
				got, err = gather(i.Extents(ctx, p.ids[0]))
				require.NoError(t, err)
				require.Equal(t, []dr.Extent{{Len: gib}}, got)
			})
		}
	})

	t.Run("06 disks and machines are known by UUIDs that stay", func(t *testing.T) {
		o := vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{Name: "DC0", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0"}}},
			Datastores: []vmwaretest.Datastore{{Name: "old"}, {Name: "new"}}}}}
		spec := oneDisk(gib)
		spec.UUID = uuid.NewString()
		p := newPit(t, o, spec)
		twin := oneDisk(gib)
		twin.Name, twin.UUID = "twin", spec.UUID
		first := *p
		p.add(twin) // its BIOS UUID is the same
		require.NotEqual(t, first.vm.Reference(), p.look().ref)
		require.NotEqual(t, first.ids, p.ids)
		require.Equal(t, first.vm.Reference(), first.look().ref)

		p1 := p.point("p1")
		file := p.look().disks[0].file
		require.NoError(t, p.vm.Relocate("new"))
		require.NotEqual(t, file, p.look().disks[0].file)
		p.write(2*mib, 1)
		i := p.capture("p2") // a chain of links: its files have other names
		require.Equal(t, p1.Machine.Disks, i.Point().Machine.Disks)
		p.requireChanged(i, p1, 2*mib)
	})

	t.Run("07 no snapshot before the last consolidation has ended", func(t *testing.T) {
		p := newPit(t, vmwaretest.Options{}, oneDisk(gib))
		p.capture("p1")
		p.vm.FailConsolidation(3) // of the removal, of what follows it, and of the next capture
		err := p.v.Release(ctx, p.id, "p1")
		require.ErrorIs(t, err, dr.ErrBusy)
		require.ErrorContains(t, err, "consolidate disks")
		_, err = p.v.Capture(ctx, p.id, "p2", dr.CrashConsistent)
		require.ErrorIs(t, err, dr.ErrBusy)
		require.Zero(t, p.vm.Snapshots(), "a snapshot above links that nobody sees")
		p.capture("p2")
		require.False(t, p.look().props.Runtime.ConsolidationNeeded)
	})

	t.Run("08 orphan snapshots are found by what they say of themselves", func(t *testing.T) {
		p := newPit(t, vmwaretest.Options{}, oneDisk(gib))
		for name, k := range map[string]string{
			"lifeboat lost":   mark{Point: "lost"}.encode(),
			"renamed by hand": mark{Point: "renamed"}.encode(),
			"an epoch":        mark{Point: "held", Epoch: true}.encode(),
			"lifeboat decoy":  "made by a person who likes the name",
			"another tool":    `{"lifeboat":"boat","point":"p"}`,
		} {
			_, err := p.vm.AddSnapshot(name, k)
			require.NoError(t, err)
		}
		p.capture("kept")
		swept, err := p.v.Sweep(ctx, p.id, func(n dr.PointID) bool { return n == "kept" })
		require.NoError(t, err)
		require.ElementsMatch(t, []dr.PointID{"lost", "renamed"}, swept)
		var left []string
		for _, s := range p.look().snapshots() {
			left = append(left, s.name)
		}
		require.ElementsMatch(t, []string{"lifeboat decoy", "another tool", "lifeboat kept"}, left)
	})

	t.Run("09 the consistency that was achieved is recorded", func(t *testing.T) {
		for name, x := range map[string]struct {
			guest string
			g     vmwaretest.Guest
			off   bool
			want  dr.Consistency
			got   dr.Consistency
		}{
			"windows":                   {"windows2019srv_64Guest", vmwaretest.Guest{}, false, dr.ApplicationConsistent, dr.ApplicationConsistent},
			"windows, files only":       {"windows2019srv_64Guest", vmwaretest.Guest{}, false, dr.FileSystemConsistent, dr.FileSystemConsistent},
			"linux":                     {"ubuntu64Guest", vmwaretest.Guest{}, false, dr.ApplicationConsistent, dr.FileSystemConsistent},
			"not asked for":             {"ubuntu64Guest", vmwaretest.Guest{}, false, dr.CrashConsistent, dr.CrashConsistent},
			"quiescing fails":           {"ubuntu64Guest", vmwaretest.Guest{QuiesceErr: &types.ApplicationQuiesceFault{}}, false, dr.ApplicationConsistent, dr.CrashConsistent},
			"tools hang, guest frozen":  {"windows2019srv_64Guest", vmwaretest.Guest{Tools: vmwaretest.ToolsHung}, false, dr.ApplicationConsistent, dr.CrashConsistent},
			"no tools: silently passed": {"windows2019srv_64Guest", vmwaretest.Guest{Tools: vmwaretest.ToolsMissing}, false, dr.ApplicationConsistent, dr.CrashConsistent},
			"off: silently passed":      {"windows2019srv_64Guest", vmwaretest.Guest{}, true, dr.ApplicationConsistent, dr.CrashConsistent},
		} {
			t.Run(name, func(t *testing.T) {
				spec := oneDisk(gib)
				spec.GuestID, spec.Guest, spec.Off = x.guest, x.g, x.off
				p := newPit(t, vmwaretest.Options{}, spec)
				i := p.wanting("p", x.want)
				require.Equal(t, x.got, i.Point().Consistency)
				require.Equal(t, 1, p.vm.Snapshots(), "what failed left nothing")
				require.Equal(t, x.got, p.wanting("p", x.want).Point().Consistency, "found again")
			})
		}
	})

	t.Run("10 connections are bounded, and machines with more disks than places go on", func(t *testing.T) {
		for name, change := range map[string]func(*Options){
			"served": func(o *Options) { o.Force = true },
			"NFC":    func(o *Options) { o.Transports, o.Force = []Transport{NFC()}, true },
		} {
			t.Run(name, func(t *testing.T) {
				spec := vmwaretest.VMSpec{ChangeTracking: true}
				for range 5 {
					spec.Disks = append(spec.Disks, vmwaretest.DiskSpec{Size: 2 * mib})
				}
				p := newPit(t, vmwaretest.Options{MaxNFC: 3}, spec, change, func(o *Options) { o.Total, o.PerHost = 3, 2 })
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				all := []*pit{p}
				other := *p
				spec.Name = "other"
				other.add(spec)
				all = append(all, &other)
				errs := make(chan error)
				n := 0
				for _, p := range all {
					for d := range p.keys {
						require.NoError(t, p.vm.WriteDisk(p.keys[d], []byte{byte(d + 1)}, mib))
					}
					i := p.capture("p")
					for d := range p.ids {
						n++
						go func() {
							b := make([]byte, 1)
							for at := int64(0); at < 2*mib; at += 256 << 10 {
								if _, err := i.ReadAt(ctx, p.ids[d], b, at); err != nil {
									errs <- err
									return
								}
							}
							_, err := i.ReadAt(ctx, p.ids[d], b, mib)
							if err == nil && b[0] != byte(d+1) {
								err = fmt.Errorf("disk %d begins with %d", d, b[0])
							}
							errs <- err
						}()
					}
				}
				for range n {
					require.NoError(t, <-errs)
				}
				require.LessOrEqual(t, max(p.sim.Traffic(vmwaretest.NBD).Peak, p.sim.Traffic(vmwaretest.NFC).Peak), 3)
			})
		}
	})

	t.Run("11 sessions that die at every call are replaced", func(t *testing.T) {
		p := newPit(t, vmwaretest.Options{}, oneDisk(4*mib))
		p.v.session.next = expiring{p.v.session.next, p.sim}
		p.v.client.RoundTripper = everyCall{p.v.session, new(atomic.Int64)}
		p.write(mib, 7)
		p1 := p.point("p1")
		p.write(2*mib, 8)
		i := p.capture("p2")
		p.requireChanged(i, p1, 2*mib)
		b := make([]byte, 4*mib)
		_, err := i.ReadAt(ctx, p.ids[0], b, 0)
		require.NoError(t, err)
		r, err := p.v.Prepare(ctx, backend.Placement{Key: "k", Machine: i.Point().Machine})
		require.NoError(t, err)
		d, err := p.v.Draft(ctx, r.ID, i.Point())
		require.NoError(t, err)
		_, err = d.WriteAt(ctx, p.ids[0], b, 0)
		require.NoError(t, err)
		require.NoError(t, d.Commit(ctx, i.Point()))
		require.NoError(t, d.Close())
		r, err = p.v.Prepare(ctx, backend.Placement{Key: "k", Machine: i.Point().Machine})
		require.NoError(t, err)
		require.EqualValues(t, "p2", r.Holds)
		require.NoError(t, p.v.Start(ctx, r.ID))
		require.NoError(t, p.v.Remove(ctx, r.ID))
		require.Greater(t, p.sim.Calls("Login"), 50)
	})

	t.Run("11 sessions that idle are kept alive", func(t *testing.T) {
		p := newPit(t, vmwaretest.Options{SessionIdle: 2 * time.Second}, oneDisk(mib), func(o *Options) { o.KeepAlive = 100 * time.Millisecond })
		logins, touched := p.sim.Calls("Login"), p.sim.Calls("CurrentTime")
		require.Eventually(t, func() bool { return p.sim.Calls("CurrentTime") >= touched+25 }, time.Minute, 50*time.Millisecond)
		require.Equal(t, logins, p.sim.Calls("Login"))
		p.look()
		require.Equal(t, logins, p.sim.Calls("Login"))
	})

	t.Run("12 disks that snapshots leave out refuse by name", func(t *testing.T) {
		for what, d := range map[string]vmwaretest.DiskSpec{
			"an independent disk": {Size: gib, Mode: types.VirtualDiskModeIndependent_persistent},
			"a raw device":        {Size: gib, RawDevice: true},
			"shared":              {Size: gib, Shared: true},
		} {
			t.Run(what, func(t *testing.T) {
				spec := oneDisk(gib)
				spec.Disks = append(spec.Disks, d)
				p := newPit(t, vmwaretest.Options{}, spec)
				problems, err := p.v.Preflight(ctx, p.id)
				require.NoError(t, err)
				blocked := false
				for _, x := range problems {
					blocked = blocked || x.Blocker && x.Disk == p.ids[1] && x.Remedy != ""
				}
				require.True(t, blocked, "%+v", problems)
				_, err = p.v.Capture(ctx, p.id, "p", dr.CrashConsistent)
				require.ErrorIs(t, err, dr.ErrUnsupported)
				var e *dr.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, p.ids[1], e.Disk)
				require.NotEmpty(t, e.Remedy)
				require.ErrorContains(t, err, what)
				require.Zero(t, p.vm.Snapshots())
			})
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func first(seq func(func(dr.Extent, error) bool)) (x dr.Extent, err error) {
	seq(func(e dr.Extent, failed error) bool { x, err = e, failed; return false })
	return x, err
}

func gather(seq func(func(dr.Extent, error) bool)) (all []dr.Extent, err error) {
	seq(func(e dr.Extent, failed error) bool {
		if err = failed; err == nil {
			all = append(all, e)
		}
		return err == nil
	})
	return all, err
}

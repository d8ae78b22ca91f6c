package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func pitfallsOfNames(t *testing.T) {
	ctx := context.Background()

	t.Run("two machines of one name", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		p.write(0, 1)
		twin := *p
		twin.add(hypervtest.VMSpec{})
		twin.write(0, 2)
		require.NotEqual(t, p.id, twin.id)
		for want, q := range map[byte]*pit{1: p, 2: &twin} {
			i := q.capture("p")
			b := make([]byte, 1)
			_, err := i.ReadAt(ctx, q.ids[0], b, 0)
			require.NoError(t, err)
			require.Equal(t, want, b[0])
		}
		seen := map[dr.MachineID]string{}
		for m, err := range p.v.Machines(ctx) {
			require.NoError(t, err)
			seen[m.ID] = m.Name
		}
		require.Equal(t, map[dr.MachineID]string{p.id: "web", twin.id: "web"}, seen)
	})

	t.Run("captions are localized", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{Locale: "de"}, hypervtest.VMSpec{Guest: linux})
		n := 0
		for m, err := range p.v.Machines(ctx) { // the host is no machine, whatever it is called
			require.NoError(t, err)
			require.Equal(t, p.id, m.ID)
			n++
		}
		require.Equal(t, 1, n)
		p.write(0, 1)
		p1 := p.point("p1")
		p.write(mib, 2)
		p.requireChanged(p.capture("p2"), p1, mib)
		p.release("p2")
		require.NoError(t, p.vm.Checkpoint("vor dem Update"))
		require.Contains(t, p.problems(), "checkpoints")
		require.NoError(t, p.v.Shutdown(ctx, p.id))
		require.False(t, p.vm.Running())
	})

	t.Run("disks are matched by VirtualDiskId while their files flip", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{Disks: []hypervtest.DiskSpec{{Size: 4 * mib}, {Size: 4 * mib}}})
		paths := map[string]bool{}
		last := p.point("p0")
		for n := range 3 {
			off := int64(n) * 128 << 10
			p.write(off, 1)
			i := p.capture(dr.PointID(fmt.Sprint("p", n+1)))
			m := p.look()
			paths[m.disks[0].path[strings.LastIndexByte(m.disks[0].path, '.'):]] = true
			require.Equal(t, p.ids, []dr.DiskID{m.disks[0].id, m.disks[1].id})
			p.requireChanged(i, last, off)
			p.release(i.point.ID)
			require.NoError(t, i.Close())
			require.NoError(t, p.v.Forget(ctx, p.id, i.point.ID))
			last = i.point
			for range 3 { // until it is merged
				p.look()
			}
			paths[p.look().disks[0].path[strings.LastIndexByte(p.look().disks[0].path, '.'):]] = true
		}
		require.Equal(t, map[string]bool{".vhdx": true, ".avhdx": true}, paths)

		// Other files of the same name are other disks.
		p.vm.PowerOff()
		require.NoError(t, p.v.Forget(ctx, p.id, last.ID))
		require.Eventually(t, func() bool { p.look(); return p.vm.ReplaceDisk(string(p.ids[0])) == nil }, eventually, 1)
		i := p.capture("replaced")
		_, known := i.point.Machine.Disk(p.ids[0])
		require.False(t, known)
	})
}

func pitfallsOfTracking(t *testing.T) {
	ctx := context.Background()

	t.Run("lists of a reference point of unequal length are not believed", func(t *testing.T) {
		for _, list := range []string{"VirtualDiskIdentifiers", "ResilientChangeTrackingIdentifiers"} {
			p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{Disks: []hypervtest.DiskSpec{{Size: 4 * mib}, {Size: 4 * mib}}})
			p.twist(classReference, func(o host.Object) (host.Object, error) {
				o.Props[list] = o.Props[list].([]any)[1:]
				return o, nil
			})
			p1 := p.point("p1")
			p.write(0, 1)
			i := p.capture("p2")
			p.requireLost(i, p1)
		}
	})

	t.Run("a reference point of the log is none of change tracking", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		undo := p.twist(classReference, func(o host.Object) (host.Object, error) {
			o.Props["ReferencePointType"] = int64(1) // as a property that is the log; as a parameter 1 is RCT
			return o, nil
		})
		p1 := p.point("p1")
		p.write(0, 1)
		p.requireLost(p.capture("p2"), p1)
		p.release("p2")
		undo()
		p3 := p.point("p3")
		p.write(mib, 1)
		p.requireChanged(p.capture("p4"), p3, mib)
	})

	t.Run("offsets are those of the virtual disk", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{Disks: []hypervtest.DiskSpec{{Size: 40 * mib}}})
		p.write(39*mib, 1) // the first block of the file
		p1 := p.point("p1")
		p.write(20*mib+512, 2)
		i := p.capture("p2")
		p.requireChanged(i, p1, 20*mib)
		b := make([]byte, 512)
		for off, want := range map[int64]byte{39 * mib: 1, 20*mib + 512: 2, 20 * mib: 0, 0: 0} {
			_, err := i.ReadAt(ctx, p.ids[0], b, off)
			require.NoError(t, err)
			require.Equal(t, want, b[0], "at %d", off)
		}
	})

	t.Run("every code of lost tracking asks for a comparison", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		p1 := p.point("p1")
		p.write(0, 1)
		i := p.capture("p2")
		for _, code := range []uint32{0xC03A0020, 0xC03A0021, 0xC03A0022, 0xC03A0023, 0xC03A0024, 0xC03A0029, 0xC03A002A, 0xC03A0030} {
			undo := p.h.Fail(func(c hypervtest.Call) error {
				if c.Op == "Disk.Changes" {
					return &host.Error{Op: "QueryChangesVirtualDisk", Code: code}
				}
				return nil
			})
			_, err := p.changes(i, p1)
			require.ErrorIs(t, err, dr.ErrChangesLost, "%#x", code)
			require.ErrorContains(t, err, fmt.Sprintf("0x%08X", code))
			undo()
		}
		// Others are errors, not "compare": the host doesn't answer.
		undo := p.h.Fail(func(c hypervtest.Call) error {
			if c.Op == "Disk.Changes" {
				return &host.Error{Op: "QueryChangesVirtualDisk", Code: 0x80070005}
			}
			return nil
		})
		_, err := p.changes(i, p1)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.NotErrorIs(t, err, dr.ErrChangesLost)
		undo()
		p.requireChanged(i, p1, 0)
	})

	t.Run("a host that lost power has lost tracking", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		p1 := p.point("p1")
		p.write(0, 1)
		p.h.Crash()
		p.reborn()
		require.NoError(t, p.vm.Start())
		p.write(mib, 2)
		i := p.capture("p2")
		p.requireLost(i, p1)
		p.release("p2")
		p.write(2*mib, 3)
		p.requireChanged(p.capture("p3"), i.Point(), 2*mib) // and it heals
	})

	t.Run("VHDs and old configurations are compared, and preflight says so", func(t *testing.T) {
		for code, spec := range map[string]hypervtest.VMSpec{
			"disk-vhd":    {Disks: []hypervtest.DiskSpec{{Size: 4 * mib, VHD: true}}, Generation: 1},
			"version-old": {Version: "5.0"},
		} {
			p := newPit(t, hypervtest.Options{}, spec)
			problem, said := p.problems()[code]
			require.True(t, said, code)
			require.False(t, problem.Blocker)
			p.write(0, 1)
			p1 := p.point("p1")
			require.Empty(t, p.vm.Snapshots(), "what can't become a reference point is removed")
			p.write(mib, 2)
			i := p.capture("p2")
			p.requireLost(i, p1)
			b := make([]byte, 1)
			_, err := i.ReadAt(ctx, p.ids[0], b, mib)
			require.NoError(t, err)
			require.EqualValues(t, 2, b[0])
			p.release("p2")
			require.Empty(t, p.vm.Snapshots())
		}
		require.True(t, tracks("6.2"))
		require.True(t, tracks("10.0"))
		require.False(t, tracks("6.1"))
		require.False(t, tracks("5.0"))
	})

	t.Run("older reference points go with each cycle, so that merges go on", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		cycle := replication.Cycle{Source: p.v, Points: memstore.New(memstore.Options{})}
		for n := range 20 {
			p.write(int64(n%32)*64<<10, byte(n+1))
			_, err := cycle.Replicate(ctx, p.id, dr.CrashConsistent)
			require.NoError(t, err)
			require.LessOrEqual(t, len(p.vm.ReferencePoints()), 1, "cycle %d", n)
			require.LessOrEqual(t, p.vm.ChainLength(), 3, "cycle %d", n)
		}
		for range 3 {
			p.look()
		}
		require.Equal(t, 1, p.vm.ChainLength())
		require.GreaterOrEqual(t, p.vm.Merges(), 19)
	})

	t.Run("without a word which point is safe, three are kept", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		for n := range 6 {
			p.point(dr.PointID(fmt.Sprint("p", n)))
		}
		require.Len(t, p.vm.ReferencePoints(), maxEpochs)
	})

	t.Run("somebody else's reference point stays", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		_, err := p.look().reference(ctx, "theirs") // our record knows nothing of it
		require.NoError(t, err)
		theirs := p.vm.ReferencePoints()
		require.Len(t, theirs, 1)
		for n := range 5 {
			name := dr.PointID(fmt.Sprint("p", n))
			p.point(name)
			require.NoError(t, p.v.Forget(ctx, p.id, name))
		}
		_, err = p.v.Sweep(ctx, p.id, func(dr.PointID) bool { return false })
		require.NoError(t, err)
		require.Contains(t, p.vm.ReferencePoints(), theirs[0])
		require.Len(t, p.vm.ReferencePoints(), 2)
	})

	t.Run("a machine that was taken back: never too little", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		p.write(0, 1)
		require.NoError(t, p.vm.Checkpoint("before the update"))
		p.write(mib, 1)
		p1 := p.point("p1")
		p.vm.PowerOff()
		p.capture("held")
		require.NoError(t, p.vm.RevertTo("before the update"))
		p.release("held")
		require.NoError(t, p.vm.DeleteCheckpoint("before the update"))
		m := p.described("x").Machine
		for range 4 {
			p.look()
		}
		require.Empty(t, p.prepared(m).Holds, "its disks went back")
		require.NoError(t, p.vm.Start())
		p.write(2*mib, 1)
		i := p.capture("p2")
		if some, err := p.changes(i, p1); err == nil {
			require.Subset(t, some, []int64{mib, 2 * mib}, "what came back is a change, too")
		} else {
			require.ErrorIs(t, err, dr.ErrChangesLost)
		}
	})
}

func pitfallsOfCheckpoints(t *testing.T) {
	ctx := context.Background()

	t.Run("disks that a checkpoint leaves out refuse by name", func(t *testing.T) {
		for code, spec := range map[string]hypervtest.VMSpec{
			"disk-passthrough": {Disks: []hypervtest.DiskSpec{{Size: 4 * mib}, {Size: 4 * mib, PassThrough: true}}},
			"disk-shared":      {Disks: []hypervtest.DiskSpec{{Size: 4 * mib}, {Size: 4 * mib, Shared: true}}},
			"fibre-channel":    {FibreChannel: 1},
		} {
			t.Run(code, func(t *testing.T) {
				p := newPit(t, hypervtest.Options{}, spec)
				problem, said := p.problems()[code]
				require.True(t, said && problem.Blocker)
				_, err := p.v.Capture(ctx, p.id, "p", dr.CrashConsistent)
				requireError(t, err, dr.ErrUnsupported, problem.Text)
				require.Empty(t, p.vm.Snapshots())
				require.Zero(t, p.h.Calls()["CreateSnapshot"])
				if code == "disk-shared" {
					require.Equal(t, p.ids[1], problem.Disk)
					require.ErrorContains(t, err, p.vm.Disks()[1].Path)
				}
			})
		}
	})

	t.Run("another backup's recovery checkpoints stay", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		_, err := p.look().checkpoint(ctx, dr.CrashConsistent)
		require.NoError(t, err)
		theirs := p.vm.Snapshots()
		p.capture("p1")
		require.Len(t, p.vm.Snapshots(), 2)
		p.release("p1")
		require.Equal(t, theirs, p.vm.Snapshots())
		p.capture("p2")
		swept, err := p.v.Sweep(ctx, p.id, func(dr.PointID) bool { return false })
		require.NoError(t, err)
		require.Equal(t, []dr.PointID{"p2"}, swept)
		require.Equal(t, theirs, p.vm.Snapshots())
		require.Contains(t, p.problems(), "checkpoints")
		p.vm.PowerOff()
		_, err = p.v.Prepare(ctx, placementOf(p))
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.Equal(t, theirs, p.vm.Snapshots())
	})

	t.Run("one of two that appeared meanwhile: nobody knows which is ours", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		died := p.dieAt(1, "CreateSnapshot", true)
		_, err := p.v.Capture(ctx, p.id, "p1", dr.CrashConsistent)
		require.Error(t, err)
		require.True(t, died())
		p.reborn()
		_, err = p.look().checkpoint(ctx, dr.CrashConsistent)
		require.NoError(t, err)
		_, err = p.v.Capture(ctx, p.id, "p1", dr.CrashConsistent)
		requireError(t, err, dr.ErrAmbiguous, "2 recovery checkpoints")
		require.Len(t, p.vm.Snapshots(), 2)
	})

	t.Run("orphans of a process that died at any call", func(t *testing.T) {
		for _, what := range []string{"capture", "release"} {
			for _, after := range sides() {
				p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
				_, err := p.look().checkpoint(ctx, dr.CrashConsistent) // another backup's
				require.NoError(t, err)
				theirs := p.vm.Snapshots()
				before := p.point("p0")
				for n, done := 1, false; !done; n++ {
					name := dr.PointID(fmt.Sprintf("p%d", n))
					p.write(0, byte(n))
					if what == "release" {
						require.NoError(t, p.capture(name).Close())
					}
					died := p.dieAt(n, "", after)
					var err error
					if what == "capture" {
						_, err = p.v.Capture(ctx, p.id, name, dr.CrashConsistent)
					} else {
						err = p.v.Release(ctx, p.id, name)
					}
					done = !died()
					require.Equal(t, done, err == nil, "%v", err)
					require.Less(t, n, 100)
					p.reborn()
					where := fmt.Sprintf("%s, call %d, after %v", what, n, after)
					if n%2 == 0 { // it may be gone on with
						p.capture(name)
						require.Len(t, p.vm.Snapshots(), 2, where)
					}
					_, err = p.v.Sweep(ctx, p.id, func(dr.PointID) bool { return false })
					require.NoError(t, err, where)
					require.Equal(t, theirs, p.vm.Snapshots(), where)
					require.Empty(t, p.look().record.Captures, where)
					require.Len(t, p.vm.ReferencePoints(), len(p.look().record.Epochs), "%s: one that nobody will destroy", where)

					if n%3 != 0 && !done { // it takes its time
						continue
					}
					// Whatever was kept, changes are never too few.
					p.write(mib, byte(n))
					i := p.capture("check")
					some, err := p.changes(i, before)
					if err == nil {
						require.Subset(t, some, []int64{0, mib}, where)
					} else {
						require.ErrorIs(t, err, dr.ErrChangesLost, where)
					}
					require.NoError(t, i.Close())
					p.release("check")
					before = i.Point()
				}
			}
		}
	})

	t.Run("a process died, and its job goes on for long", func(t *testing.T) {
		for _, method := range []string{"CreateSnapshot", "ConvertToReferencePoint"} {
			p := newPit(t, hypervtest.Options{JobPolls: 100}, hypervtest.VMSpec{})
			if method != "CreateSnapshot" {
				require.NoError(t, p.capture("p1").Close())
			}
			died := p.dieAt(1, method, true)
			_, err := p.v.Capture(ctx, p.id, "p1", dr.CrashConsistent)
			if method != "CreateSnapshot" {
				err = p.v.Release(ctx, p.id, "p1")
			}
			require.Error(t, err)
			require.True(t, died())
			p.reborn()
			for tries := 0; ; tries++ {
				_, err := p.v.Sweep(ctx, p.id, func(dr.PointID) bool { return false })
				if err == nil {
					break
				}
				require.ErrorIs(t, err, dr.ErrBusy, method)
				require.Less(t, tries, 100)
			}
			for range 100 {
				p.look()
			}
			require.Empty(t, p.vm.Snapshots(), method)
			require.Empty(t, p.look().record.Captures, method)
			require.Len(t, p.vm.ReferencePoints(), len(p.look().record.Epochs), method)
		}
	})

	t.Run("a reference point whose process died before it wrote it down", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		i := p.capture("p1")
		died := p.dieAt(1, "ConvertToReferencePoint", true)
		require.Error(t, p.v.Release(ctx, p.id, "p1"))
		require.True(t, died())
		p.reborn()
		swept, err := p.v.Sweep(ctx, p.id, func(dr.PointID) bool { return false })
		require.NoError(t, err)
		require.Equal(t, []dr.PointID{"p1"}, swept)
		e, ok := p.look().record.epoch("p1")
		require.True(t, ok)
		require.Equal(t, p.vm.ReferencePoints(), []string{e.Reference})
		p.write(mib, 1)
		p.requireChanged(p.capture("p2"), i.Point(), mib)
	})

	t.Run("a person's chain of checkpoints survives", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		p.write(0, 1)
		require.NoError(t, p.vm.Checkpoint("one"))
		p.write(0, 2)
		require.NoError(t, p.vm.Checkpoint("two"))
		p.write(0, 3)
		theirs := p.vm.Snapshots()
		p1 := p.point("p1")
		p.write(mib, 1)
		i := p.capture("p2")
		p.requireChanged(i, p1, mib)
		b := make([]byte, 1)
		_, err := i.ReadAt(ctx, p.ids[0], b, 0)
		require.NoError(t, err)
		require.EqualValues(t, 3, b[0])
		require.NoError(t, i.Close())
		p.release("p2")
		require.Equal(t, theirs, p.vm.Snapshots())

		p.vm.PowerOff()
		_, err = p.v.Prepare(ctx, placementOf(p))
		requireError(t, err, dr.ErrInvalid, `"one" "two"`)
		_, err = p.v.Draft(ctx, p.id, i.Point())
		requireError(t, err, dr.ErrInvalid, `"one" "two"`)
		require.NoError(t, p.vm.RevertTo("one"))
		require.EqualValues(t, 1, p.first(0, 0))
		require.NoError(t, p.vm.RevertTo("two"))
		require.EqualValues(t, 2, p.first(0, 0))
	})

	t.Run("a live migration amid a read and amid a cycle", func(t *testing.T) {
		p := newCluster(t, hypervtest.VMSpec{Folder: `C:\ClusterStorage\Volume1\web`})
		p.migrations(ctx)
	})
	t.Run("a live migration that takes the disks along", func(t *testing.T) {
		newCluster(t, hypervtest.VMSpec{}).migrations(ctx)
	})
}

// migrations moves the machine to and fro while it is replicated.
func (p *pit) migrations(ctx context.Context) {
	t := p.t
	t.Helper()
	at := 0
	migrate := func() {
		for range 5 { // not while a job is at work on it
			p.look()
		}
		at = 1 - at
		require.NoError(t, p.vm.Migrate(p.s.nodes[at]))
	}
	p.write(0, 1)
	i := p.capture("p1")
	b := make([]byte, 1)
	if strings.HasPrefix(p.vm.Disks()[0].Path, `C:\Cluster`) { // else open files don't move
		_, err := i.ReadAt(ctx, p.ids[0], b, 0)
		require.NoError(t, err)
	}
	migrate()
	_, err := i.ReadAt(ctx, p.ids[0], b, 0)
	require.NoError(t, err)
	require.EqualValues(t, 1, b[0])
	require.NoError(t, i.Close())
	p.release("p1")
	require.Empty(t, p.vm.Snapshots())

	store := memstore.New(memstore.Options{})
	for n := range 4 {
		p.write(int64(n)*64<<10, byte(n+10))
		once := false

		cycle := replication.Cycle{Source: p.v, Points: store, Copy: replication.CopyOptions{Progress: func(dr.Progress) {
			if !once && strings.HasPrefix(p.vm.Disks()[0].Path, `C:\Cluster`) {
				once = true
				at = 1 - at
				require.NoError(t, p.vm.Migrate(p.s.nodes[at]))
			}
		}}}
		point, err := cycle.Replicate(ctx, p.id, dr.CrashConsistent)
		require.NoError(t, err)
		kept, err := store.Open(ctx, p.id, point.ID)
		require.NoError(t, err)
		for k := range n + 1 {
			_, err = kept.ReadAt(ctx, p.ids[0], b, int64(k)*64<<10)
			require.NoError(t, err)
			require.EqualValues(t, k+10, b[0])
		}
		require.NoError(t, kept.Close())
		require.Empty(t, p.vm.Snapshots())
		if !once {
			migrate()
		}
	}
}

func pitfallsOfGuests(t *testing.T) {
	ctx := context.Background()
	windows := hypervtest.Guest{Facts: map[string]string{"OSName": "Windows Server 2022", "OSPlatformId": "2"}}

	t.Run("the consistency that was achieved is said", func(t *testing.T) {
		for name, x := range map[string]struct {
			guest hypervtest.Guest
			off   bool
			want  dr.Consistency
			got   dr.Consistency
		}{
			"windows":              {windows, false, dr.ApplicationConsistent, dr.ApplicationConsistent},
			"windows, files only":  {windows, false, dr.FileSystemConsistent, dr.FileSystemConsistent},
			"linux":                {linux, false, dr.ApplicationConsistent, dr.FileSystemConsistent},
			"not asked for":        {windows, false, dr.CrashConsistent, dr.CrashConsistent},
			"VSS fails":            {with(windows, func(g *hypervtest.Guest) { g.VSS = hypervtest.VSSFails }), false, dr.ApplicationConsistent, dr.CrashConsistent},
			"no VSS":               {with(windows, func(g *hypervtest.Guest) { g.VSS = hypervtest.VSSNone }), false, dr.ApplicationConsistent, dr.CrashConsistent},
			"it hangs":             {with(windows, func(g *hypervtest.Guest) { g.Hung = true }), false, dr.ApplicationConsistent, dr.CrashConsistent},
			"off: silently passed": {windows, true, dr.ApplicationConsistent, dr.CrashConsistent},
		} {
			t.Run(name, func(t *testing.T) {
				spec := hypervtest.VMSpec{Guest: x.guest}
				p := newPit(t, hypervtest.Options{}, spec)
				if x.off {
					p.vm.PowerOff()
				}
				i := p.wanting("p", x.want)
				require.Equal(t, x.got, i.Point().Consistency)
				require.Len(t, p.vm.Snapshots(), 1, "what failed left nothing")
				require.Equal(t, x.got, p.wanting("p", x.want).Point().Consistency, "found again")
			})
		}
	})

	t.Run("a machine without a place for the record is refused before anything is made", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{NoIntegration: true})
		require.True(t, p.problems()["no-exchange"].Blocker)
		_, err := p.v.Capture(ctx, p.id, "p", dr.CrashConsistent)
		requireError(t, err, dr.ErrUnsupported, "data exchange")
		require.Empty(t, p.vm.Snapshots())
	})

	t.Run("a guest that can't be asked is not off", func(t *testing.T) {
		for name, x := range map[string]struct {
			spec hypervtest.VMSpec
			is   error
			says string
		}{
			"component missing": {hypervtest.VMSpec{NoIntegration: true}, dr.ErrUnsupported, "no shutdown service"},
			"locked":            {hypervtest.VMSpec{Guest: hypervtest.Guest{Shutdown: hypervtest.ShutdownLocked}}, host.ErrBusy, "locked, or somebody is at work"},
		} {
			p := newPit(t, hypervtest.Options{}, x.spec)
			err := p.v.Shutdown(ctx, p.id)
			require.True(t, p.vm.Running(), name)
			require.ErrorContains(t, err, x.says)
			var e *dr.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Remedy)
			require.ErrorIs(t, err, x.is)
		}
	})

	t.Run("a guest that says yes and stays is never powered off", func(t *testing.T) {
		for name, g := range map[string]hypervtest.Guest{"hangs": {Shutdown: hypervtest.ShutdownHangs}, "says no": {Shutdown: hypervtest.ShutdownFails}} {
			p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{Guest: g})
			short, cancel := context.WithTimeout(ctx, shortly)
			err := p.v.Shutdown(short, p.id)
			cancel()
			require.Error(t, err, name)
			require.True(t, p.vm.Running(), name)
			require.Zero(t, p.h.Calls()["RequestStateChange"], name)
			require.Equal(t, 1, p.h.Calls()["InitiateShutdown"], "asked once")
			require.NoError(t, p.v.Stop(ctx, p.id), "it can be told to") // the caller decides
			require.False(t, p.vm.Running())
		}
	})

	t.Run("saved and paused machines are not off", func(t *testing.T) {
		for _, state := range []string{"saved", "paused"} {
			p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
			point := p.described("p")
			require.NoError(t, p.vm.SetState(state))
			m, err := p.v.Machine(ctx, p.id)
			require.NoError(t, err)
			require.NotEqual(t, dr.Off, m.Power, state)
			requireError(t, p.v.Shutdown(ctx, p.id), dr.ErrConflict, "saved, paused")
			_, err = p.v.Prepare(ctx, placementOf(p))
			requireError(t, err, dr.ErrRunning, "")
			_, err = p.v.Draft(ctx, p.id, point)
			requireError(t, err, dr.ErrRunning, "")
			// What is captured now is no machine that was shut down.
			i := p.capture("p1")
			require.Equal(t, dr.On, i.Point().Machine.Power, state)
		}
	})
}

func with(g hypervtest.Guest, change func(*hypervtest.Guest)) hypervtest.Guest {
	change(&g)
	return g
}

func pitfallsOfJobs(t *testing.T) {
	ctx := context.Background()
	const class = "Msvm_ConcreteJob"
	ended := func(o host.Object) bool { n, _ := o.Props.Int("JobState"); return n == jobCompleted }

	t.Run("warnings are a success", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		n := 0
		p.twist(class, func(o host.Object) (host.Object, error) {
			if ended(o) {
				n++
				o.Props["JobState"] = int64(jobWarnings)
			}
			return o, nil
		})
		p1 := p.point("p1")
		p.write(mib, 1)
		p.requireChanged(p.capture("p2"), p1, mib)
		require.Positive(t, n)
	})

	t.Run("a job's failure has its code and the host's words", func(t *testing.T) {
		for _, state := range []int64{jobTerminated, jobKilled, jobException} {
			p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
			undo := p.twist(class, func(o host.Object) (host.Object, error) {
				if ended(o) && o.Props["ElementName"] == "CreateSnapshot" {
					maps.Copy(o.Props, host.Props{"JobState": state, "ErrorCode": int64(32768), "ErrorDescription": "the host's\r\nown words"})
				}
				return o, nil
			})
			_, err := p.v.Capture(ctx, p.id, "p1", dr.CrashConsistent)
			require.ErrorContains(t, err, "CreateSnapshot: code 32768: the host's  own words", state)
			undo()
		}
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		p.h.FailJob("CreateSnapshot", 32768, "no")
		_, err := p.v.Capture(ctx, p.id, "p1", dr.CrashConsistent)
		require.ErrorContains(t, err, "code 32768: no")
		require.Empty(t, p.look().record.Captures, "nothing was made")
	})

	t.Run("a job that is gone has not succeeded, and is not a machine that is gone", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		gone := func(host.Object) (host.Object, error) {
			return host.Object{}, &host.Error{Op: "get", Code: 0x80041002}
		}
		undo := p.twist(class, gone)
		_, err := p.v.Capture(ctx, p.id, "p1", dr.CrashConsistent)
		require.Error(t, err)
		require.NotErrorIs(t, err, dr.ErrNotFound)
		undo()
		i := p.capture("p1") // it was made all the same
		require.Len(t, p.vm.Snapshots(), 1)
		require.NoError(t, i.Close())

		undo = p.twist(class, gone)
		err = p.v.Release(ctx, p.id, "p1")
		require.Error(t, err, "nobody knows")
		require.NotErrorIs(t, err, dr.ErrNotFound)
		undo()
		p.release("p1")
		require.Empty(t, p.vm.Snapshots())
		p.write(mib, 1)
		p.requireChanged(p.capture("p2"), i.Point(), mib)
	})

	t.Run("a machine that is busy is tried again, not degraded", func(t *testing.T) {
		windows := hypervtest.Guest{Facts: map[string]string{"OSName": "Windows Server 2022"}}
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{Guest: windows})
		p.h.FailJob("CreateSnapshot", 32775, "busy")
		_, err := p.v.Capture(ctx, p.id, "p1", dr.ApplicationConsistent)
		requireError(t, err, dr.ErrBusy, "busy")
		require.Empty(t, p.vm.Snapshots())
		i := p.wanting("p1", dr.ApplicationConsistent)
		require.Equal(t, dr.ApplicationConsistent, i.point.Consistency)
		require.NoError(t, i.Close())

		p.h.FailJob("ConvertToReferencePoint", 32775, "busy")
		requireError(t, p.v.Release(ctx, p.id, "p1"), dr.ErrBusy, "busy")
		p.release("p1")
		p.write(mib, 1)
		p.requireChanged(p.capture("p2"), i.Point(), mib)
	})

	t.Run("denied access says what to do", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		for _, what := range []string{"CreateSnapshot", "AddKvpItems", "Msvm_ComputerSystem", "Msvm_StorageAllocationSettingData"} {
			allow := p.h.Deny(what)
			_, err := p.v.Capture(ctx, p.id, "p", dr.CrashConsistent)
			requireError(t, err, fs.ErrPermission, "")
			allow()
			require.Empty(t, p.vm.Snapshots())
		}
		allow := p.h.Deny("Msvm_VirtualSystemManagementService")
		_, err := Open(ctx, p.s.options())
		require.ErrorIs(t, err, fs.ErrPermission)
		problems, err := p.v.Check(ctx)
		require.NoError(t, err)
		require.Len(t, problems, 1)
		require.NotEmpty(t, problems[0].Remedy)
		allow()
		allow = p.h.Deny("Disks.Open")
		i := p.capture("p")
		_, err = i.ReadAt(ctx, p.ids[0], make([]byte, 1), 0)
		requireError(t, err, fs.ErrPermission, "")
		allow()
	})

	t.Run("a host without Hyper-V", func(t *testing.T) {
		_, err := Open(ctx, newSite(t, hypervtest.Options{NoHyperV: true}).options())
		require.ErrorIs(t, err, dr.ErrUnsupported)
		var e *dr.Error
		require.True(t, errors.As(err, &e))
		require.Contains(t, e.Remedy, "role")
	})
}

package hyperv

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// eventually is long enough for what passes by calls.
	eventually = 10 * time.Second
	// shortly ends waits that would have no end.
	shortly = 50 * time.Millisecond
)

// placementOf asks for the machine itself.
func placementOf(p *pit) backend.Placement {
	m, _ := p.v.Machine(context.Background(), p.id)
	return backend.Placement{Original: p.id, Machine: m}
}

func pitfallsOfTornDisks(t *testing.T) {
	ctx := context.Background()
	spec := hypervtest.VMSpec{Disks: []hypervtest.DiskSpec{{Size: 2 * mib}, {Size: 2 * mib}}}

	t.Run("nobody starts a machine that is half written", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, spec)
		p.vm.PowerOff()
		point := p.described("a")
		require.NoError(t, p.fill(p.id, point, 'a'))
		d, err := p.v.Draft(ctx, p.id, dr.Point{ID: "b", Machine: point.Machine})
		require.NoError(t, err)
		require.NoError(t, p.vm.Start(), "nothing was written yet")
		p.vm.PowerOff()
		_, err = d.WriteAt(ctx, p.ids[0], []byte("x"), 0)
		requireError(t, err, dr.ErrConflict, "")
		require.NoError(t, d.Close())
		require.NoError(t, p.fill(p.id, point, 'a'))

		d, err = p.v.Draft(ctx, p.id, dr.Point{ID: "b", Machine: point.Machine})
		require.NoError(t, err)
		_, err = d.WriteAt(ctx, p.ids[0], bytes.Repeat([]byte{'b'}, 512), 0)
		require.NoError(t, err)
		require.NoError(t, d.Close())
		require.Error(t, p.vm.Start(), "a person, in Hyper-V Manager")
		requireError(t, p.v.Start(ctx, p.id), dr.ErrTorn, "")
		require.True(t, p.prepared(point.Machine).Torn)
		require.Contains(t, p.problems(), "disks-torn")
		_, err = p.v.Capture(ctx, p.id, "c", dr.CrashConsistent)
		requireError(t, err, dr.ErrTorn, "")
		require.NoError(t, p.fill(p.id, dr.Point{ID: "b", Machine: point.Machine}, 'b'))
		require.NoError(t, p.v.Start(ctx, p.id))
	})

	// What a person finds that starts the machine after a crash at any call of
	// a draft is the old content, or the new one, and never a mixture.
	t.Run("a crash at any call of a draft", func(t *testing.T) {
		for _, after := range sides() {
			p := newPit(t, hypervtest.Options{}, spec)
			p.vm.PowerOff()
			point := p.described("")
			old := byte(1)
			named := func(b byte) dr.Point {
				return dr.Point{ID: dr.PointID(fmt.Sprintf("p%d", b)), Machine: point.Machine}
			}
			require.NoError(t, p.fill(p.id, named(old), old))
			calls := 0
			for n, done := 1, false; !done; n++ {
				next := old + 1
				died := p.dieAt(n, "", after)
				err := p.fill(p.id, named(next), next)
				done = !died()
				where := fmt.Sprintf("call %d, after %v", n, after)
				if done {
					require.NoError(t, err)
				}
				p.reborn()
				if err == nil { // who died, died while tidying up
					require.Equal(t, named(next).ID, p.prepared(point.Machine).Holds, where)
					require.Equal(t, [2]byte{next, next}, [2]byte{p.first(0, 0), p.first(1, 0)}, where)
				}

				is := [2]byte{}
				read := func() { is = [2]byte{p.first(0, 0), p.first(1, 0)} }
				if n%2 == 0 {
					r := p.prepared(point.Machine)
					if !r.Torn {
						read()
						require.Equal(t, is[0], is[1], where)
					}
					if r.Holds != "" {
						require.Equal(t, named(is[0]).ID, r.Holds, where)
					}
					if r.Torn {
						require.ErrorIs(t, p.v.Start(ctx, p.id), dr.ErrTorn, where)
					}
				}
				if err := p.vm.Start(); err == nil {
					read()
					require.Equal(t, is[0], is[1], "%s: a mixture was started", where)
					require.Contains(t, []byte{old, next}, is[0], where)
					p.vm.PowerOff()
					require.Empty(t, p.prepared(point.Machine).Holds, where)
				} else {
					calls++
				}
				old = next
				require.NoError(t, p.fill(p.id, named(old), old), where)
				require.Equal(t, named(old).ID, p.prepared(point.Machine).Holds, where)
				require.Len(t, p.vm.ReferencePoints(), len(p.look().record.Epochs), "%s: one that nobody will destroy", where)
				require.Less(t, n, 200)
			}
			require.Greater(t, calls, 5, "some of them leave it torn")
		}
	})

	t.Run("a checkpoint of ours that is released meanwhile goes with the commit", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, spec)
		p.vm.PowerOff()
		i := p.capture("before") // by which the commit asks whether tracking sees what is written
		require.NoError(t, i.Close())
		p.release("before")
		i = p.capture("ours")
		require.NoError(t, i.Close())
		b := dr.Point{ID: "b", Machine: i.Point().Machine}
		d, err := p.v.Draft(ctx, p.id, b)
		require.NoError(t, err)
		_, err = d.WriteAt(ctx, p.ids[0], []byte{1}, 0)
		require.NoError(t, err)
		p.release("ours")
		require.Len(t, p.vm.Snapshots(), 1, "files of other names can't be merged")
		require.Error(t, p.vm.Start())
		require.NoError(t, d.Commit(ctx, b))
		require.NoError(t, d.Close())
		require.Empty(t, p.vm.Snapshots())
		require.EqualValues(t, 1, p.first(0, 0))
		require.NoError(t, p.vm.Start())
		p.write(mib, 2)
		next := p.capture("next")
		p.requireChanged(next, b, mib)
		p.requireChanged(next, i.Point(), 0, mib)
	})

	t.Run("a file that somebody has open leaves the machine as it was", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, spec)
		p.vm.PowerOff()
		point := p.described("a")
		require.NoError(t, p.fill(p.id, point, 'a'))
		disk, err := p.h.Disks().Open(ctx, p.vm.Disks()[1].Path, false) // a backup of the host's files
		require.NoError(t, err)
		requireError(t, p.fill(p.id, dr.Point{ID: "b", Machine: point.Machine}, 'b'), dr.ErrBusy, "")
		require.NoError(t, disk.Close())
		require.EqualValues(t, "a", p.prepared(point.Machine).Holds)
		require.NoError(t, p.vm.Start())
	})

	t.Run("a synchronization that is cancelled", func(t *testing.T) {
		for n := range 8 {
			p := newPit(t, hypervtest.Options{}, spec)
			p.vm.PowerOff()
			point := p.described("a")
			require.NoError(t, p.fill(p.id, point, 'a'))
			stop, cancel := context.WithCancel(ctx)
			seen := 0
			undo := p.h.Fail(func(c hypervtest.Call) error {
				if c.Op == "Disk.WriteAt" || c.Op == "Disks.Rename" {
					if seen++; seen == 2*n {
						cancel()
					}
				}
				return nil
			})
			if n == 0 {
				cancel()
			}
			d, err := p.v.Draft(ctx, p.id, dr.Point{ID: "b", Machine: point.Machine})
			require.NoError(t, err)
			for _, disk := range p.ids {
				if _, err = d.WriteAt(stop, disk, bytes.Repeat([]byte{'b'}, 512), 0); err != nil {
					break
				}
			}
			if err == nil {
				err = d.Commit(stop, point)
			}
			require.Equal(t, stop.Err() != nil, err != nil, "%v", err)
			require.NoError(t, d.Close())
			undo()
			cancel()
			r := p.prepared(point.Machine)
			switch {
			case err == nil:
				require.NoError(t, p.vm.Start())
			case r.Torn:
				require.Error(t, p.vm.Start(), "cancelled at %d", n)
			default:
				require.EqualValues(t, "a", r.Holds)
				require.Equal(t, []byte("aa"), []byte{p.first(0, 0), p.first(1, 0)})
				require.NoError(t, p.vm.Start())
			}
		}
	})
}

func pitfallsOfMachines(t *testing.T) {
	ctx := context.Background()

	replica := func(p *pit, key string, disks ...dr.Disk) backend.Replica {
		p.t.Helper()
		r, err := p.v.Prepare(ctx, backend.Placement{Key: key, Machine: dr.Machine{Name: "replica", Firmware: dr.UEFI, Disks: disks}})
		require.NoError(p.t, err)
		return r
	}

	t.Run("an imported copy is another machine, but torn is believed", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		first := replica(p, "k", dr.Disk{ID: "os", Size: 2 * mib, Boot: true})
		p.id = first.ID
		original := p.h.VM(string(first.ID))
		require.NoError(t, p.fill(first.ID, p.described("a"), 'a'))
		copied, err := original.CloneWithConfig("restored")
		require.NoError(t, err)
		twin := dr.MachineID(strings.ToLower(copied.ID()))

		require.Equal(t, first.ID, replica(p, "k", dr.Disk{ID: "os", Size: 2 * mib, Boot: true}).ID)
		r, err := p.v.Prepare(ctx, backend.Placement{Original: twin})
		require.NoError(t, err)
		require.Empty(t, r.Holds, "its record is of another machine")
		require.False(t, r.New)
		require.NoError(t, p.v.Remove(ctx, twin))
		require.NotNil(t, p.h.VM(string(twin)), "who imported it owns it")
		require.NoError(t, copied.Start())

		// Before it was whole.
		d, err := p.v.Draft(ctx, first.ID, dr.Point{ID: "b"})
		require.NoError(t, err)
		_, err = d.WriteAt(ctx, "os", []byte{'b'}, 0)
		require.NoError(t, err)
		m := p.look()
		r2 := m.record
		require.NoError(t, d.Close())
		require.True(t, r2.Torn)
		// A copy whose disks have their names.
		require.NoError(t, m.show(ctx))
		copied, err = original.CloneWithConfig("restored from a torn one")
		require.NoError(t, err)
		twin = dr.MachineID(strings.ToLower(copied.ID()))
		requireError(t, p.v.Start(ctx, twin), dr.ErrTorn, "")
		require.NoError(t, p.v.Remove(ctx, first.ID))
		require.NotNil(t, p.h.VM(string(twin)))
	})

	t.Run("a record of 64 disks", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		var disks []dr.Disk
		for n := range 64 {
			disks = append(disks, dr.Disk{ID: dr.DiskID(fmt.Sprintf("6000C29%025d-a long name of another platform's", n)), Size: mib, Boot: n == 0})
		}
		r := replica(p, "k", disks...)
		p.id = r.ID
		point := p.described("a")
		require.Len(t, point.Machine.Disks, 64)
		require.NoError(t, p.fill(r.ID, point, 'a'))
		require.NoError(t, p.fill(r.ID, dr.Point{ID: "b", Machine: point.Machine}, 'b'))
		items := 0
		for name, value := range p.look().kept {
			require.LessOrEqual(t, len(value), maxValue)
			items++
			require.True(t, strings.HasPrefix(name, recordName))
		}
		require.Greater(t, items, 3)
		again := replica(p, "k", disks...)
		require.Equal(t, r.ID, again.ID)
		require.EqualValues(t, "b", again.Holds)
		require.NoError(t, p.v.Start(ctx, r.ID))
		p.point("c")
		require.NoError(t, p.v.Remove(ctx, r.ID))
		require.Nil(t, p.h.VM(string(r.ID)))
	})

	t.Run("two controllers, whatever the order of their GUIDs", func(t *testing.T) {
		for range 6 {
			p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
			s := saved{Version: savedVersion, Generation: 2}
			var disks []dr.Disk
			for n := range 4 {
				id := dr.DiskID(fmt.Sprint("d", n))
				disks = append(disks, dr.Disk{ID: id, Size: mib})
				s.Disks = append(s.Disks, savedDisk{ID: id, Controller: "SCSI", Number: n / 2, Location: n % 2})
			}
			config, err := json.Marshal(s)
			require.NoError(t, err)
			place := backend.Placement{Key: "k", Machine: dr.Machine{Name: "replica", Firmware: dr.UEFI, Disks: disks, Config: config}}
			place.Machine.Disks = disks[:2]
			_, err = p.v.Prepare(ctx, place)
			require.NoError(t, err)
			place.Machine.Disks = disks // two more, on another controller
			r, err := p.v.Prepare(ctx, place)
			require.NoError(t, err)
			p.id = r.ID
			var have []dr.DiskID
			for _, d := range p.look().disks {
				have = append(have, d.id)
			}
			slices.Sort(have)
			require.Equal(t, []dr.DiskID{"d0", "d1", "d2", "d3"}, have)
		}
	})

	t.Run("somebody's disk on our replica outlives it", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		r := replica(p, "k", dr.Disk{ID: "os", Size: 2 * mib, Boot: true})
		p.id = r.ID
		m := p.look()
		theirs := folderOf(m.disks[0].path) + `\their data.vhdx`
		require.NoError(t, p.h.Disks().Create(ctx, theirs, host.DiskSpec{Size: mib}))
		controller, _, err := m.controller(ctx, slot{"SCSI", 0, 7})
		require.NoError(t, err)
		drive, err := m.addResource(ctx, classResource, subtypeDrive, host.Props{"Parent": string(controller), "AddressOnParent": "7"})
		require.NoError(t, err)
		_, err = m.addResource(ctx, classStorage, subtypeDisk, host.Props{"Parent": string(drive), "HostResource": []string{theirs}})
		require.NoError(t, err)
		ours := m.disks[0].path
		require.NoError(t, p.v.Remove(ctx, r.ID))
		require.Nil(t, p.h.VM(string(r.ID)))
		is, err := p.h.Disks().Exists(ctx, theirs)
		require.NoError(t, err)
		require.True(t, is)
		is, err = p.h.Disks().Exists(ctx, ours)
		require.NoError(t, err)
		require.False(t, is)
	})

	t.Run("somebody's copy of our disk outlives it", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		r := replica(p, "k", dr.Disk{ID: "os", Size: 2 * mib, Boot: true})
		p.id = r.ID
		m := p.look()
		ours := m.disks[0]
		_, err := p.h.AddVM(hypervtest.VMSpec{Name: "copied", Disks: []hypervtest.DiskSpec{{Size: 2 * mib, VirtualDiskID: ours.uuid, Path: `C:\Theirs\copy.vhdx`}}})
		require.NoError(t, err)
		controller, _, err := m.controller(ctx, slot{"SCSI", 0, 7})
		require.NoError(t, err)
		drive, err := m.addResource(ctx, classResource, subtypeDrive, host.Props{"Parent": string(controller), "AddressOnParent": "7"})
		require.NoError(t, err)
		_, err = m.addResource(ctx, classStorage, subtypeDisk, host.Props{"Parent": string(drive), "HostResource": []string{`C:\Theirs\copy.vhdx`}})
		require.NoError(t, err)
		require.NoError(t, p.v.Remove(ctx, r.ID))
		for path, want := range map[string]bool{`C:\Theirs\copy.vhdx`: true, ours.path: false} {
			is, err := p.h.Disks().Exists(ctx, path)
			require.NoError(t, err)
			require.Equal(t, want, is, path)
		}
	})

	t.Run("an original is never removed", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		require.NoError(t, p.v.Remove(ctx, p.id))
		require.True(t, p.vm.Running())
		r := replica(p, "k", dr.Disk{ID: "os", Size: 2 * mib})
		_, err := p.v.Prepare(ctx, backend.Placement{Original: r.ID}) // it has become somebody's
		require.NoError(t, err)
		require.NoError(t, p.v.Remove(ctx, r.ID))
		require.NotNil(t, p.h.VM(string(r.ID)))
	})

	t.Run("names of switches", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
		guid := p.h.Switch("twice")
		p.h.Switch("twice")
		odd := ` "LAN" 'ü' % _ \ [Büro]; DROP `
		p.h.Switch(odd)
		to := func(name string) error {
			r, err := p.v.Prepare(ctx, backend.Placement{Key: "k", Networks: map[string]string{"lan": name},
				Machine: dr.Machine{Name: odd, Disks: []dr.Disk{{ID: "os", Size: mib}}, NICs: []dr.NIC{{ID: "card", Network: "lan"}}}})
			if err == nil {
				m, err := p.v.Machine(ctx, r.ID)
				require.NoError(t, err)
				require.Equal(t, odd, m.Name)
				want := name
				if name == guid {
					want = "twice"
				}
				require.Equal(t, want, m.NICs[0].Network)
			}
			return err
		}
		vms := len(p.h.VMs())
		require.ErrorIs(t, to("twice"), dr.ErrAmbiguous)
		err := to("Twice")
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.ErrorContains(t, err, "production")
		require.Len(t, p.h.VMs(), vms, "refused before anything was made")
		require.NoError(t, to(guid))
		require.NoError(t, to(odd))
		require.NoError(t, to("production"))
	})

	t.Run("disks of 4K sectors, out and home", func(t *testing.T) {
		p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{Disks: []hypervtest.DiskSpec{{Size: 2 * mib, Sector4K: true}, {Size: 2*mib + 512}}})
		p.write(4096, 4)
		i := p.capture("p1")
		b := make([]byte, 1000)
		_, err := i.ReadAt(ctx, p.ids[0], b, 4096+1)
		require.NoError(t, err)
		require.EqualValues(t, 4, b[0])
		require.NoError(t, i.Close())
		p.release("p1")
		m := i.Point().Machine

		// Out: another machine has them as they were.
		r, err := p.v.Prepare(ctx, backend.Placement{Key: "k", Machine: m})
		require.NoError(t, err)
		x, err := p.v.find(ctx, r.ID)
		require.NoError(t, err)
		for _, d := range x.disks {
			want := uint32(512)
			if d.id == p.ids[0] {
				want = 4096
			}
			require.Equal(t, want, d.info.LogicalSector)
		}
		require.NoError(t, p.fill(r.ID, i.Point(), 'x'))
		require.NoError(t, p.v.Start(ctx, r.ID))

		// Home, with bytes that are no whole sectors of it.
		p.vm.PowerOff()
		p.prepared(m)
		d, err := p.v.Draft(ctx, p.id, dr.Point{ID: "p2", Machine: m})
		require.NoError(t, err)
		_, err = d.WriteAt(ctx, p.ids[0], bytes.Repeat([]byte{9}, 512), 4096+512)
		require.NoError(t, err)
		require.NoError(t, d.Commit(ctx, dr.Point{ID: "p2", Machine: m}))
		require.NoError(t, d.Close())
		require.EqualValues(t, 4, p.first(0, 4096))
		require.EqualValues(t, 9, p.first(0, 4096+512))
		require.EqualValues(t, 0, p.first(0, 4096+1024))
		require.NoError(t, p.v.Start(ctx, p.id))
	})
}

package vmware

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// meanwhile lets something happen before each call of a kind is sent.
type meanwhile struct {
	soap.RoundTripper
	call   string
	before func()
}

func (s *meanwhile) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	if callName(req) == s.call {
		s.before()
	}
	return s.RoundTripper.RoundTrip(ctx, req, res)
}

// The record is read, changed and written: what another process writes between is
// not lost, and what somebody else changes of the machine between is no failure.
func TestRecordsOfTwoProcesses(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	other := connect(t, p.w.o)
	change := func(f func(*machine)) {
		m, err := other.find(t.Context(), p.id)
		require.NoError(t, err)
		f(m)
	}
	n := 0
	p.v.session.next = &meanwhile{RoundTripper: p.v.session.next, call: "ReconfigVM_Task", before: func() {
		if n++; n == 1 { // a person, between our reading and our writing
			change(func(m *machine) {
				require.NoError(t, other.reconfigure(t.Context(), m, types.VirtualMachineConfigSpec{Annotation: "a note"}))
			})
		}
	}}
	m := p.look()
	require.NoError(t, p.v.save(t.Context(), m, record{Key: "ours"}))
	require.Equal(t, 2, n, "the first was stale")
	require.Equal(t, "ours", p.look().record.Key)

	m = p.look()
	change(func(m *machine) { require.NoError(t, other.save(t.Context(), m, record{Key: "theirs"})) })
	err := p.v.save(t.Context(), m, record{Key: "ours again"})
	require.ErrorIs(t, err, dr.ErrConflict)
	require.Equal(t, "theirs", p.look().record.Key)
}

// Two processes that write one machine: at most one of them commits, and never
// one over what the other began since.
func TestDraftsOfTwoProcesses(t *testing.T) {
	ctx := t.Context()
	for _, order := range []string{"the first commits", "the second commits", "the second wrote nothing"} {
		t.Run(order, func(t *testing.T) {
			p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
			other := connect(t, p.w.o)
			a := p.point("a")
			b := a
			b.ID = "b"
			first, err := p.v.Draft(ctx, p.id, a)
			require.NoError(t, err)
			defer first.Close()
			second, err := other.Draft(ctx, p.id, b)
			require.NoError(t, err)
			defer second.Close()
			write := func(d dr.Draft) {
				_, err := d.WriteAt(ctx, p.ids[0], []byte("bytes"), 0)
				require.NoError(t, err)
			}
			write(first)
			if order != "the second wrote nothing" {
				_, err := second.WriteAt(ctx, p.ids[0], []byte("bytes"), 0)
				require.ErrorContains(t, err, "locked", "the first has the disk open")
				require.ErrorIs(t, first.Commit(ctx, a), dr.ErrConflict)
				require.True(t, p.look().record.Torn)
			} else {
				require.ErrorIs(t, second.Commit(ctx, b), dr.ErrConflict)
				require.True(t, p.look().record.Torn)
				require.NoError(t, first.Commit(ctx, a))
				require.EqualValues(t, "a", p.holds(p.id, a.Machine).Holds)
				return
			}
			require.NoError(t, first.Close())
			if order == "the second commits" {
				write(second)
				require.NoError(t, second.Commit(ctx, b))
				require.NoError(t, second.Commit(ctx, b))
				require.EqualValues(t, "b", p.holds(p.id, a.Machine).Holds)
				p.requireLost(p.capture("later"), a, "may not have seen")
			}
		})
	}
}

// A commit whose last answer was lost is repeated, and is no conflict with
// itself.
func TestCommitWhoseAnswerWasLost(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	point := p.point("p")
	d, err := p.v.Draft(t.Context(), p.id, point)
	require.NoError(t, err)
	defer d.Close()
	_, err = d.WriteAt(t.Context(), p.ids[0], []byte("bytes"), 0)
	require.NoError(t, err)
	armed := p.sim.Fault(vmwaretest.Fault{Call: "ReconfigVM_Task", When: vmwaretest.AfterEffect, Drop: true})
	require.Error(t, d.Commit(t.Context(), point))
	require.Equal(t, 1, armed.Hits())
	require.NoError(t, d.Commit(t.Context(), point))
	require.EqualValues(t, "p", p.holds(p.id, point.Machine).Holds)

	// It is over: its disks are not opened again.
	require.ErrorIs(t, d.(dr.Summer).Sums(t.Context(), p.ids[0], 0, make([]dr.Sum, 1)), dr.ErrInvalid)
	_, err = d.WriteAt(t.Context(), p.ids[0], []byte("more"), 0)
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.NoError(t, p.v.Start(t.Context(), p.id))
}

// A record that can't be read stops what depends on it, says what to do, and
// nothing else: snapshots go, and the machine can be stopped.
func TestUnreadableRecords(t *testing.T) {
	ctx := t.Context()
	for name, x := range map[string]struct {
		raw string
		is  error
		say string
	}{
		"damaged":          {`{"v":1,"self":`, dr.ErrCorrupt, "remove that value"},
		"other types":      {`{"v":1,"self":7}`, dr.ErrCorrupt, "remove that value"},
		"a later version":  {`{"v":2,"self":"x"}`, dr.ErrUnsupported, "newer Lifeboat"},
		"of a later shape": {`{"v":3,"self":7,"torn":"in part"}`, dr.ErrUnsupported, "newer Lifeboat"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
			i := p.capture("p")
			m := p.look()
			require.NoError(t, p.v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: recordKey, Value: x.raw}}}))
			for what, f := range map[string]func() error{
				"machine": func() error { _, err := p.v.Machine(ctx, p.id); return err },
				"capture": func() error { _, err := p.v.Capture(ctx, p.id, "q", dr.CrashConsistent); return err },
				"prepare": func() error {
					_, err := p.v.Prepare(ctx, backend.Placement{Original: p.id, Machine: i.Point().Machine})
					return err
				},
				"draft":  func() error { _, err := p.v.Draft(ctx, p.id, i.Point()); return err },
				"start":  func() error { return p.v.Start(ctx, p.id) },
				"remove": func() error { return p.v.Remove(ctx, p.id) },
			} {
				err := f()
				require.ErrorIs(t, err, x.is, what)
				require.ErrorContains(t, err, x.say, what)
				require.ErrorContains(t, err, string(p.id), what)
			}
			require.NoError(t, p.v.Release(ctx, p.id, "p"))
			require.Zero(t, p.vm.Snapshots())
			require.NoError(t, p.v.Stop(ctx, p.id))
			_, err := p.v.Prepare(ctx, backend.Placement{Key: "k", Machine: i.Point().Machine})
			require.NoError(t, err, "another machine's record is nobody's trouble")
		})
	}
}

// Two disks with one UUID can't be told apart, and are never mistaken.
func TestTwinDisks(t *testing.T) {
	one := "6000c298-0000-0000-0000-0eea3a343152"
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib, UUID: one}, {Size: mib, UUID: strings.ToUpper(one)}}})
	m := p.look().describe()
	_, err := p.v.Capture(t.Context(), p.id, "p", dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrAmbiguous)
	require.ErrorContains(t, err, one)
	require.Zero(t, p.vm.Snapshots())
	m.Disks = m.Disks[:1]
	_, err = p.v.Prepare(t.Context(), backend.Placement{Original: p.id, Machine: m})
	require.ErrorIs(t, err, dr.ErrAmbiguous)
	_, err = p.v.Draft(t.Context(), p.id, dr.Point{ID: "p", Machine: m})
	require.ErrorIs(t, err, dr.ErrAmbiguous)
}

// A suspended machine isn't asked again and again, and isn't off.
func TestSuspendedMachine(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	_, err := p.v.run(ctx, func() (*object.Task, error) {
		return object.NewVirtualMachine(p.v.client, p.vm.Reference()).Suspend(ctx)
	})
	require.NoError(t, err)
	before := p.sim.Calls("")
	err = p.v.Shutdown(ctx, p.id)
	require.ErrorIs(t, err, dr.ErrConflict)
	require.ErrorContains(t, err, "suspended")
	require.Less(t, p.sim.Calls("")-before, 10)
	_, err = p.v.Draft(ctx, p.id, dr.Point{ID: "p", Machine: p.look().describe()})
	require.ErrorIs(t, err, dr.ErrRunning)
}

// A machine that is neither on nor off for a moment isn't asked in a hurry.
func TestShutdownWaitsBetweenQuestions(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	defer p.sim.Fault(vmwaretest.Fault{Call: "ShutdownGuest", Times: -1, Err: &types.InvalidPowerState{ExistingState: types.VirtualMachinePowerStatePoweredOn}}).Remove()
	before := p.sim.Calls("ShutdownGuest")
	require.ErrorIs(t, p.v.Shutdown(ctx, p.id), context.DeadlineExceeded)
	require.Less(t, p.sim.Calls("ShutdownGuest")-before, 10)
}

// Removing a machine that Prepare made leaves the disk that somebody attached to
// it.
func TestRemoveLeavesForeignDisks(t *testing.T) {
	ctx := t.Context()
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{Name: "theirs", Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}, {Size: mib}}})
	require.NoError(t, p.vm.WriteDisk(p.keys[1], []byte("precious"), 0))
	file := p.look().disks[1].file
	require.NoError(t, p.vm.Detach(p.keys[1]))
	theirs := *p
	p.add(oneDisk(mib))
	point := p.point("p")
	r, err := p.v.Prepare(ctx, backend.Placement{Key: "k", Machine: point.Machine})
	require.NoError(t, err)
	vm, _, err := p.w.vm(r.ID)
	require.NoError(t, err)
	_, err = vm.Attach(file, types.VirtualDiskModePersistent)
	require.NoError(t, err)
	_, err = p.v.Capture(ctx, r.ID, "q", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, p.v.Remove(ctx, r.ID))
	_, err = p.v.Machine(ctx, r.ID)
	require.ErrorIs(t, err, dr.ErrNotFound)
	key, err := theirs.vm.Attach(file, types.VirtualDiskModePersistent)
	require.NoError(t, err)
	b := make([]byte, 8)
	_, err = theirs.vm.Read(key, b, 0)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}

// Names that a record or a vault couldn't keep are refused before anything is
// made.
func TestUnnameable(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	before := p.sim.Calls("CreateVM_Task")
	for _, ids := range [][]dr.DiskID{{"a\xff"}, {""}, {"a", "a"}} {
		m := dr.Machine{ID: "m", Name: "m"}
		for _, id := range ids {
			m.Disks = append(m.Disks, dr.Disk{ID: id, Size: mib})
		}
		_, err := p.v.Prepare(t.Context(), backend.Placement{Key: "k", Machine: m})
		require.ErrorIs(t, err, dr.ErrInvalid, fmt.Sprintf("%q", ids))
	}
	require.Equal(t, before, p.sim.Calls("CreateVM_Task"))
}

// Of a machine whose host is lost nobody knows whether it runs: it is neither
// taken for started nor for stopped.
func TestUnknownPower(t *testing.T) {
	for _, power := range []types.VirtualMachinePowerState{types.VirtualMachinePowerStatePoweredOn, types.VirtualMachinePowerStatePoweredOff} {
		m := &machine{id: "m"}
		m.props.Runtime = types.VirtualMachineRuntimeInfo{PowerState: power, ConnectionState: types.VirtualMachineConnectionStateDisconnected}
		_, err := startable(m)
		require.ErrorContains(t, err, "it is disconnected")
		require.ErrorContains(t, writableNow(m), "it is disconnected")
		require.NotErrorIs(t, writableNow(m), dr.ErrRunning)
	}
}

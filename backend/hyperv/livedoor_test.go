package hyperv

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// livePrefix begins the names of all machines that the live suite makes. What
// bears it on the host is removed before and after.
const livePrefix = "lifeboat-live-"

// live is the suite's hands on any host, a real one or the simulator: it uses
// nothing that a host doesn't offer. Nobody can write inside a guest from outside,
// so the machine is switched off for a moment, its disks are written, and it is
// switched on again: what is captured, tracked and held is the same.
type live struct {
	t testing.TB
	v *HyperV
}

// withoutGuest shows the abilities that need no system inside of the machines,
// which have none.
type withoutGuest struct {
	backend.Backend
	backend.Lister
	backend.Sweeper
	backend.Forgetter
	backend.Preflighter
	backend.NetworkLister
}

func hideGuest(v *HyperV) backend.Backend { return withoutGuest{v, v, v, v, v, v} }

// liveHarness shows what an earlier run left, and removes it.
func liveHarness(t testing.TB, o Options) backendtest.Harness {
	v, err := Open(context.Background(), o)
	require.NoError(t, err)
	l := &live{t, v}
	l.clean("left by an earlier run")
	t.Cleanup(func() { l.clean("left by this run") })
	return backendtest.Harness{
		Backend: hideGuest(v),
		Machine: func(t backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
			id, err := l.make(disks)
			if err == nil {
				t.Cleanup(func() { l.remove(id) })
			}
			return id, err
		},
		Power: func(id dr.MachineID, p dr.Power) error { return l.power(id, p == dr.On) },
		Write: l.write,
		Read:  l.read,
		Place: func(p backend.Placement) backend.Placement {
			p.Name = livePrefix + "replica"
			return p
		},
		Forgets: true,
	}
}

func (l *live) make(disks []dr.Disk) (dr.MachineID, error) {
	ctx := context.Background()
	r, err := l.v.Prepare(ctx, backend.Placement{Key: livePrefix + rand.Text(), Name: livePrefix + "original",
		Machine: dr.Machine{Disks: disks, Firmware: dr.UEFI, CPUs: 1, Memory: 512 << 20, NICs: []dr.NIC{{ID: "nic0"}}}})
	if err != nil {
		return "", err
	}
	return r.ID, l.v.changing(ctx, r.ID, func(m *machine) error { // from now on it is somebody's
		return l.v.save(ctx, m, record{Disks: m.record.Disks, Folder: m.record.Folder})
	})
}

func (l *live) power(id dr.MachineID, on bool) error {
	ctx := context.Background()
	return l.v.changingAny(ctx, id, func(m *machine) error {
		if !on {
			return m.powerOff(ctx)
		}
		return m.change(ctx, stateOn)
	})
}

// with lends a disk of a machine that is off for the moment.
func (l *live) with(id dr.MachineID, disk dr.DiskID, write bool, f func(host.Disk) error) error {
	ctx := context.Background()
	return l.v.changing(ctx, id, func(m *machine) error {
		on := m.power() == dr.On
		if write && !on {
			return errors.New("the machine is off")
		}
		if err := m.powerOff(ctx); err != nil {
			return err
		}
		m, err := l.v.again(ctx, m)
		if err != nil {
			return err
		}
		d, ok := m.disk(disk)
		if !ok {
			return dr.ErrNotFound
		}
		x, err := m.node.disks.Open(ctx, d.at, write)
		if err != nil {
			return err
		}
		if err := errors.Join(f(x), x.Flush(), x.Close()); err != nil || !on {
			return err
		}
		return m.change(ctx, stateOn)
	})
}

func (l *live) write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	return l.with(id, disk, true, func(d host.Disk) error {
		_, err := d.WriteAt(p, off)
		return err
	})
}

func (l *live) read(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	return l.with(id, disk, false, func(d host.Disk) error {
		if n, err := d.ReadAt(p, off); n < len(p) {
			return err
		}
		return nil
	})
}

// clean removes the suite's machines, and says which.
func (l *live) clean(why string) {
	ctx := context.Background()
	for m, err := range l.v.Machines(ctx) {
		if err != nil || !strings.HasPrefix(m.Name, livePrefix) || m.Name == livePrefix+"linux" { // the script's
			continue
		}
		l.t.Logf("%s: machine %s (%s) is removed", why, m.Name, m.ID)
		l.remove(m.ID)
	}
}

// remove removes a machine that the suite has made.
func (l *live) remove(id dr.MachineID) {
	ctx := context.Background()
	err := l.v.changingAny(ctx, id, func(m *machine) error {
		r := m.record
		r.Made = true
		return l.v.save(ctx, m, r)
	})
	if !errors.Is(err, dr.ErrNotFound) {
		require.NoError(l.t, err)
		require.NoError(l.t, l.v.Remove(ctx, id))
	}
}

// The door that a real host goes through, on the simulated one.
func TestLiveDoor(t *testing.T) {
	if testing.Short() {
		t.Skip("TestContract isn't skipped")
	}
	s := newSite(t, hypervtest.Options{})
	h := liveHarness(t, s.options())
	h.Histories, h.Seed = 1, *seed
	backendtest.Run(t, h)
}

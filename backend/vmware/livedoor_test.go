package vmware

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// livePrefix begins the names of all machines that the live suite makes. What
// bears it in the suite's folder is removed before and after.
const livePrefix = "lifeboat-live-"

// live is the suite's hands on any vCenter, a real one or the simulator: it uses
// nothing that a vCenter doesn't offer. Nobody can write inside a guest from
// outside, so the machine is switched off for a moment, its disks are written by
// the transport, and it is switched on again: what is captured, tracked and
// held is the same.
type live struct {
	t     testing.TB
	o     Options
	v     *VSphere
	where PlaceOptions
}

// liveHarness connects, shows what an earlier run left, and removes it.
func liveHarness(t testing.TB, o Options, where PlaceOptions) backendtest.Harness {
	l := &live{t: t, o: o, v: connect(t, o), where: where}
	l.clean("left by an earlier run")
	t.Cleanup(func() { l.clean("left by this run") })
	return backendtest.Harness{
		Backend: l.v,
		Machine: func(_ backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
			return l.make(disks, "")
		},
		Power: func(id dr.MachineID, p dr.Power) error { return l.power(id, p == dr.On) },
		Write: l.write,
		Read:  l.read,
		Reopen: func() (backend.Backend, error) {
			die(l.o)
			v, err := Open(context.Background(), l.o)
			if err == nil {
				t.Cleanup(func() { _ = v.Close(context.Background()) })
			}
			return v, err
		},
		Grow: l.grow,
		LoseChanges: func(id dr.MachineID) error {
			// As VMware says to reset tracking: without snapshots, off and on.
			return l.change(id, func(ctx context.Context, m *machine) error {
				if err := l.v.untrack(ctx, m); err != nil {
					return err
				}
				return l.v.track(ctx, m)
			})
		},
		Duplicate: func(_ backendtest.T, id dr.MachineID) error {
			m, err := l.v.find(context.Background(), id)
			if err == nil {
				_, err = l.make(m.describe().Disks, m.record.Key)
			}
			return err
		},
		Inventory: l.inventory,
		Place: func(p backend.Placement) backend.Placement {
			options, err := json.Marshal(where)
			require.NoError(t, err)
			p.Options = options
			if p.Original == "" {
				p.Name = livePrefix + rand.Text()[:10]
				if m, err := l.v.findByKey(context.Background(), p.Key); err == nil && len(m) == 1 {
					p.Name = m[0].props.Name
				}
			}
			return p
		},
		SizeUnit:  1 << 20,
		Forgets:   true,
		Histories: 2,
	}
}

// ours lists the machines that bear the prefix.
func (l *live) ours() ([]*machine, error) {
	var all []*machine
	f := Filter{Names: []string{livePrefix + "*"}}
	if l.where.Folder != "" && strings.HasPrefix(l.where.Folder, "/") {
		f.Folders = []string{l.where.Folder}
	}
	for m, err := range l.v.List(context.Background(), f) {
		if err != nil {
			return nil, err
		}
		found, err := l.v.find(context.Background(), m.ID)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return all, nil
}

func (l *live) clean(why string) {
	all, err := l.ours()
	require.NoError(l.t, err)
	for _, m := range all {
		l.t.Logf("%s, removed now: %s (%s)", why, m.props.Name, m.id)
	}
	for _, m := range all {
		require.NoError(l.t, l.destroy(m))
	}
}

func (l *live) destroy(m *machine) error {
	ctx := context.Background()
	if err := l.v.powerOff(ctx, m); err != nil {
		return err
	}
	_, err := l.v.run(ctx, func() (*object.Task, error) { return object.NewVirtualMachine(l.v.client, m.ref).Destroy(ctx) })
	return err
}

// make makes a machine that is no replica, unless key says so.
func (l *live) make(disks []dr.Disk, key string) (dr.MachineID, error) {
	ctx := context.Background()
	name := livePrefix + rand.Text()[:10]
	c, err := l.v.creation(ctx, backend.Placement{Key: "live/" + name, Name: name, Isolated: true, Machine: dr.Machine{
		Name: name, Disks: disks, CPUs: 1, Memory: 256 << 20, NICs: []dr.NIC{{ID: "nic-4000", Network: "production"}}}}, l.where)
	if err != nil {
		return "", err
	}
	r := record{Disks: c.record.Disks, Key: key, Made: key != ""}
	c.spec.ExtraConfig = append(withoutRecord(c.spec.ExtraConfig), r.encode(c.id))
	_, err = l.v.run(ctx, func() (*object.Task, error) {
		return object.NewFolder(l.v.client, c.target.folder).CreateVM(ctx, c.spec, object.NewResourcePool(l.v.client, c.target.pool), nil)
	})
	return c.id, err
}

// change runs f on a machine without snapshots.
func (l *live) change(id dr.MachineID, f func(context.Context, *machine) error) error {
	ctx := context.Background()
	if _, err := l.v.release(ctx, id, func(dr.PointID) bool { return false }); err != nil {
		return err
	}
	return l.v.changing(ctx, id, func(m *machine) error { return f(ctx, m) })
}

func (l *live) power(id dr.MachineID, on bool) error {
	ctx := context.Background()
	return l.v.changing(ctx, id, func(m *machine) error { return l.turn(ctx, m, on) })
}

func (l *live) turn(ctx context.Context, m *machine, on bool) error {
	if !on {
		return l.v.powerOff(ctx, m)
	}
	_, err := l.v.run(ctx, func() (*object.Task, error) { return object.NewVirtualMachine(l.v.client, m.ref).PowerOn(ctx) })
	if isAlready(err, types.VirtualMachinePowerStatePoweredOn) {
		return nil
	}
	return err
}

func (l *live) write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	ctx := context.Background()
	return l.v.changing(ctx, id, func(m *machine) error {
		if m.off() {
			return fmt.Errorf("the machine is off: no guest can write")
		}
		if err := l.turn(ctx, m, false); err != nil {
			return err
		}
		err := errors.New("not tried")
		for try := 0; err != nil && try < 5; try++ {
			// A snapshot that comes or goes meanwhile moves the bytes to
			// another file.
			err = l.use(ctx, m, disk, true, func(d device) error {
				w, _ := dr.As[writable](d)
				if _, err := w.WriteAt(ctx, p, off); err != nil {
					return err
				}
				return w.Flush(ctx)
			})
		}
		return errors.Join(err, l.turn(ctx, m, true))
	})
}

func (l *live) read(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	ctx := context.Background()
	return l.v.changing(ctx, id, func(m *machine) error {
		return l.use(ctx, m, disk, false, func(d device) error {
			_, err := d.ReadAt(ctx, p, off)
			return err
		})
	})
}

// use lends a disk of a stopped machine.
func (l *live) use(ctx context.Context, m *machine, disk dr.DiskID, write bool, f func(device) error) error {
	m, err := l.v.look(ctx, m.ref)
	if err != nil {
		return err
	}
	x, ok := m.disk(disk)
	if !ok {
		return dr.ErrNotFound
	}
	at, err := l.v.placeOf(ctx, x.datastore)
	if err != nil {
		return err
	}
	o := newOpenDisks(l.v, write)
	o.refs[disk] = diskRef{machine: m.id, disk: disk, vm: m.ref, host: hostOf(m), key: x.key, file: x.file, delta: x.delta, uuid: x.uuid, size: x.size, place: at}
	err = o.lend(ctx, disk, func(_ context.Context, d device) error { return f(d) })
	return errors.Join(err, o.close())
}

func (l *live) grow(id dr.MachineID, disk dr.DiskID, size int64) error {
	return l.change(id, func(ctx context.Context, m *machine) error {
		changes, err := growDisks(m, []dr.Disk{{ID: disk, Size: size}})
		if err != nil {
			return err
		}
		return l.v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{DeviceChange: changes})
	})
}

func (l *live) inventory() ([]string, error) {
	all, err := l.ours()
	var names []string
	for _, m := range all {
		names = append(names, string(m.id))
		for _, d := range m.disks {
			names = append(names, string(m.id)+"/"+string(d.id))
		}
		for _, s := range m.snapshots() {
			names = append(names, string(m.id)+"@"+s.name)
		}
	}
	slices.Sort(names)
	return names, err
}

// The door through which the suite goes to a real vCenter leads to the simulator
// here.
func TestLiveDoor(t *testing.T) {
	if testing.Short() {
		t.Log("TestContract covers it")
		return
	}
	w := newVCenter(t, vmwaretest.Options{})
	h := liveHarness(t, w.o, PlaceOptions{Datastore: "vmfs-0", IsolatedNetwork: "isolated"})
	h.Seed = *seed
	backendtest.Run(t, h)
}

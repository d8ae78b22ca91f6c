package roundtriptest_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// network is what every platform has, and everywhere names it for cards that
// come from any of them.
const network = "prod"

var everywhere = map[string]string{network: network, network + "/default": network, production + "/" + network + "/default": network}

// host is a host of machines on image files, whose guests' writes pass through
// this process.
type host struct {
	h       *physical.Host
	tracker *physical.BitmapTracker
	folder  string
	starts  func() // called when a machine starts; may be nil

	mu    sync.Mutex
	gates map[dr.MachineID]*gate
}

// gate lets a guest write while its machine is on and not frozen.
type gate struct {
	sync.RWMutex
	on     bool
	frozen bool // by who holds the lock
}

func hosts(t *testing.T, name string) roundtriptest.End { return newHost(t).end(name) }

func newHost(t *testing.T) *host {
	x := &host{tracker: physical.NewBitmapTracker(0), folder: t.TempDir(), gates: map[dr.MachineID]*gate{}}
	power := func(on bool) physical.Hook {
		return func(_ context.Context, e physical.Event) error {
			g := x.gate(e.Machine.ID)
			g.Lock()
			defer g.Unlock()
			if g.on = on; on && x.starts != nil {
				x.starts()
			}
			return nil
		}
	}
	var err error
	x.h, err = physical.Open(physical.Config{Root: t.TempDir(), Tracker: x.tracker, LastPass: 128 << 10, Hooks: physical.Hooks{
		Start: power(true), Stop: power(false), Shutdown: power(false), Freeze: x.freeze, Thaw: x.thaw,
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.h.Close()) })
	return x
}

func (x *host) end(name string) roundtriptest.End {
	return roundtriptest.End{Name: name, Where: failover.Where{Networks: everywhere}, Harness: backendtest.Harness{
		Backend: x.h, Volatile: true,
		Machine: x.add, Power: x.power, Write: x.write, Read: x.read,
	}}
}

func (x *host) gate(id dr.MachineID) *gate {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.gates[id] == nil {
		x.gates[id] = &gate{}
	}
	return x.gates[id]
}

func (x *host) freeze(_ context.Context, e physical.Event) error {
	g := x.gate(e.Machine.ID)
	g.Lock()
	g.frozen = true
	return nil
}

func (x *host) thaw(_ context.Context, e physical.Event) error {
	if g := x.gate(e.Machine.ID); g.frozen { // a freeze that failed is thawed, too
		g.frozen = false
		g.Unlock()
	}
	return nil
}

func (x *host) add(_ backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
	m := physical.Machine{ID: "app", Power: dr.Off, NICs: []dr.NIC{{ID: "nic0", Network: network}}}
	for _, d := range disks {
		path := filepath.Join(x.folder, string(d.ID))
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, d.Size)); err != nil {
			return "", err
		}
		m.Disks = append(m.Disks, physical.Disk{ID: d.ID, Path: path, Boot: d.Boot})
	}
	return m.ID, x.h.Add(m)
}

func (x *host) power(id dr.MachineID, p dr.Power) error {
	if p == dr.On {
		return x.h.Start(context.Background(), id)
	}
	return x.h.Stop(context.Background(), id)
}

func (x *host) path(id dr.MachineID, disk dr.DiskID) (string, error) {
	paths, err := x.h.Paths(id)
	if err != nil {
		return "", err
	}
	m, err := x.h.Machine(context.Background(), id)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(m.Disks, func(d dr.Disk) bool { return d.ID == disk })
	if i < 0 {
		return "", dr.ErrNotFound
	}
	return paths[i], nil
}

func (x *host) write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	path, err := x.path(id, disk)
	if err != nil {
		return err
	}
	g := x.gate(id)
	g.RLock()
	defer g.RUnlock()
	if !g.on {
		return errors.New("the machine is off")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	x.tracker.Mark(id, disk, off, int64(len(p)))
	defer x.tracker.Mark(id, disk, off, int64(len(p)))
	_, err = f.WriteAt(p, off)
	return errors.Join(err, f.Close())
}

func (x *host) read(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	path, err := x.path(id, disk)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadFull(io.NewSectionReader(f, off, int64(len(p))), p)
	return err
}

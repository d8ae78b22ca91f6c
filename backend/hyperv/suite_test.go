package hyperv

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// process is what a process has of a host. When it dies its open disks are
// closed, as Windows does.
type process struct {
	host.Disks
	mu   sync.Mutex
	open map[host.Disk]bool
}

func (p *process) Open(ctx context.Context, path string, write bool) (host.Disk, error) {
	d, err := p.Disks.Open(ctx, path, write)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	own := &ownDisk{d, p}
	p.open[own] = true
	return own, nil
}

func (p *process) kill() {
	p.mu.Lock()
	open := p.open
	p.open = map[host.Disk]bool{}
	p.mu.Unlock()
	for d := range open {
		_ = d.(*ownDisk).Disk.Close()
	}
}

type ownDisk struct {
	host.Disk
	p *process
}

func (d *ownDisk) Close() error {
	d.p.mu.Lock()
	delete(d.p.open, d)
	d.p.mu.Unlock()
	return d.Disk.Close()
}

// site is a simulated host, or a cluster, in a test's hands.
type site struct {
	t     testing.TB
	nodes []*hypervtest.Host

	mu    sync.Mutex
	procs []*process
	uuids map[dr.MachineID]map[dr.DiskID]string
}

func newSite(t testing.TB, o hypervtest.Options) *site {
	h := hypervtest.New(t, o)
	h.Switch("production")
	h.Switch("isolated")
	return siteOf(t, h)
}

func siteOf(t testing.TB, nodes ...*hypervtest.Host) *site {
	s := &site{t: t, nodes: nodes, uuids: map[dr.MachineID]map[dr.DiskID]string{}}
	t.Cleanup(s.kill)
	return s
}

// kill lets every process die that was opened.
func (s *site) kill() {
	s.mu.Lock()
	procs := s.procs
	s.procs = nil
	s.mu.Unlock()
	for _, p := range procs {
		p.kill()
	}
}

func (s *site) options() Options {
	o := Options{Poll: time.Microsecond}
	for _, h := range s.nodes {
		p := &process{Disks: h.Disks(), open: map[host.Disk]bool{}}
		s.mu.Lock()
		s.procs = append(s.procs, p)
		s.mu.Unlock()
		o.Nodes = append(o.Nodes, Node{Name: h.Name(), Conn: h.Conn(), Disks: p})
	}
	return o
}

// connect is a new process.
func (s *site) connect() *HyperV {
	v, err := Open(context.Background(), s.options())
	require.NoError(s.t, err)
	return v
}

// vm finds the simulator's machine, on whichever node it is.
func (s *site) vm(id dr.MachineID) (*hypervtest.VM, error) {
	for _, h := range s.nodes {
		if vm := h.VM(strings.ToUpper(string(id))); vm != nil {
			return vm, nil
		}
	}
	return nil, fmt.Errorf("the simulator has no machine %s", id)
}

// disk finds it, and what it calls one of its disks.
func (s *site) disk(id dr.MachineID, disk dr.DiskID) (*hypervtest.VM, string, error) {
	vm, err := s.vm(id)
	if err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	uuid := s.uuids[id][disk]
	s.mu.Unlock()
	if uuid == "" {
		m, err := s.connect().findAny(context.Background(), id)
		if err != nil {
			return nil, "", err
		}
		all := map[dr.DiskID]string{}
		for _, d := range m.disks {
			all[d.id] = d.uuid
		}
		s.mu.Lock()
		s.uuids[id], uuid = all, all[disk]
		s.mu.Unlock()
	}
	if uuid == "" {
		return nil, "", fmt.Errorf("machine %s has no disk %s", id, disk)
	}
	return vm, uuid, nil
}

// add makes a machine that is somebody's, with disks that are called as said.
func (s *site) add(spec hypervtest.VMSpec, disks []dr.Disk, change func(*record)) (dr.MachineID, error) {
	for _, d := range disks {
		spec.Disks = append(spec.Disks, hypervtest.DiskSpec{ID: string(d.ID), Size: d.Size})
	}
	vm, err := s.nodes[0].AddVM(spec)
	if err != nil {
		return "", err
	}
	id := dr.MachineID(strings.ToLower(vm.ID()))
	v := s.connect()
	return id, v.changing(context.Background(), id, func(m *machine) error {
		r := m.record
		r.Disks = map[string]dr.DiskID{}
		for _, d := range vm.Disks() {
			r.Disks[strings.ToLower(d.VirtualDiskID)] = dr.DiskID(d.ID)
		}
		if change != nil {
			change(&r)
		}
		return v.save(context.Background(), m, r)
	})
}

// destroy takes a machine away.
func (s *site) destroy(id dr.MachineID) {
	vm, err := s.vm(id)
	if err != nil {
		return
	}
	vm.PowerOff()
	v := s.connect()
	_ = v.changingAny(context.Background(), id, func(m *machine) error {
		_, err := m.node.call(context.Background(), m.node.management, "DestroySystem", host.Props{"AffectedSystem": m.system.Path}, output{})
		return err
	})
}

var linux = hypervtest.Guest{Facts: map[string]string{"OSName": "Debian GNU/Linux", "OSVersion": "6.1", "FullyQualifiedDomainName": "web.example"}, Addresses: [][]string{{"10.0.0.4/24"}}}

func (s *site) harness() backendtest.Harness {
	var n atomic.Int64
	v := s.connect()
	return backendtest.Harness{
		Backend: v,
		Machine: func(t backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
			id, err := s.add(hypervtest.VMSpec{Name: fmt.Sprintf("original-%d", n.Add(1)), Switches: []string{"production"}, Guest: linux}, disks, nil)
			t.Cleanup(func() { s.destroy(id) })
			return id, err
		},
		Power: func(id dr.MachineID, p dr.Power) error {
			vm, err := s.vm(id)
			if err == nil && p == dr.On {
				return vm.Start()
			}
			if err == nil {
				vm.PowerOff()
			}
			return err
		},
		Write: func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
			vm, uuid, err := s.disk(id, disk)
			if err != nil {
				return err
			}
			return vm.Write(uuid, p, off)
		},
		Read: func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
			vm, uuid, err := s.disk(id, disk)
			if err != nil {
				return err
			}
			if err := vm.Read(uuid, p, off); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		},
		Reopen: func() (backend.Backend, error) {
			s.kill()
			return Open(context.Background(), s.options())
		},
		Grow: func(id dr.MachineID, disk dr.DiskID, size int64) error {
			vm, uuid, err := s.disk(id, disk)
			if err != nil {
				return err
			}
			if _, err := s.connect().Sweep(context.Background(), id, func(dr.PointID) bool { return false }); err != nil {
				return err
			}
			for range 10 {
				if err = vm.GrowDisk(uuid, size); err == nil {
					break
				}
				if _, err := s.connect().findAny(context.Background(), id); err != nil { // merges go on by calls
					return err
				}
			}
			return err
		},
		LoseChanges: func(id dr.MachineID) error {
			vm, err := s.vm(id)
			if err == nil {
				vm.LoseTracking()
			}
			return err
		},
		Hang: func(id dr.MachineID, hung bool) error {
			vm, err := s.vm(id)
			if err == nil {
				vm.SetGuest(func(g *hypervtest.Guest) { g.Hung = hung })
			}
			return err
		},
		Duplicate: func(_ backendtest.T, id dr.MachineID) error {
			m, err := v.find(context.Background(), id)
			if err != nil {
				return err
			}
			var disks []dr.Disk
			for _, d := range m.disks {
				disks = append(disks, dr.Disk{ID: d.id, Size: d.info.Size})
			}
			_, err = s.add(hypervtest.VMSpec{Name: "twin"}, disks, func(r *record) { r.Key = m.record.Key })
			return err
		},
		Inventory: func() ([]string, error) {
			var all []string
			for _, h := range s.nodes {
				all = append(all, h.Inventory()...)
			}
			// Reference points are what the tracker knows, and stay.
			all = slices.DeleteFunc(all, func(s string) bool { return strings.HasPrefix(s, "reference point ") })
			slices.Sort(all)
			return all, nil
		},
		SizeUnit:    512,
		Granularity: 64 << 10,
		Forgets:     true,
	}
}

// seed makes what is drawn the same in every run, so that a change is judged by
// what it changed; other numbers look elsewhere, and 0 at something new each time.
var seed = flag.Uint64("seed", 1, "what random histories and samples are drawn from; 0: another one each time")

func TestContract(t *testing.T) {
	h := newSite(t, hypervtest.Options{}).harness()
	h.Seed = *seed
	if testing.Short() {
		h.Histories = 2
	}
	backendtest.Run(t, h)
}

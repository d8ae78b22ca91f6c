package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A guest counts: its n-th write puts a block that says n at a place that
// follows from n, and then n at the head of the disk. So the head says what all
// other blocks must hold, and any disk can be judged by itself.
const (
	block  = 4 << 10
	dataAt = 1 << 20
	places = 256
)

func install(name string, write func(p []byte, off int64) error) error {
	if err := write(headOf(name, 0), 0); err != nil {
		return err
	}
	for i := range places {
		if err := write(blockOf(name, 0, i), dataAt+int64(i)*block); err != nil {
			return err
		}
	}
	return nil
}

func headOf(name string, n uint64) []byte {
	p := make([]byte, 512)
	copy(p, "plan example, machine "+name)
	binary.LittleEndian.PutUint64(p[504:], n)
	return p
}

func blockOf(name string, n uint64, place int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%-16s%15d\n%-16d%15d\n", name, n, place, n)), block/64)
}

// placeOf is where the n-th write goes.
func placeOf(n uint64) int { return int(n * 7 % places) }

// disk is a machine's disk, as its guest sees it.
type disk interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
}

// step is one write of the guest.
func step(d disk) (name string, n uint64, err error) {
	name, n, err = head(d)
	if err != nil {
		return name, n, err
	}
	n++
	at := placeOf(n)
	if _, err := d.WriteAt(blockOf(name, n, at), dataAt+int64(at)*block); err != nil {
		return name, n, err
	}
	_, err = d.WriteAt(headOf(name, n), 0)
	return name, n, err
}

func head(d disk) (name string, n uint64, err error) {
	p := make([]byte, 512)
	if _, err := d.ReadAt(p, 0); err != nil && err != io.EOF {
		return "", 0, err
	}
	name, ok := strings.CutPrefix(string(bytes.TrimRight(p[:504], "\x00")), "plan example, machine ")
	if !ok {
		return "", 0, fmt.Errorf("it is no disk of a machine of the example")
	}
	return name, binary.LittleEndian.Uint64(p[504:]), nil
}

// judge says whether the disk is of one moment: after the write that its head
// names, or with the block of the next one written already.
func judge(d disk) (name string, n uint64, err error) {
	name, n, err = head(d)
	if err != nil {
		return name, n, err
	}
	last := make([]uint64, places)
	for k := uint64(1); k <= n; k++ {
		if n-k < places {
			last[placeOf(k)] = k
		}
	}
	p := make([]byte, block)
	for i := range places {
		if _, err := d.ReadAt(p, dataAt+int64(i)*block); err != nil && err != io.EOF {
			return name, n, err
		}
		next := i == placeOf(n+1) && bytes.Equal(p, blockOf(name, n+1, i))
		if !next && !bytes.Equal(p, blockOf(name, last[i], i)) {
			return name, n, fmt.Errorf("machine %s after write %d: block %d is not that of write %d", name, n, i, last[i])
		}
	}
	return name, n, nil
}

// seen is a machine as the sites see it.
type seen struct {
	Site    string
	ID      dr.MachineID
	Name    string // whose disk it has
	Running bool
	Began   uint64 // the write that its disk was of when it was last started
	Writes  uint64 // the write that its disk is of
	Wrong   string // what is wrong with its disk
}

// guests are those of all machines that run, at either site.
type guests struct {
	vcenter *vmwaretest.Simulator
	v       *vmware.VSphere
	cloud   *azuretest.Cloud

	mu    sync.Mutex
	began map[string]uint64 // by site and machine, of those that run
	last  map[string]seen   // what each was before it was switched off
	on    map[string]bool   // Azure's machines, by resource ID
}

func newGuests(sim *vmwaretest.Simulator, v *vmware.VSphere, cloud *azuretest.Cloud) *guests {
	g := &guests{vcenter: sim, v: v, cloud: cloud, began: map[string]uint64{}, last: map[string]seen{}, on: map[string]bool{}}
	cloud.OnStart(func(vm string) { g.set(vm, true) })
	cloud.OnStop(func(vm string) { g.set(vm, false) })
	return g
}

func (g *guests) set(vm string, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on[vm] = on
}

// run has all guests write until ctx ends.
func (g *guests) run(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		running, err := g.running(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		g.mu.Lock()
		for key := range g.began {
			if running[key] == nil {
				delete(g.began, key)
			}
		}
		for key, d := range running {
			if _, known := g.began[key]; !known {
				if _, n, err := judge(d); err == nil {
					g.began[key] = n
				}
			}
			if name, n, err := step(d); err == nil { // or it has just been switched off
				g.last[key] = seen{Name: name, Writes: n}
			}
		}
		g.mu.Unlock()
	}
}

// running are the disks of machines that run, by site and machine.
func (g *guests) running(ctx context.Context) (map[string]disk, error) {
	all := map[string]disk{}
	ms, err := g.ofVCenter(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range ms {
		if m.machine.Power == dr.On {
			all[home+"/"+string(m.machine.ID)] = m.disk
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for vm, on := range g.on {
		if on {
			all[away+"/"+vm] = g.atAzure(vm)
		}
	}
	return all, nil
}

type vcenterMachine struct {
	machine dr.Machine
	disk    disk
}

func (g *guests) ofVCenter(ctx context.Context) (all []vcenterMachine, err error) {
	client, err := govmomi.NewClient(ctx, g.vcenter.URL, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Logout(context.WithoutCancel(ctx)) }()
	for m, err := range g.v.Machines(ctx) {
		if err != nil {
			return nil, err
		}
		instance := true
		ref, err := object.NewSearchIndex(client.Client).FindByUuid(ctx, nil, string(m.ID), true, &instance)
		if err != nil {
			return nil, err
		}
		o, ok := ref.(*object.VirtualMachine)
		if !ok {
			continue // it has just been removed
		}
		if vm := g.vcenter.VM(o.Reference()); vm != nil && len(vm.Disks()) > 0 {
			all = append(all, vcenterMachine{m, vcenterDisk{vm}})
		}
	}
	return all, nil
}

// all are the machines of both sites as they stand.
func (g *guests) all(ctx context.Context) ([]seen, error) {
	var all []seen
	look := func(site string, key string, id dr.MachineID, running bool, d disk) {
		s := seen{Site: site, ID: id, Running: running}
		var err error
		g.mu.Lock()
		s.Name, s.Writes, err = judge(d)
		s.Began = g.began[key]
		if was, ok := g.last[key]; ok && !running && site == away {
			// What is off there can be read by nobody but its guest.
			s.Name, s.Writes, err = was.Name, was.Writes, nil
		}
		g.mu.Unlock()
		if err != nil {
			s.Wrong = err.Error()
		}
		all = append(all, s)
	}
	ms, err := g.ofVCenter(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range ms {
		look(home, home+"/"+string(m.machine.ID), m.machine.ID, m.machine.Power == dr.On, m.disk)
	}
	for _, id := range g.cloud.Resources() {
		if !strings.Contains(id, "/virtualmachines/") || strings.Count(id, "/") != 8 {
			continue
		}
		g.mu.Lock()
		key, on := id, false
		for vm := range g.on {
			if strings.EqualFold(vm, id) {
				key, on = vm, g.on[vm]
			}
		}
		g.mu.Unlock()
		look(away, away+"/"+key, dr.MachineID(id), on, g.atAzure(key))
	}
	slices.SortFunc(all, func(a, b seen) int { return strings.Compare(a.Name+a.Site, b.Name+b.Site) })
	return all, nil
}

type vcenterDisk struct{ vm *vmwaretest.VM }

func (d vcenterDisk) ReadAt(p []byte, off int64) (int, error) {
	return d.vm.Read(d.vm.Disks()[0], p, off)
}

func (d vcenterDisk) WriteAt(p []byte, off int64) (int, error) {
	return len(p), d.vm.Write(d.vm.Disks()[0], p, off)
}

func (g *guests) atAzure(vm string) disk {
	group, name := azureName(vm)
	return azureDisk{g.cloud, group, name}
}

type azureDisk struct {
	cloud       *azuretest.Cloud
	group, name string
}

func (d azureDisk) ReadAt(p []byte, off int64) (int, error) {
	return len(p), d.cloud.Read(d.group, d.name, -1, p, off)
}

func (d azureDisk) WriteAt(p []byte, off int64) (int, error) {
	return len(p), d.cloud.Write(d.group, d.name, -1, p, off)
}

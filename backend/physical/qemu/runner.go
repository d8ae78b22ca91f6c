package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/internal/qemu"
)

// Options of New. Folder is needed.
type Options struct {
	// Folder holds a folder for each machine: sockets, and its firmware's
	// variables, which go with its disks. It is made if need be, and one
	// process uses it at a time.
	Folder string
	// Tracker gets every write, where this process is to serve the disks; nil:
	// QEMU opens them. See the package comment.
	Tracker physical.Tracker
	// Evidence is what the probe waits for, all of it. Without any there is
	// no probe.
	Evidence []Evidence
	// Forward are more TCP ports of guests that [Runner.Port] tells of.
	Forward []int
	// Netdev is QEMU's network backend for a card of a machine that is not
	// isolated, such as "tap,ifname=tap0,script=no,downscript=no"; "" or nil:
	// the card is isolated.
	Netdev func(m dr.Machine, card dr.NIC) string

	// Memory in bytes, for machines that say nothing; 0: 1 GiB.
	Memory int64
	// Type is QEMU's machine type; "": q35. Bus is what disks are attached to:
	// "virtio", "ahci" or "nvme"; "": virtio. NICModel is QEMU's name of a card;
	// "": virtio-net-pci.
	Type, Bus, NICModel string
	// KVM tries hardware acceleration first.
	KVM bool
	// Program is QEMU; "": qemu-system-x86_64. OVMFCode and OVMFVars are the
	// firmware for UEFI; "": where Debian's package ovmf puts them.
	Program            string
	OVMFCode, OVMFVars string
	// User is whom QEMU runs as if this process is root; nil: 65534, nobody.
	User *User
	// Log gets what QEMU and the disks' server have to say; nil is silent.
	Log *slog.Logger
}

// User is a user and group by number.
type User = qemu.User

// Evidence is a sign of life of a machine.
type Evidence = qemu.Evidence

// The kinds of evidence.
type (
	Serial = qemu.Serial // text at the serial port
	TCP    = qemu.TCP    // a port that answers
	HTTP   = qemu.HTTP   // a page
	Hello  = qemu.Hello  // the guest calls in
)

// Runner runs machines. Its methods and hooks are safe for concurrent use; those
// that concern one machine wait for each other.
type Runner struct {
	o    Options
	lock interface{ Close() error }

	mu       sync.Mutex
	machines map[dr.MachineID]*running
	closed   bool
}

// running is a machine that was asked for; vm is nil while it doesn't run.
type running struct {
	op     chan struct{} // holds a token while its power is being changed
	vm     *qemu.Machine // guarded by Runner.mu
	served *disks        // guarded by Runner.mu
}

// New takes over the folder, and thaws the machines there that run on since an
// earlier process and that it left frozen. dr.ErrBusy: another process has it.
func New(o Options) (*Runner, error) {
	if o.Folder == "" {
		return nil, fmt.Errorf("%w: machines in QEMU: no folder", dr.ErrInvalid)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Folder, 0o711); err != nil {
		return nil, err
	}
	lock, err := fsys.OS().Lock(filepath.Join(o.Folder, lockName), true)
	if errors.Is(err, fsys.ErrLocked) {
		err = fmt.Errorf("%w: another process runs machines in %s", dr.ErrBusy, o.Folder)
	}
	if err != nil {
		return nil, err
	}
	r := &Runner{o: o, lock: lock, machines: map[dr.MachineID]*running{}}
	r.findAll()
	return r, nil
}

// findAll finds the machines that run on since an earlier process, so that none
// that it has frozen stays frozen until somebody asks for it.
func (r *Runner) findAll() {
	if r.o.Tracker != nil {
		return
	}
	found, err := os.ReadDir(r.o.Folder)
	if err != nil {
		r.o.Log.Warn("qemu: machines of an earlier process can't be looked for", "err", err)
	}
	for _, d := range found {
		if id := dr.MachineID(d.Name()); d.IsDir() && id.Validate() == nil {
			ctx, cancel := context.WithTimeout(context.Background(), findLimit)
			if _, err := r.find(ctx, dr.Machine{ID: id}); err != nil {
				r.o.Log.Warn("qemu: a machine of an earlier process can't be reached", "machine", id, "err", err)
			}
			cancel()
		}
	}
}

// findLimit bounds the look for one machine.
const findLimit = 5 * time.Second

// lockName can't be a machine's folder: '~' is no part of an ID.
const lockName = "~lock"

// Hooks are those of a physical.Config.
func (r *Runner) Hooks() physical.Hooks {
	h := physical.Hooks{Start: r.start, Stop: r.stop, Shutdown: r.shutdown, Freeze: r.freeze, Thaw: r.thaw}
	if len(r.o.Evidence) > 0 {
		h.Probe = r.probe
	}
	return h
}

// Configure fills in the hooks, the tracker if there is one, and that a freeze is
// crash consistent.
func (r *Runner) Configure(c *physical.Config) {
	c.Hooks, c.Freezes = r.Hooks(), dr.CrashConsistent
	if r.o.Tracker != nil {
		c.Tracker = r.o.Tracker
	}
}

// Close ends the machines whose disks this process serves, hard, and leaves the
// others running. A second Close is a no-op.
func (r *Runner) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	all := make([]*running, 0, len(r.machines))
	for _, m := range r.machines {
		all = append(all, m)
	}
	r.mu.Unlock()
	var err error
	for _, m := range all {
		if vm := r.vm(m); vm != nil && r.o.Tracker != nil {
			err = errors.Join(err, vm.Close()) // a shutdown that waits for the guest holds the machine
		}
		m.op <- struct{}{}
		if r.o.Tracker != nil {
			err = errors.Join(err, r.end(m))
		} else if vm := r.vm(m); vm != nil {
			err = errors.Join(err, vm.Detach())
		}
		<-m.op
	}
	return errors.Join(err, r.lock.Close())
}

// hold makes the caller the only one that changes the machine's power, and finds
// the machine if it runs.
func (r *Runner) hold(ctx context.Context, e dr.Machine) (*running, func(), error) {
	if err := e.ID.Validate(); err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	m := r.machines[e.ID]
	if m == nil {
		m = &running{op: make(chan struct{}, 1)}
		r.machines[e.ID] = m
	}
	r.mu.Unlock()
	select {
	case m.op <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	release := func() { <-m.op }
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if closed {
		release()
		return nil, nil, fmt.Errorf("machines in QEMU: %w", os.ErrClosed)
	}
	if vm := r.vm(m); vm != nil {
		select {
		case <-vm.Gone():
			if err := r.end(m); err != nil {
				r.o.Log.Warn("qemu: what a machine left could not be tidied", "machine", e.ID, "err", err)
			}
		default:
		}
	}
	if r.vm(m) == nil && r.o.Tracker == nil {
		vm, err := qemu.Attach(ctx, r.config(e, nil, false))
		if err != nil && !errors.Is(err, dr.ErrNotFound) {
			release()
			return nil, nil, err
		}
		if err == nil {
			// Who froze it is gone, and so is what it was frozen for.
			if s, err := vm.Status(ctx); err == nil && s == "paused" {
				err = vm.Continue(ctx)
				r.o.Log.Warn("qemu: a machine was frozen by a process that is gone, and is thawed", "machine", e.ID, "err", err)
			}
			r.mu.Lock()
			m.vm = vm
			r.mu.Unlock()
		}
	}
	return m, release, nil
}

func (r *Runner) vm(m *running) *qemu.Machine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return m.vm
}

// end powers off and closes. The caller holds the machine.
func (r *Runner) end(m *running) error {
	r.mu.Lock()
	vm, served := m.vm, m.served
	r.mu.Unlock()
	var err error
	if vm != nil {
		err = vm.Close()
	}
	if served != nil {
		err = errors.Join(err, served.close())
	}
	r.mu.Lock()
	m.vm, m.served = nil, nil
	r.mu.Unlock()
	return err
}

// folder of a machine.
func (r *Runner) folder(id dr.MachineID) string { return filepath.Join(r.o.Folder, string(id)) }

// config is the machine as QEMU gets it.
func (r *Runner) config(m dr.Machine, paths []string, isolated bool) qemu.Config {
	o := r.o
	c := qemu.Config{
		Dir: r.folder(m.ID), Program: o.Program, Type: o.Type, OVMFCode: o.OVMFCode, OVMFVars: o.OVMFVars,
		Firmware: m.Firmware, Memory: cmp.Or(m.Memory, o.Memory), CPUs: m.CPUs, KVM: o.KVM, User: o.User, Log: o.Log,
		Outlive: o.Tracker == nil,
		Resets:  -1, // it is a machine, and no proof
	}
	order := make([]int, len(paths))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if m.Disks[a].Boot == m.Disks[b].Boot {
			return 0
		} else if m.Disks[a].Boot {
			return -1
		}
		return 1
	})
	for _, i := range order {
		d := qemu.Disk{Path: paths[i], Bus: o.Bus, Serial: string(m.Disks[i].ID)}
		if o.Tracker != nil {
			d.Path, d.Socket, d.Export = "", diskSocket, exportName(i)
		}
		if len(d.Serial) > 20 {
			d.Serial = fmt.Sprintf("lifeboat-%d", i)
		}
		c.Disks = append(c.Disks, d)
	}
	nics := m.NICs
	forward, hello := slices.Clone(o.Forward), 0
	for _, e := range o.Evidence {
		f, h := e.Ports()
		forward, hello = append(forward, f...), max(hello, h)
	}
	if len(nics) == 0 && len(forward)+hello > 0 {
		nics = []dr.NIC{{}}
	}
	slices.Sort(forward)
	for i, n := range nics {
		card := qemu.NIC{MAC: n.MAC, Model: o.NICModel}
		if !isolated && o.Netdev != nil {
			card.Netdev = o.Netdev(m, n)
		}
		if card.Netdev == "" {
			card.Guest = qemu.Static(n)
			if i == 0 {
				card.Forward, card.Hello = slices.Compact(forward), hello
			}
		}
		c.NICs = append(c.NICs, card)
	}
	return c
}

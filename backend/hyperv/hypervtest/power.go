package hypervtest

import (
	"fmt"
	"os"
	"time"
)

// Start starts the machine as a person would. It fails if a file of its disks is
// missing or open elsewhere.
func (vm *VM) Start() error {
	vm.h.s.mu.Lock()
	r, f := vm.start(), vm.guest.OnStart
	vm.h.s.mu.Unlock()
	if r == nil && f != nil {
		f(vm)
	}
	return r.err()
}

// PowerOff takes the power away.
func (vm *VM) PowerOff() {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	vm.powerOff()
}

// Running tells whether the machine is on.
func (vm *VM) Running() bool {
	vm.h.s.mu.RLock()
	defer vm.h.s.mu.RUnlock()
	return vm.running()
}

// SetState puts the machine into another state than on and off: "paused" from
// on, "saved" from on; "on" takes either back.
func (vm *VM) SetState(state string) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	switch {
	case state == "paused" && vm.state == stateOn:
		vm.state = statePaused
	case state == "saved" && vm.running():
		vm.powerOff()
		vm.state = stateSaved
	case state == "on" && vm.state == statePaused:
		vm.state = stateOn
	case state == "on" && vm.state == stateSaved:
		if r := vm.start(); r != nil {
			return r.err()
		}
	default:
		return fmt.Errorf("hypervtest: a machine in state %d can't become %s", vm.state, state)
	}
	vm.changed = time.Now()
	return nil
}

// storageDisks are the components that are virtual disks with a file.
func (vm *VM) storageDisks() []*component { return virtualDisks(vm.comps) }

func virtualDisks(comps []*component) []*component {
	var out []*component
	for _, k := range comps {
		if k.sub() == hardDisk && k.file() != "" {
			out = append(out, k)
		}
	}
	return out
}

// start opens the disks and switches on.
func (vm *VM) start() *refusal {
	if vm.running() {
		return nil
	}
	h := vm.h
	fail := func(why string) *refusal {
		for f, write := range vm.held {
			f.release(write)
		}
		clear(vm.held)
		return refuse(retFailed, fmt.Sprintf(h.say("'%s' failed to start. (Virtual machine ID %s) %s", "Fehler beim Starten von '%s'. (ID des virtuellen Computers: %s) %s"), vm.name(), vm.id, why))
	}
	for _, k := range vm.storageDisks() {
		f, err := h.s.find(h.opts.Name, k.file())
		if err != nil {
			return fail(fmt.Sprintf("Attachment '%s' not found: %v", k.file(), err))
		}
		if _, twice := vm.held[f]; twice {
			return fail(fmt.Sprintf("Attachment '%s' is there twice", k.file()))
		}
		for _, g := range f.chain() {
			if _, err := os.Stat(g.key); err != nil {
				return fail(fmt.Sprintf("Attachment '%s' not found", g.path))
			}
		}
		write := !k.props.Bool("PersistentReservationsSupported")
		if err := f.hold(vm.id, write); err != nil {
			return fail(fmt.Sprintf("Failed to open attachment '%s': %v", k.file(), err))
		}
		vm.held[f] = write
		f.checked()
	}
	vm.state, vm.changed, vm.stopping = stateOn, time.Now(), 0
	vm.process = 1000 + len(h.vms)
	return nil
}

// powerOff closes the disks. Nothing else of the machine changes.
func (vm *VM) powerOff() {
	vm.stopping = 0
	if vm.running() {
		for f, write := range vm.held {
			f.release(write)
		}
		clear(vm.held)
	}
	if vm.state != stateOff {
		vm.state, vm.changed = stateOff, time.Now()
	}
}

// Crash cuts the host's power and brings it back: machines are off, jobs are
// gone, connections and open disks are dead, and the change tracking of disks
// that were in use knows nothing any more.
func (h *Host) Crash() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	for _, vm := range h.vms {
		if !vm.running() {
			continue
		}
		for f := range vm.held {
			f.forget()
		}
		vm.powerOff()
	}
	h.restart()
}

// Restart restarts the host in order: as Crash, but machines are shut down and
// nothing is forgotten.
func (h *Host) Restart() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	for _, vm := range h.vms {
		vm.powerOff()
	}
	h.restart()
}

// Abandon does to connections and open disks what the death of the process that
// has them does: they are gone. What the host was asked for goes on.
func (h *Host) Abandon() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.disconnect()
}

func (h *Host) restart() {
	h.disconnect()
	h.jobs, h.working = nil, nil
	for _, vm := range h.vms {
		vm.job = nil
	}
}

func (h *Host) disconnect() {
	h.boots++
	for d := range h.handles {
		d.drop()
	}
}

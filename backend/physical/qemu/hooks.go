package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/qemu"
)

// start returns when the machine runs; one that does already is left alone.
func (r *Runner) start(ctx context.Context, e physical.Event) (err error) {
	m, release, err := r.hold(ctx, e.Machine)
	if err != nil {
		return err
	}
	defer release()
	if vm := r.vm(m); vm != nil {
		return vm.Unstall(ctx) // it may have been stopped for want of room
	}
	dir := r.folder(e.Machine.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var served *disks
	if r.o.Tracker != nil {
		if served, err = r.serve(e, dir); err != nil {
			return err
		}
	}
	vm, err := qemu.Start(ctx, r.config(e.Machine, e.Paths, e.Isolated))
	if err != nil {
		if served != nil {
			err = errors.Join(err, served.close())
		}
		return err
	}
	r.mu.Lock()
	m.vm, m.served = vm, served
	r.mu.Unlock()
	return nil
}

// stop powers off, hard.
func (r *Runner) stop(ctx context.Context, e physical.Event) error {
	m, release, err := r.hold(ctx, e.Machine)
	if err != nil {
		return err
	}
	defer release()
	return r.end(m)
}

// shutdown presses the power button and waits for the guest.
func (r *Runner) shutdown(ctx context.Context, e physical.Event) error {
	m, release, err := r.hold(ctx, e.Machine)
	if err != nil {
		return err
	}
	defer release()
	vm := r.vm(m)
	if vm == nil {
		return nil
	}
	if err := vm.Shutdown(ctx); err != nil {
		return err
	}
	return r.end(m)
}

// freeze stops the processors, and waits until what was written has arrived. A
// machine whose QEMU has ended writes nothing either.
func (r *Runner) freeze(ctx context.Context, e physical.Event) error {
	vm, err := r.find(ctx, e.Machine)
	if err != nil || vm == nil {
		return err
	}
	return gone(vm.Stop(ctx))
}

func (r *Runner) thaw(ctx context.Context, e physical.Event) error {
	vm, err := r.find(ctx, e.Machine)
	if err != nil || vm == nil {
		return err
	}
	return gone(vm.Continue(ctx))
}

func gone(err error) error {
	if errors.Is(err, qemu.ErrEnded) {
		return nil
	}
	return err
}

// find is the machine's QEMU; nil: there is none. It waits for nobody who changes
// the power of a machine that is known: a shutdown waits for a guest that only a
// thaw lets go on.
func (r *Runner) find(ctx context.Context, m dr.Machine) (*qemu.Machine, error) {
	r.mu.Lock()
	known := r.machines[m.ID]
	r.mu.Unlock()
	if known != nil {
		if vm := r.vm(known); vm != nil {
			select {
			case <-vm.Gone():
			default:
				return vm, nil
			}
		}
	}
	x, release, err := r.hold(ctx, m)
	if err != nil {
		return nil, err
	}
	defer release()
	return r.vm(x), nil
}

// there is the machine's QEMU, or dr.ErrNotFound.
func (r *Runner) there(ctx context.Context, id dr.MachineID) (*qemu.Machine, error) {
	vm, err := r.find(ctx, dr.Machine{ID: id})
	if err == nil && vm == nil {
		err = dr.ErrNotFound
	}
	if err != nil {
		return nil, &dr.Error{Op: "find the machine in QEMU", Machine: id, Err: err}
	}
	return vm, nil
}

// probe waits for the evidence, and says what it saw.
func (r *Runner) probe(ctx context.Context, e physical.Event) error {
	vm, err := r.there(ctx, e.Machine.ID)
	if err != nil {
		return err
	}
	seen, err := vm.Await(ctx, r.o.Evidence...)
	for _, s := range seen {
		fmt.Fprintln(e.Out, s.What)
	}
	return err
}

// Running tells whether the machine's QEMU runs.
func (r *Runner) Running(ctx context.Context, id dr.MachineID) (bool, error) {
	vm, err := r.find(ctx, dr.Machine{ID: id})
	return vm != nil, err
}

// Port is where this host reaches a guest's TCP port that Options name, if its
// first card is isolated: an address for net.Dial, on 127.0.0.1. dr.ErrNotFound:
// the machine doesn't run, or the port isn't forwarded.
func (r *Runner) Port(ctx context.Context, id dr.MachineID, guest int) (string, error) {
	vm, err := r.there(ctx, id)
	if err != nil {
		return "", err
	}
	return vm.Port(ctx, guest)
}

// Console is the end of what the machine said at its serial port, at most 256 KiB,
// since this process has known it.
func (r *Runner) Console(ctx context.Context, id dr.MachineID) (string, error) {
	vm, err := r.there(ctx, id)
	if err != nil {
		return "", err
	}
	return vm.Console(), nil
}

// Screenshot is what is on the machine's screen, as a PNG.
func (r *Runner) Screenshot(ctx context.Context, id dr.MachineID) ([]byte, error) {
	vm, err := r.there(ctx, id)
	if err != nil {
		return nil, err
	}
	return vm.Screen(ctx)
}

// Wait waits for signs of life of a machine, and ends at once when it fails. Those
// that need ports must be among the Options'.
func (r *Runner) Wait(ctx context.Context, id dr.MachineID, all ...Evidence) error {
	vm, err := r.there(ctx, id)
	if err != nil {
		return err
	}
	_, err = vm.Await(ctx, all...)
	return err
}

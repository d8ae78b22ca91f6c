package memory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Prepare implements backend.Target. A replica that runs is ErrRunning, as an
// original is: Prepare never switches anything off. Disks of a replica that
// are larger than wanted, and those that are not wanted, are left as they are.
// A replica that was given disks, or larger ones, holds nothing any more.
// Networks that p.Networks doesn't name keep their name, and those of an
// isolated machine are left unconnected. Cards are honoured whole; gateways and
// DNS are kept in the placement alone. There are no Options.
func (b *Backend) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if err := b.enter(ctx, OpPrepare); err != nil {
		return backend.Replica{}, err
	}
	if o := bytes.TrimSpace(p.Options); len(o) > 0 && string(o) != "{}" && string(o) != "null" {
		return backend.Replica{}, &dr.Error{Op: "prepare", Machine: p.Original,
			Err: fmt.Errorf("%w: options %s", dr.ErrInvalid, o), Remedy: "this platform has no options"}
	}
	if err := checkDisks("prepare", p.Machine); err != nil {
		return backend.Replica{}, err
	}
	if err := p.CheckCards(); err != nil {
		return backend.Replica{}, &dr.Error{Op: "prepare", Machine: p.Original, Err: err}
	}
	// Finding and making are one step under b.mu: two callers with one key
	// get one machine.
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.Original != "" {
		return b.prepareOriginal(ctx, p)
	}
	if p.Key == "" {
		return backend.Replica{}, &dr.Error{Op: "prepare", Err: fmt.Errorf("%w: placement without key", dr.ErrInvalid)}
	}
	var found []dr.MachineID
	for id, m := range b.machines {
		if m.key == p.Key {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return b.makeReplica(ctx, p)
	case 1:
		return b.reuseReplica(ctx, b.machines[found[0]], p)
	}
	slices.Sort(found)
	return backend.Replica{}, &dr.Error{Op: "prepare",
		Err: fmt.Errorf("%w: key %q is carried by machines %q", dr.ErrAmbiguous, p.Key, found), Remedy: "remove those that are not the replica"}
}

func (b *Backend) prepareOriginal(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	m := b.machines[p.Original]
	if m == nil {
		return backend.Replica{}, &dr.Error{Op: "prepare", Machine: p.Original, Err: dr.ErrNotFound,
			Remedy: "prepare an alternate location instead"}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.admit(ctx, "prepare"); err != nil {
		return backend.Replica{}, err
	}
	if m.on {
		return backend.Replica{}, &dr.Error{Op: "prepare", Machine: m.id, Err: dr.ErrRunning, Remedy: "switch the machine off"}
	}
	for _, want := range p.Machine.Disks {
		have := m.disk(want.ID)
		if have == nil || have.Size != want.Size {
			err := fmt.Errorf("%w: the disk should have %d bytes, and the machine lacks it", dr.ErrInvalid, want.Size)
			if have != nil {
				err = fmt.Errorf("%w: the disk should have %d bytes, and has %d", dr.ErrInvalid, want.Size, have.Size)
			}
			return backend.Replica{}, &dr.Error{Op: "prepare", Machine: m.id, Disk: want.ID, Off: -1, Err: err}
		}
	}
	m.reused = true
	m.placement = clonePlacement(p)
	m.address()
	return m.replica(), nil
}

func (b *Backend) makeReplica(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	var id dr.MachineID
	for id == "" || b.machines[id] != nil {
		b.made++
		id = dr.MachineID(fmt.Sprintf("%s-%d", b.opts.Site, b.made))
	}
	m := b.newMachine(id, p.Machine)
	m.key, m.made, m.virgin = p.Key, true, true
	m.described.Name = p.Name
	if p.Name == "" {
		m.described.Name = p.Machine.Name
	}
	m.placement = clonePlacement(p)
	m.connect()
	if err := m.admit(ctx, "prepare"); err != nil {
		return backend.Replica{}, err
	}
	b.machines[id] = m
	m.tell(OpPrepare, "")
	return m.replica(), nil
}

func (b *Backend) reuseReplica(ctx context.Context, m *machine, p backend.Placement) (backend.Replica, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.admit(ctx, "prepare"); err != nil {
		return backend.Replica{}, err
	}
	if m.on {
		return backend.Replica{}, &dr.Error{Op: "prepare", Machine: m.id, Err: dr.ErrRunning, Remedy: "stop the replica"}
	}
	for _, want := range p.Machine.Disks {
		switch have := m.disk(want.ID); {
		case have == nil:
			m.disks = append(m.disks, newDisk(want, b.opts.Granularity))
			m.holds = ""
		case have.Size < want.Size:
			have.Size = want.Size
			m.holds = ""
		}
	}
	m.placement = clonePlacement(p)
	m.described.NICs = cloneMachine(p.Machine).NICs
	m.connect()
	return m.replica(), nil
}

// connect puts the cards on the networks that the placement wants.
func (m *machine) connect() {
	for i, nic := range m.described.NICs {
		to, mapped := m.placement.Connection(nic)
		switch {
		case mapped:
			m.described.NICs[i].Network = to
		case m.placement.Isolated:
			m.described.NICs[i].Network = ""
		}
		if m.placement.Cards[nic.ID].MAC == backend.NewMAC {
			m.described.NICs[i].MAC = ""
		}
	}
	m.address()
}

// address gives the guest the addresses that the placement wants.
func (m *machine) address() {
	for i, nic := range m.described.NICs {
		switch c := m.placement.Cards[nic.ID]; {
		case c.DHCP:
			m.described.NICs[i].DHCP, m.described.NICs[i].Addresses = true, nil
		case len(c.Addresses) > 0:
			m.described.NICs[i].DHCP, m.described.NICs[i].Addresses = false, nil
			for _, a := range c.Addresses {
				m.described.NICs[i].Addresses = append(m.described.NICs[i].Addresses, a.String())
			}
		}
	}
}

func (m *machine) replica() backend.Replica {
	return backend.Replica{ID: m.id, Holds: m.holds, New: m.virgin, Torn: m.torn != nil}
}

func clonePlacement(p backend.Placement) backend.Placement {
	p.Machine = cloneMachine(p.Machine)
	p.Networks, p.Cards = maps.Clone(p.Networks), maps.Clone(p.Cards)
	p.Options = slices.Clone(p.Options)
	return p
}

// Start implements backend.Target.
func (b *Backend) Start(ctx context.Context, id dr.MachineID) error {
	if err := b.enter(ctx, OpStart); err != nil {
		return err
	}
	m, err := b.find("start", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.gone("start"), m.admit(ctx, "start")); err != nil {
		return err
	}
	return m.start("start")
}

// Stop implements backend.Target.
func (b *Backend) Stop(ctx context.Context, id dr.MachineID) error {
	if err := b.enter(ctx, OpStop); err != nil {
		return err
	}
	m, err := b.find("stop", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.gone("stop"), m.admit(ctx, "stop")); err != nil {
		return err
	}
	m.stop(dr.CrashConsistent)
	return nil
}

// Remove implements backend.Target. A machine that was added, or that Prepare
// has found as an original, is left, and that is no error.
func (b *Backend) Remove(ctx context.Context, id dr.MachineID) error {
	if err := b.enter(ctx, OpRemove); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.machines[id]
	if m == nil || !m.made || m.reused {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.admit(ctx, "remove"); err != nil {
		return err
	}
	m.removed = true
	m.stop(dr.CrashConsistent)
	m.captures = nil
	delete(b.machines, id)
	m.tell(OpRemove, "")
	return nil
}

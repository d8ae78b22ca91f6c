package hyperv

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// machine is what a host says of a virtual machine, at one moment.
type machine struct {
	node     *node
	id       dr.MachineID // its GUID in lower case
	system   host.Object  // Msvm_ComputerSystem
	settings host.Object  // the realized Msvm_VirtualSystemSettingData
	others   []host.Object
	disks    []vdisk
	devices  []device // of what a checkpoint leaves out

	kept   map[string]string // its host-only items
	record record
	unread error // why the record could not be read

	seen  time.Time // when the record was asked for
	guard *guard    // under which it is changed
}

// Types of settings: not localized, unlike captions.
const (
	realized = "Microsoft:Hyper-V:System:Realized"
	planned  = "Microsoft:Hyper-V:System:Planned"
	recovery = "Microsoft:Hyper-V:Snapshot:Recovery"
)

// States of a machine.
const (
	stateOn  = 2
	stateOff = 3
)

var guidLike = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// find looks a machine up on every node, as it moves between them. It reads its
// record, too: one that can't be read is an error.
func (v *HyperV) find(ctx context.Context, id dr.MachineID) (*machine, error) {
	m, err := v.findAny(ctx, id)
	if err == nil && m.unread != nil {
		return nil, m.unread
	}
	return m, err
}

// findAny is find for what needs no record.
func (v *HyperV) findAny(ctx context.Context, id dr.MachineID) (*machine, error) {
	if !guidLike.MatchString(string(id)) {
		return nil, fmt.Errorf("%w: a machine's ID is a GUID, and %q is none", dr.ErrNotFound, id)
	}
	looks := 1
	if len(v.nodes) > 1 {
		looks = 2 // it may have moved from a node not yet asked to one that was
	}
	for range looks {
		var failed error
		for _, n := range v.nodes {
			m, err := n.look(ctx, id)
			if err == nil {
				return m, nil
			}
			if !isNotFound(err) {
				failed = errors.Join(failed, fmt.Errorf("host %s: %w", n.name, err))
			}
		}
		if failed != nil { // it may be there
			return nil, failed
		}
	}
	return nil, dr.ErrNotFound
}

// look reads a machine.
func (n *node) look(ctx context.Context, id dr.MachineID) (*machine, error) {
	guid := strings.ToUpper(string(id))
	system, err := n.one(ctx, "SELECT * FROM "+classSystem+" WHERE Name='"+guid+"'")
	if err != nil {
		return nil, err
	}
	all, err := n.conn.Query(ctx, "SELECT * FROM "+classSettings+" WHERE VirtualSystemIdentifier='"+guid+"'")
	if err != nil {
		return nil, err
	}
	m := &machine{node: n, id: dr.MachineID(strings.ToLower(guid)), system: system}
	for _, s := range all {
		if t := s.Props.String("VirtualSystemType"); t == realized || t == planned {
			m.settings = s
		} else {
			m.others = append(m.others, s)
		}
	}
	if m.settings.Path == "" {
		return nil, fmt.Errorf("%w: the machine has no settings", host.ErrNotFound)
	}
	return m, m.read(ctx)
}

// read reads the record and the disks.
func (m *machine) read(ctx context.Context) error {
	m.seen = time.Now()
	kept, err := m.node.v.kept(ctx, m.node, m.settings.Path)
	switch {
	case errors.Is(err, dr.ErrCorrupt):
		m.unread = damaged(m.id, err)
	case err != nil:
		return err
	default:
		m.kept = kept
		text, err := recordText(kept)
		if err != nil {
			m.unread = damaged(m.id, err)
		} else {
			m.record, m.unread = parseRecord(text, m.id)
		}
	}
	m.disks, m.devices, err = m.node.disksOf(ctx, m.settings.Path, m.record)
	return err
}

// again reads the machine anew, after something was changed.
func (v *HyperV) again(ctx context.Context, m *machine) (*machine, error) {
	next, err := m.node.look(ctx, m.id)
	if err != nil && isNotFound(err) { // it has moved
		next, err = v.find(ctx, m.id)
		if err == nil && m.guard != nil {
			m.guard.moved(next)
			next.node = next.node.under(m.guard)
		}
	}
	if err == nil && next.unread != nil {
		err = next.unread
	}
	if err == nil {
		err = m.guard.passed(next.kept, next.seen)
	}
	if err != nil {
		return nil, err
	}
	next.guard = m.guard
	return next, nil
}

// components are the parts of some settings that are of a class.
func (n *node) components(ctx context.Context, settings host.Ref, class string) ([]host.Object, error) {
	return n.conn.Associators(ctx, settings, "Msvm_VirtualSystemSettingDataComponent", class)
}

func (m *machine) state() int64 {
	s, _ := m.system.Props.Int("EnabledState")
	return s
}

// off is certain: a machine that is saved, paused, or on its way is not off.
func (m *machine) off() bool { return m.state() == stateOff }

func (m *machine) power() dr.Power {
	switch m.state() {
	case stateOn:
		return dr.On
	case stateOff:
		return dr.Off
	}
	return ""
}

// stamp is when the machine's state last changed.
func (m *machine) stamp() string { return m.system.Props.String("TimeOfLastStateChange") }

func (m *machine) name() string { return m.system.Props.String("ElementName") }

// disk finds a disk by its ID.
func (m *machine) disk(id dr.DiskID) (vdisk, bool) { return diskIn(m.disks, id) }

// changing runs f with the machine as it is now, one change of a machine at a
// time.
func (v *HyperV) changing(ctx context.Context, id dr.MachineID, f func(*machine) error) error {
	return v.changingAny(ctx, id, func(m *machine) error {
		if m.unread != nil {
			return m.unread
		}
		return f(m)
	})
}

// changingAny is changing for what needs no record.
func (v *HyperV) changingAny(ctx context.Context, id dr.MachineID, f func(*machine) error) error {
	unlock, err := v.locks.Lock(ctx, strings.ToLower(string(id)))
	if err != nil {
		return err
	}
	defer unlock()
	m, err := v.findAny(ctx, id)
	if err != nil {
		return err
	}
	return f(m)
}

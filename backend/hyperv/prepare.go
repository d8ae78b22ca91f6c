package hyperv

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Prepare implements backend.Target. p.Options is a [PlaceOptions].
//
// An original must be off, have no checkpoints of others, and have every disk of
// p.Machine at its size; disks that it has besides are left alone. Another
// machine is found by its key, or made: disks that it lacks are added, smaller
// ones grown, and then it holds nothing any more.
func (v *HyperV) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	r, err := v.prepare(ctx, p)
	return r, fail("prepare", p.Original, "", -1, err)
}

func (v *HyperV) prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if err := ctx.Err(); err != nil {
		return backend.Replica{}, err
	}
	if err := checkPlacement(p); err != nil {
		return backend.Replica{}, err
	}
	o, err := parseOptions(p)
	if err != nil {
		return backend.Replica{}, err
	}
	if p.Original != "" {
		var r backend.Replica
		err := v.heeding(ctx, p.Original, func(m *machine) error {
			r, err = v.original(ctx, m, p)
			return err
		})
		return r, err
	}
	// Two callers with one key get one machine.
	unlock, err := v.locks.Lock(ctx, "key/"+p.Key)
	if err != nil {
		return backend.Replica{}, err
	}
	defer unlock()
	found, err := v.findByKey(ctx, p.Key)
	if err != nil {
		return backend.Replica{}, err
	}
	switch len(found) {
	case 0:
		return v.makeReplica(ctx, p, o)
	case 1:
		var r backend.Replica
		err := v.changing(ctx, found[0], func(m *machine) error {
			if err := v.admit(ctx, m); err != nil {
				return err
			}
			if m.record.Key != "" { // else whoever made it didn't come to write its record
				if err := v.remember(ctx, m); err != nil {
					return err
				}
			}
			r, err = v.reuse(ctx, m, p, o)
			return err
		})
		return r, err
	}
	return backend.Replica{}, &explained{fmt.Errorf("%w: key %q is carried by machines %q", dr.ErrAmbiguous, p.Key, found), "remove those that are not the replica"}
}

func (v *HyperV) original(ctx context.Context, m *machine, p backend.Placement) (backend.Replica, error) {
	if err := m.writableNow(); err != nil {
		return backend.Replica{}, err
	}
	for _, want := range p.Machine.Disks {
		have, ok := m.disk(want.ID)
		switch {
		case !ok:
			return backend.Replica{}, &dr.Error{Op: "prepare", Machine: m.id, Disk: want.ID, Off: -1, Err: fmt.Errorf("%w: the machine has no such disk", dr.ErrInvalid),
				Remedy: "attach the disk again, or prepare an alternate location"}
		case have.info.Size != want.Size:
			return backend.Replica{}, &dr.Error{Op: "prepare", Machine: m.id, Disk: want.ID, Off: -1, Err: fmt.Errorf("%w: the disk should have %d bytes, and the one at %s has %d", dr.ErrInvalid, want.Size, have.label(), have.info.Size),
				Remedy: "an original's disks are never resized: resize it, or prepare an alternate location"}
		}
	}
	if m.record.Made {
		r := m.record
		r.Made, r.New = false, false // from now on it is somebody's machine
		if err := v.save(ctx, m, r); err != nil {
			return backend.Replica{}, err
		}
	}
	return v.replica(ctx, m)
}

// replica tells what Prepare found.
func (v *HyperV) replica(ctx context.Context, m *machine) (backend.Replica, error) {
	torn := m.torn()
	is, err := v.settle(ctx, m)
	if torn {
		is = claims{}
	}
	return backend.Replica{ID: m.id, Holds: is.holds, New: is.fresh, Torn: torn}, err
}

// noteOf marks a machine whose record is not there yet: DefineSystem can't give
// it one.
func noteOf(key string) string { return "Lifeboat replica " + short(key) }

// findByKey finds the machines that carry a key, on all nodes, by two questions
// to each.
func (v *HyperV) findByKey(ctx context.Context, placement string) ([]dr.MachineID, error) {
	var found []dr.MachineID
	for _, n := range v.nodes {
		kept, err := n.allKept(ctx)
		if err != nil {
			return nil, err
		}
		all, err := n.conn.Query(ctx, "SELECT * FROM "+classSettings+" WHERE VirtualSystemType='"+realized+"'")
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			id := dr.MachineID(strings.ToLower(s.Props.String("VirtualSystemIdentifier")))
			text, err := recordText(kept[id])
			if err != nil {
				continue // a machine with a damaged record is found by its ID
			}
			r, err := parseRecord(text, id)
			mine := err == nil && r.Key == placement
			if text == "" {
				mine = slices.Contains(s.Props.Strings("Notes"), noteOf(placement))
			}
			if mine {
				found = append(found, id)
			}
		}
	}
	return found, nil
}

// allKept reads the host-only items of all machines of a node.
func (n *node) allKept(ctx context.Context) (map[dr.MachineID]map[string]string, error) {
	all, err := n.conn.Query(ctx, "SELECT * FROM Msvm_KvpExchangeComponentSettingData")
	if err != nil {
		return nil, err
	}
	out := map[dr.MachineID]map[string]string{}
	for _, o := range all {
		id, _, ok := strings.Cut(strings.TrimPrefix(o.Props.String("InstanceID"), "Microsoft:"), `\`)
		if !ok || !guidLike.MatchString(id) {
			continue
		}
		kept, err := keptIn([]host.Object{o})
		if err != nil {
			continue
		}
		out[dr.MachineID(strings.ToLower(id))] = kept
	}
	return out, nil
}

// makeReplica makes a machine.
func (v *HyperV) makeReplica(ctx context.Context, p backend.Placement, o PlaceOptions) (backend.Replica, error) {
	n, err := v.nodeFor(o)
	if err != nil {
		return backend.Replica{}, err
	}
	plan, err := n.planFor(ctx, p, o)
	if err != nil {
		return backend.Replica{}, err
	}
	m, err := n.define(ctx, p, plan)
	if err != nil {
		return backend.Replica{}, err
	}
	unlock, err := v.locks.Lock(ctx, string(m.id))
	if err != nil {
		return backend.Replica{}, err
	}
	defer unlock()
	if err := v.admit(ctx, m); err != nil {
		return backend.Replica{}, err
	}
	return v.furnish(ctx, m, p, plan)
}

func (v *HyperV) nodeFor(o PlaceOptions) (*node, error) {
	if o.Node == "" {
		return v.nodes[0], nil
	}
	var names []string
	for _, n := range v.nodes {
		if n.name == o.Node {
			return n, nil
		}
		names = append(names, n.name)
	}
	return nil, fmt.Errorf("%w: option node: there is no %q; there are %q", dr.ErrInvalid, o.Node, names)
}

// reuse brings a replica to what is wanted now.
func (v *HyperV) reuse(ctx context.Context, m *machine, p backend.Placement, o PlaceOptions) (backend.Replica, error) {
	if err := m.writableNow(); err != nil {
		return backend.Replica{}, err
	}
	plan, err := m.node.planFor(ctx, p, o)
	if err != nil {
		return backend.Replica{}, err
	}
	return v.furnish(ctx, m, p, plan)
}

// furnish gives a machine what it lacks of the plan: it may be repeated, also by
// another process that finds it half made.
func (v *HyperV) furnish(ctx context.Context, m *machine, p backend.Placement, plan plan) (backend.Replica, error) {
	if m.record.Key == "" {
		if err := m.size(ctx, plan); err != nil { // before the key says that it was done
			return backend.Replica{}, err
		}
		r := m.record
		r.Key, r.Made, r.New, r.Folder, r.Stamp = p.Key, true, true, plan.folder, m.stamp()
		if err := v.save(ctx, m, r); err != nil {
			return backend.Replica{}, err
		}
	}
	if err := m.connect(ctx, plan.cards); err != nil {
		return backend.Replica{}, err
	}
	m, err := v.grow(ctx, m, p.Machine.Disks)
	if err != nil {
		return backend.Replica{}, err
	}
	if err := v.attach(ctx, m, p.Machine.Disks, plan); err != nil {
		return backend.Replica{}, err
	}
	if m, err = v.again(ctx, m); err != nil {
		return backend.Replica{}, err
	}
	if err := m.whole(); err != nil {
		return backend.Replica{}, err
	}
	return v.replica(ctx, m)
}

// grow enlarges disks that are smaller than wanted. First the record: disks that
// have changed must not pass for a point.
func (v *HyperV) grow(ctx context.Context, m *machine, disks []dr.Disk) (*machine, error) {
	small := func(want dr.Disk) bool {
		have, ok := m.disk(want.ID)
		return ok && have.info.Size < want.Size
	}
	if !slices.ContainsFunc(disks, small) {
		return m, nil
	}
	m, err := v.merged(ctx, m) // disks don't grow above a file that is to be merged
	if err != nil {
		return nil, err
	}
	r := m.record
	r.Holds = ""
	if err := v.save(ctx, m, r); err != nil {
		return nil, err
	}
	for _, want := range disks {
		if !small(want) {
			continue
		}
		have, _ := m.disk(want.ID)
		if err := m.node.disks.Grow(ctx, have.at, want.Size); err != nil {
			return nil, &dr.Error{Op: "grow", Machine: m.id, Disk: want.ID, Off: -1, Err: explain(err)}
		}
	}
	return m, nil
}

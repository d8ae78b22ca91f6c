package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Prepare implements backend.Target. A replica is a record, and page blobs once
// it is written to, until it starts: only then are disks, cards and a machine
// made of it. What can't be made is refused here already: sizes, quotas,
// subnets. Options are [PlacementOptions].
func (a *Azure) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if err := ctx.Err(); err != nil {
		return backend.Replica{}, fail("prepare", p.Original, "", -1, err)
	}
	o, err := parseOptions(p.Options)
	if err != nil {
		return backend.Replica{}, fail("prepare", p.Original, "", -1, err)
	}
	if err := p.CheckCards(); err != nil {
		return backend.Replica{}, fail("prepare", p.Original, "", -1, err)
	}
	var r backend.Replica
	if p.Original != "" {
		r, err = a.prepareOriginal(ctx, p)
	} else {
		r, err = a.prepareReplica(ctx, p, o)
	}
	return r, fail("prepare", p.Original, "", -1, err)
}

func (a *Azure) prepareOriginal(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	m, err := a.find(ctx, p.Original)
	if err != nil {
		return backend.Replica{}, err
	}
	if m.power != dr.Off {
		return backend.Replica{}, remedied(dr.ErrRunning, "stop the machine")
	}
	if err := a.ownAddresses(ctx, m, p); err != nil {
		return backend.Replica{}, err
	}
	if ctx, err = a.under(ctx, m); err != nil {
		return backend.Replica{}, err
	}
	r := m.current()
	for _, want := range p.Machine.Disks {
		have := r.disk(want.ID)
		if have == nil || have.Size != want.Size {
			err := fmt.Errorf("%w: the disk should have %d bytes, and the machine lacks it", dr.ErrInvalid, want.Size)
			if have != nil {
				err = fmt.Errorf("%w: the disk should have %d bytes, and has %d", dr.ErrInvalid, want.Size, have.Size)
			}
			return backend.Replica{}, &dr.Error{Op: "prepare", Machine: m.id, Disk: want.ID, Off: -1, Err: err,
				Remedy: "prepare an alternate location instead"}
		}
	}
	if m.has && !m.rec.Reused || !m.has {
		// Only a record can say that it isn't Remove's to take.
		if r, err = a.update(ctx, m.id, func() (record, error) { return m.current(), nil }, func(r *record) error {
			if r.Reused {
				return errUnchanged
			}
			r.Reused = true
			return nil
		}); err != nil {
			return backend.Replica{}, err
		}
	} else if _, err := a.raise(ctx, m); err != nil {
		return backend.Replica{}, err
	}
	return m.replica(&r), nil
}

func (m *machine) replica(r *record) backend.Replica {
	return backend.Replica{ID: m.id, Holds: m.holds(r), New: r.New, Torn: r.Torn}
}

func (a *Azure) prepareReplica(ctx context.Context, p backend.Placement, o PlacementOptions) (backend.Replica, error) {
	if p.Key == "" {
		return backend.Replica{}, fmt.Errorf("%w: placement without key", dr.ErrInvalid)
	}
	id := replicaID(p.Key)
	if err := a.alone(ctx, id, p.Key); err != nil {
		return backend.Replica{}, err
	}
	m, err := a.find(ctx, id)
	if errors.Is(err, dr.ErrNotFound) {
		// None, or one whose machine somebody has deleted: of that one nothing
		// may be taken for the new one's.
		if err := a.Remove(ctx, id); err != nil {
			return backend.Replica{}, err
		}
		m, err = &machine{id: id, power: dr.Off}, nil
	}
	if err != nil {
		return backend.Replica{}, err
	}
	if m.has {
		if ctx, err = a.under(ctx, m); err != nil {
			return backend.Replica{}, err
		}
	}
	if m.power != dr.Off {
		return backend.Replica{}, &dr.Error{Op: "prepare", Machine: id, Err: dr.ErrRunning, Remedy: "stop the replica"}
	}
	if m.has && m.rec.Placement != nil {
		p = inherit(p, *m.rec.Placement)
		if o, err = parseOptions(p.Options); err != nil {
			return backend.Replica{}, err
		}
	}
	size, cards, err := a.check(ctx, m, p, o)
	if err == nil && !m.has { // later, the address may be its own
		err = a.kept(ctx, cards)
	}
	if err != nil {
		return backend.Replica{}, err
	}
	if !m.has {
		return a.makeReplica(ctx, m, p, size)
	}
	return a.reuse(ctx, m, p, size)
}

// alone refuses a key that another machine carries too.
func (a *Azure) alone(ctx context.Context, id dr.MachineID, key string) error {
	var others []string
	for vm, err := range a.listed(ctx) {
		if err != nil {
			return err
		}
		if deref(vm.Tags[tagKey]) != tagValue(key) {
			continue
		}
		if deref(vm.Tags[tagMachine]) != string(id) {
			others = append(others, deref(vm.Name))
		} else if r, _, err := a.load(ctx, id); err != nil || !strings.EqualFold(r.Name, deref(vm.Name)) {
			others = append(others, deref(vm.Name))
		}
	}
	if len(others) > 0 {
		return remedied(fmt.Errorf("%w: key %q is carried by machines %q too", dr.ErrAmbiguous, key, others), "remove those that are not the replica, or their tag "+tagKey)
	}
	return nil
}

func (a *Azure) makeReplica(ctx context.Context, m *machine, p backend.Placement, size string) (backend.Replica, error) {
	name, err := a.freeName(ctx, m.id, p)
	if err != nil {
		return backend.Replica{}, err
	}
	fresh := record{ID: m.id, Key: p.Key, Made: true, Placement: &p, Group: a.opts.ResourceGroup, Name: name, Size: size, New: true}
	fresh.arrange(p.Machine.Disks)
	r, err := a.update(ctx, m.id, func() (record, error) { return fresh, nil }, func(r *record) error {
		if r.Rev != "" {
			return fmt.Errorf("%w: another process prepares it", dr.ErrConflict)
		}
		return nil
	})
	if err != nil {
		return backend.Replica{}, err
	}
	return m.replica(&r), nil
}

// arrange gives the disks places: the boot disk is the OS disk.
func (r *record) arrange(disks []dr.Disk) {
	boot := bootDisk(disks)
	used := map[int32]bool{}
	for _, d := range r.Disks {
		used[d.LUN] = true
	}
	next := int32(0)
	for i, d := range disks {
		if r.disk(d.ID) != nil {
			continue
		}
		lun := int32(-1)
		if i != boot || used[-1] {
			for used[next] {
				next++
			}
			lun = next
		}
		used[lun] = true
		r.Disks = append(r.Disks, diskRecord{ID: d.ID, Name: d.Name, Size: d.Size, Boot: d.Boot, LUN: lun})
	}
}

// freeName is the name that the machine will have: the one asked for, or of the
// machine that it stands for; with a part of its ID if another one has that.
func (a *Azure) freeName(ctx context.Context, id dr.MachineID, p backend.Placement) (string, error) {
	base := machineName(p.Name)
	if base == "" {
		base = machineName(p.Machine.Name)
	}
	if base == "" {
		base = machineName(string(p.Machine.ID))
	}
	if base == "" {
		return string(id), nil
	}
	unique := strings.Trim(base[:min(len(base), 51)], "-") + "-" + string(id)[3:11]
	if p.Isolated {
		return unique, nil // drills come and go beside each other
	}
	vm, err := a.vms.Get(ctx, a.opts.ResourceGroup, base, nil)
	switch {
	case isNotFound(err):
		// A replica that has not started yet may have taken it.
		if ours, err := a.claim(ctx, id, base); err != nil || ours {
			return base, err
		}
	case err != nil:
		return "", explain(err)
	case deref(vm.Tags[tagMachine]) == string(id):
		return base, nil
	}
	return unique, nil
}

// inherit completes a placement of a replica that is there: who says nothing of
// where it is means where it was made, and a drill's machine stays one. The
// commit of a failback asks for it so.
func inherit(p, was backend.Placement) backend.Placement {
	text := string(bytes.TrimSpace(p.Options))
	if text == "" || text == "null" || text == "{}" {
		p.Options = was.Options
		if p.Networks == nil && p.Cards == nil {
			p.Networks, p.Cards, p.Machine.NICs = was.Networks, was.Cards, was.Machine.NICs
		}
	}
	p.Isolated = p.Isolated || was.Isolated
	return p
}

// reuse brings a replica that is there up to what is asked for: it gets disks
// that it lacks, and smaller ones grow.
func (a *Azure) reuse(ctx context.Context, m *machine, p backend.Placement, size string) (backend.Replica, error) {
	o, err := parseOptions(p.Options)
	if err != nil {
		return backend.Replica{}, err
	}
	if was, err := a.optionsOf(&m.rec); err != nil {
		return backend.Replica{}, err
	} else if was.Zone != o.Zone && !m.rec.staged() {
		return backend.Replica{}, remedied(fmt.Errorf("%w: the replica's disks are in zone %q, and can't be moved to %q", dr.ErrInvalid, was.Zone, o.Zone), "remove the replica and prepare it anew, or keep the zone")
	}
	gone, err := a.missing(ctx, m)
	if err != nil {
		return backend.Replica{}, err
	}
	var grow []dr.DiskID
	r, err := a.update(ctx, m.id, nil, func(r *record) error {
		m.refresh(r)
		r.lose(gone)
		grow = nil
		n := len(r.Disks)
		r.arrange(p.Machine.Disks)
		for _, want := range p.Machine.Disks {
			d := r.disk(want.ID)
			if d.Size < want.Size {
				if d.Had == 0 && (d.Blob != "" || d.Disk != "") {
					d.Had = d.Size
				}
				d.Size = want.Size
				r.Holds = ""
			}
			if d.Had > 0 { // also if that was cut off before
				grow = append(grow, want.ID)
			}
		}
		if len(r.Disks) > n || len(grow) > 0 {
			r.Holds = ""
			r.Gen++
		}
		r.Placement, r.Size = &p, size
		return nil
	})
	if err != nil {
		return backend.Replica{}, err
	}
	m.rec = r
	for _, id := range grow {
		if r, err = a.enlarge(ctx, m, r, id); err != nil {
			return backend.Replica{}, fail("enlarge", m.id, id, -1, err)
		}
	}
	return m.replica(&r), nil
}

// enlarge gives a disk's content the size that the record says. A managed disk
// becomes a page blob again: whole GiB are the only sizes that it could grow to.
func (a *Azure) enlarge(ctx context.Context, m *machine, r record, id dr.DiskID) (record, error) {
	d := *r.disk(id)
	s, name, err := a.toBlob(ctx, m, d, r.Gen, uuid.NewString())
	if err != nil {
		return r, err
	}
	if err := s.release(ctx); err != nil {
		return r, err
	}
	return a.update(ctx, m.id, nil, func(r *record) error {
		x := r.disk(id)
		if x == nil {
			return errUnchanged
		}
		x.Blob, x.Had = name, 0
		return nil
	})
}

// missing finds disks whose content somebody has deleted.
func (a *Azure) missing(ctx context.Context, m *machine) (map[dr.DiskID]bool, error) {
	gone := make([]bool, len(m.rec.Disks))
	err := a.all(ctx, len(gone), func(ctx context.Context, i int) error {
		d := m.rec.Disks[i]
		switch _, live := m.live(d.Disk); {
		case d.Blob != "":
			_, err := a.opts.Staging.NewBlobClient(d.Blob).GetProperties(ctx, nil)
			if gone[i] = isNotFound(err); !gone[i] && err != nil {
				return explain(err)
			}
		case d.Disk != "" && m.vm == nil:
			gone[i] = !live
		}
		return nil
	}, nil)
	lost := map[dr.DiskID]bool{}
	for i, is := range gone {
		if is {
			lost[m.rec.Disks[i].ID] = true
			a.opts.Log.Warn("somebody has deleted what a disk was kept in; it is to be filled anew", "machine", m.id, "disk", m.rec.Disks[i].ID)
		}
	}
	return lost, err
}

// lose forgets the content of disks that is gone: they hold no point, and read
// as zeros until they are written.
func (r *record) lose(gone map[dr.DiskID]bool) {
	for i := range r.Disks {
		d := &r.Disks[i]
		if !gone[d.ID] {
			continue
		}
		if d.Blob == "" {
			d.Disk, d.Unique, d.Actual, d.Owned = "", "", 0, time.Time{}
		}
		d.Blob, d.Had = "", 0
		if d.Disk != "" && d.Actual > 0 && d.Actual < d.Size {
			d.Had = d.Actual
		}
		r.recall(dr.PointID(r.Begun))
		r.Holds, r.Begun = "", ""
	}
}

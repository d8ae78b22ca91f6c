package vmware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var _ backend.Roomer = (*VSphere)(nil)

// Room implements [backend.Roomer], by the datastores that Prepare would choose.
// Its codes, with * where Prepare or the copy fails: "datastore-full"* (thick
// disks don't fit), "datastore-space" (thin ones may not, once they are
// written), "datastore-unusable"* (it can't be reached, or is in maintenance),
// "placement"* (there is no such place, or several).
func (v *VSphere) Room(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	found, err := v.room(ctx, p)
	return found, fail("look for room", p.Original, "", -1, err)
}

func (v *VSphere) room(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	o, err := parseOptions(p)
	if err == nil {
		err = checkCards(p, o)
	}
	if err != nil {
		return misplaced(err)
	}
	inv, err := v.inventory(ctx)
	if err != nil {
		return nil, err
	}
	var m *machine
	if p.Original != "" {
		if m, err = v.find(ctx, p.Original); err != nil {
			return nil, err
		}
	} else if p.Key == "" {
		return misplaced(fmt.Errorf("%w: placement without a key", dr.ErrInvalid))
	} else {
		found, err := v.findByKey(ctx, p.Key)
		switch {
		case err != nil:
			return nil, err
		case len(found) > 1:
			return misplaced(fmt.Errorf("%w: %d machines carry key %q", dr.ErrAmbiguous, len(found), p.Key))
		case len(found) == 1:
			m = found[0]
		}
	}
	if m != nil {
		return v.roomOf(ctx, inv, m, p, o)
	}
	s, err := parseSaved(p.Machine.Config)
	if err != nil {
		return misplaced(err)
	}
	t, err := choose(inv, p, o, s)
	if err != nil {
		return misplaced(err)
	}
	var all problems
	for _, w := range t.warnings {
		all.warn("datastore-space", "", w, roomRemedy)
	}
	return all, nil
}

const roomRemedy = "make room, or choose another datastore"

// misplaced makes a problem of what Prepare would refuse, and passes on the rest.
func misplaced(err error) ([]backend.Problem, error) {
	var all problems
	remedy := ""
	if e := (*explained)(nil); errors.As(err, &e) {
		remedy = e.remedy
	}
	switch {
	case errors.Is(err, errNoRoom):
		all.block("datastore-full", "", err.Error(), cmp.Or(remedy, roomRemedy))
	case errors.Is(err, dr.ErrInvalid), errors.Is(err, dr.ErrAmbiguous), errors.Is(err, dr.ErrUnsupported):
		all.block("placement", "", err.Error(), cmp.Or(remedy, "correct the placement's options"))
	default:
		return nil, err
	}
	return all, nil
}

// roomOf is the room that a machine that is there may still take: what vSphere
// says its thin disks may grow by, and what it lacks of p's disks.
func (v *VSphere) roomOf(ctx context.Context, inv *inventory, m *machine, p backend.Placement, o PlaceOptions) ([]backend.Problem, error) {
	var props mo.VirtualMachine
	if err := property.DefaultCollector(v.client).RetrieveOne(ctx, m.ref, []string{"storage"}, &props); err != nil {
		return nil, explain(err)
	}
	grow, thick := map[types.ManagedObjectReference]int64{}, map[types.ManagedObjectReference]int64{}
	for _, dev := range m.config.Hardware.Device {
		if d, ok := dev.(*types.VirtualDisk); ok {
			if b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && b.Datastore != nil && (isTrue(b.ThinProvisioned) || b.Parent != nil) {
				grow[*b.Datastore] += d.CapacityInBytes
			}
		}
	}
	if props.Storage != nil {
		told := map[types.ManagedObjectReference]int64{}
		for _, u := range props.Storage.PerDatastoreUsage {
			told[u.Datastore] += u.Uncommitted
		}
		for ref := range grow { // of a thin disk's size some is taken already
			grow[ref] = min(grow[ref], told[ref])
		}
	}
	home := m.facts(nil).savePlace().Datastore
	for _, d := range p.Machine.Disks {
		at, more := types.ManagedObjectReference{}, d.Size
		if have, ok := m.disk(d.ID); ok {
			at, more = have.datastore, d.Size-have.size
		} else {
			name := cmp.Or(o.DiskDatastores[d.ID], o.Datastore, home)
			name = name[strings.LastIndex(name, "/")+1:] // of a path, as addDisks takes it
			for ref := range inv.datastores {
				if inv.entities[ref].name == name {
					at = ref
				}
			}
		}
		if p.Original != "" || at.Value == "" || more <= 0 {
			continue // an original's disks are never resized
		}
		if o.thin() {
			grow[at] += more
		} else {
			thick[at] += more
		}
	}
	var all problems
	for _, ref := range keys(inv, inv.datastores, func(r types.ManagedObjectReference) bool {
		return grow[r]+thick[r] > 0 || slices.ContainsFunc(m.disks, func(d vdisk) bool { return d.datastore == r })
	}) {
		s := inv.datastores[ref]
		if why := unusable(s); why != "" {
			all.block("datastore-unusable", "", fmt.Sprintf("datastore %s %s", inv.path(ref), why), "give the host access to the datastore, and end its maintenance")
		}
		switch need := grow[ref] + thick[ref]; {
		case thick[ref] > s.FreeSpace:
			all.block("datastore-full", "", fmt.Sprintf("datastore %s has %s free, and the disks take %s more", inv.path(ref), inGiB(s.FreeSpace), inGiB(thick[ref])), roomRemedy)
		case need > s.FreeSpace:
			all.warn("datastore-space", "", fmt.Sprintf("datastore %s has %s free, and the disks may grow by %s", inv.path(ref), inGiB(s.FreeSpace), inGiB(need)), roomRemedy)
		}
	}
	return all, nil
}

// unusable says why nothing can be written to a datastore, or "".
func unusable(s types.DatastoreSummary) string {
	switch {
	case !s.Accessible:
		return "can't be reached"
	case s.MaintenanceMode != "" && s.MaintenanceMode != string(types.DatastoreSummaryMaintenanceModeStateNormal):
		return "is in maintenance (" + s.MaintenanceMode + ")"
	}
	return ""
}

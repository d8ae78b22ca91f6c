package hyperv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// plan is what a placement comes to on a node: nothing of it is left to find out
// once something has been made.
type plan struct {
	name       string
	folder     string
	generation int
	saved      saved
	cpus       int
	memoryMB   int64
	cards      []connection
}

// planFor decides how the machine of a placement is made here.
func (n *node) planFor(ctx context.Context, p backend.Placement, o PlaceOptions) (plan, error) {
	s := savedOf(p.Machine)
	x := plan{name: p.Name, saved: s, generation: generation(o, p.Machine, s), cpus: max(p.Machine.CPUs, 1), memoryMB: max(p.Machine.Memory>>20, 512) &^ 1}
	if x.name == "" {
		x.name = p.Machine.Name
		if p.Isolated {
			x.name += " (drill)"
		}
	}
	if x.name == "" {
		x.name = "replica-" + short(p.Key)
	}
	switches, err := n.switches(ctx)
	if err != nil {
		return plan{}, err
	}
	if x.cards, err = connections(p, o, switches, s); err != nil {
		return plan{}, err
	}
	if _, err := slots(p.Machine.Disks, s, x.generation, nil); err != nil {
		return plan{}, err
	}
	folder := o.Folder
	if folder == "" {
		folder = n.v.options.Folder
	}
	if folder == "" {
		d, err := n.one(ctx, "SELECT * FROM Msvm_VirtualSystemManagementServiceSettingData")
		if err != nil {
			return plan{}, err
		}
		folder = d.Props.String("DefaultVirtualHardDiskPath")
	}
	if folder == "" {
		return plan{}, fmt.Errorf("%w: the host has no default folder for virtual disks: set Options.Folder", dr.ErrInvalid)
	}
	x.folder = folder + `\` + fileName(x.name) + "-" + short(p.Key)
	return x, nil
}

// define makes a machine without disks and cards.
func (n *node) define(ctx context.Context, p backend.Placement, x plan) (*machine, error) {
	if err := n.disks.MakeFolder(ctx, x.folder); err != nil {
		return nil, err
	}
	in := host.Props{
		"ElementName":            x.name,
		"VirtualSystemSubType":   subtypeGen1,
		"ConfigurationDataRoot":  x.folder,
		"SnapshotDataRoot":       x.folder,
		"SwapFileDataRoot":       x.folder,
		"Notes":                  []string{noteOf(p.Key)},
		"AutomaticStartupAction": uint16(2), // none: only this library starts it
	}
	if x.generation == 2 {
		in["VirtualSystemSubType"] = subtypeGen2
		in["SecureBootEnabled"] = p.Machine.SecureBoot
		if x.saved.Template != "" {
			in["SecureBootTemplateId"] = x.saved.Template
		}
	}
	settings, err := n.conn.Text(ctx, classSettings, in)
	if err != nil {
		return nil, err
	}
	o, err := n.call(ctx, n.management, "DefineSystem", host.Props{"SystemSettings": settings, "ResourceSettings": []string{}}, output{"ResultingSystem", classSystem})
	if err != nil {
		return nil, err
	}
	return n.look(ctx, dr.MachineID(o.Props.String("Name")))
}

// size gives a new machine its processors and memory.
func (m *machine) size(ctx context.Context, x plan) error {
	n := m.node
	var texts []string
	for _, part := range []struct {
		class string
		props host.Props
	}{
		{classProcessor, host.Props{"VirtualQuantity": uint64(x.cpus)}},
		{classMemory, x.memory()},
	} {
		all, err := n.components(ctx, m.settings.Path, part.class)
		if err != nil {
			return err
		}
		for _, o := range all {
			t, err := n.conn.TextOf(ctx, o.Path, part.props)
			if err != nil {
				return err
			}
			texts = append(texts, t)
		}
	}
	_, err := n.call(ctx, n.management, "ModifyResourceSettings", host.Props{"ResourceSettings": texts}, output{})
	return err
}

func (x plan) memory() host.Props {
	p := host.Props{"VirtualQuantity": uint64(x.memoryMB), "DynamicMemoryEnabled": false}
	if s := x.saved; s.Dynamic && s.MemoryMinMB > 0 && s.MemoryMinMB <= x.memoryMB && s.MemoryMaxMB >= x.memoryMB {
		p["DynamicMemoryEnabled"], p["Reservation"], p["Limit"] = true, uint64(s.MemoryMinMB), uint64(s.MemoryMaxMB)
	}
	return p
}

// template is the default of a kind of resource, which new ones are copies of.
func (n *node) template(ctx context.Context, class, subtype string) (host.Ref, error) {
	all, err := n.conn.Query(ctx, "SELECT * FROM "+class+" WHERE ResourceSubType='"+subtype+`' AND InstanceID LIKE '%\\Default'`)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", fmt.Errorf("%w: the host has no default for %s", host.ErrUnsupported, subtype)
	}
	return all[0].Path, nil
}

// addResource adds a copy of a template to the machine.
func (m *machine) addResource(ctx context.Context, class, subtype string, props host.Props) (host.Ref, error) {
	n := m.node
	from, err := n.template(ctx, class, subtype)
	if err != nil {
		return "", err
	}
	text, err := n.conn.TextOf(ctx, from, props)
	if err != nil {
		return "", err
	}
	o, err := n.call(ctx, n.management, "AddResourceSettings", host.Props{"AffectedConfiguration": m.settings.Path, "ResourceSettings": []string{text}},
		output{"ResultingResourceSettings", class})
	return o.Path, err
}

// attach makes the disks that the machine lacks, and attaches them.
func (v *HyperV) attach(ctx context.Context, m *machine, disks []dr.Disk, x plan) error {
	var lacking []dr.Disk
	for _, d := range disks {
		if _, ok := m.disk(d.ID); !ok {
			lacking = append(lacking, d)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	m, at, err := v.places(ctx, m, lacking, x)
	if err != nil {
		return err
	}
	for _, d := range lacking {
		if err := v.attachOne(ctx, m, d, at[d.ID], x); err != nil {
			return &dr.Error{Op: "make disk", Machine: m.id, Disk: d.ID, Off: -1, Err: explain(err)}
		}
	}
	return nil
}

// places finds a place for each disk, and adds the controllers that this takes
// before any is used: controllers are numbered in the order of their GUIDs, so
// that a new one gives others another number.
func (v *HyperV) places(ctx context.Context, m *machine, lacking []dr.Disk, x plan) (*machine, map[dr.DiskID]slot, error) {
	for {
		taken := map[slot]bool{}
		for _, d := range m.disks {
			taken[slot{d.controller, d.number, d.location}] = true
		}
		at, err := slots(lacking, x.saved, x.generation, taken)
		if err != nil {
			return nil, nil, err
		}
		added := false
		for _, s := range at {
			_, new, err := m.controller(ctx, s)
			if err != nil {
				return nil, nil, err
			}
			added = added || new
		}
		if !added {
			return m, at, nil
		}
		if m, err = v.again(ctx, m); err != nil {
			return nil, nil, err
		}
	}
}

func (v *HyperV) attachOne(ctx context.Context, m *machine, d dr.Disk, at slot, x plan) error {
	n := m.node
	spec := host.DiskSpec{Size: d.Size}
	for _, s := range x.saved.Disks {
		if s.ID == d.ID && d.Size%int64(max(s.Sector, 512)) == 0 {
			spec.LogicalSector = s.Sector
		}
	}
	path := x.folder + `\disk-` + short(string(d.ID)) + ".vhdx"
	err := n.disks.Create(ctx, path, spec)
	if errors.Is(err, host.ErrExists) {
		// The folder is this replica's, and the machine doesn't have the file:
		// whoever made it didn't come to attach it, nor to write to it.
		if err := n.disks.Remove(ctx, path); err != nil {
			return err
		}
		err = n.disks.Create(ctx, path, spec)
	}
	if err != nil {
		return err
	}
	info, err := n.disks.Stat(ctx, path)
	if err != nil {
		return err
	}
	// First the record: a disk must not be there under another name, nor disks
	// that have changed pass for a point.
	r := m.record
	r.Holds, r.Disks = "", maps.Clone(r.Disks)
	if r.Disks == nil {
		r.Disks = map[string]dr.DiskID{}
	}
	r.Disks[key(host.Ref(info.ID))] = d.ID
	if err := v.save(ctx, m, r); err != nil {
		return err
	}
	controller, _, err := m.controller(ctx, at)
	if err != nil {
		return err
	}
	drive, err := m.drive(ctx, controller, at.location)
	if err != nil {
		return err
	}
	_, err = m.addResource(ctx, classStorage, subtypeDisk, host.Props{"Parent": string(drive), "HostResource": []string{path}})
	return err
}

// drive adds a drive, or finds the one that an attempt which was cut off left
// without a disk.
func (m *machine) drive(ctx context.Context, controller host.Ref, location int) (host.Ref, error) {
	resources, err := m.node.components(ctx, m.settings.Path, classResource)
	if err != nil {
		return "", err
	}
	address := strconv.Itoa(location)
	for _, o := range resources {
		if o.Props.String("ResourceSubType") == subtypeDrive && o.Props.String("AddressOnParent") == address && key(host.Ref(o.Props.String("Parent"))) == key(controller) {
			return o.Path, nil
		}
	}
	return m.addResource(ctx, classResource, subtypeDrive, host.Props{"Parent": string(controller), "AddressOnParent": address})
}

// controller finds a controller, or adds those that are missing before it.
func (m *machine) controller(ctx context.Context, at slot) (path host.Ref, added bool, err error) {
	for ; ; added = true {
		resources, err := m.node.components(ctx, m.settings.Path, classResource)
		if err != nil {
			return "", false, err
		}
		have := 0
		for _, c := range numbered(resources) {
			if c.kind != at.controller {
				continue
			}
			if c.number == at.number {
				return c.path, added, nil
			}
			have++
		}
		if at.controller != "SCSI" || have > at.number {
			return "", false, fmt.Errorf("%w: the machine has no %s controller %d", dr.ErrUnsupported, at.controller, at.number)
		}
		if _, err := m.addResource(ctx, classResource, subtypeSCSI, host.Props{}); err != nil {
			return "", false, err
		}
	}
}

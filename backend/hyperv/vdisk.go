package hyperv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// vdisk is a virtual disk of a machine, or of a checkpoint.
type vdisk struct {
	id   dr.DiskID
	uuid string // VirtualDiskId, the same along the chain
	// path is the file that the settings name, at where it is now: another one
	// while the disk is torn.
	path, at string
	info     host.DiskInfo
	missing  error // the file can't be looked at

	setting           host.Object // Msvm_StorageAllocationSettingData
	controller        string      // "SCSI" or "IDE"
	number, location  int         // of the controller, and on it
	shared            bool
	controllerSetting host.Ref
}

// label names a disk as people see it.
func (d vdisk) label() string {
	return fmt.Sprintf("%s %d:%d (%s)", d.controller, d.number, d.location, d.path)
}

// device is something of a machine that a checkpoint leaves out.
type device struct {
	code, text, remedy string
	disk               dr.DiskID
}

// Resource types and subtypes, CIM_ResourceAllocationSettingData's.
const (
	typeIDE  = 5
	typeSCSI = 6

	subtypeIDE   = "Microsoft:Hyper-V:Emulated IDE Controller"
	subtypeSCSI  = "Microsoft:Hyper-V:Synthetic SCSI Controller"
	subtypeDrive = "Microsoft:Hyper-V:Synthetic Disk Drive"
	subtypeRaw   = "Microsoft:Hyper-V:Physical Disk Drive"
	subtypeDisk  = "Microsoft:Hyper-V:Virtual Hard Disk"

	classResource = "Msvm_ResourceAllocationSettingData"
	classStorage  = "Msvm_StorageAllocationSettingData"
)

// disksOf reads the disks that some settings name, ordered by where they are
// attached, and what a checkpoint would leave out.
func (n *node) disksOf(ctx context.Context, settings host.Ref, r record) ([]vdisk, []device, error) {
	resources, err := n.components(ctx, settings, classResource)
	if err != nil {
		return nil, nil, err
	}
	stores, err := n.components(ctx, settings, classStorage)
	if err != nil {
		return nil, nil, err
	}
	byPath := map[string]host.Object{}
	for _, o := range resources {
		byPath[key(o.Path)] = o
	}
	controllers := numbered(resources)
	var disks []vdisk
	var devices []device
	for _, o := range resources {
		if o.Props.String("ResourceSubType") == subtypeRaw {
			devices = append(devices, device{code: "disk-passthrough", text: fmt.Sprintf("a physical disk is passed through to the machine (%s)", oneLine(strings.Join(o.Props.Strings("HostResource"), " "))),
				remedy: "put it into a VHDX, or protect the machine with an agent inside of the guest"})
		}
	}
	channels, err := n.components(ctx, settings, "Msvm_SyntheticFcPortSettingData")
	if err != nil {
		return nil, nil, err
	}
	for _, o := range channels {
		devices = append(devices, device{code: "fibre-channel", text: fmt.Sprintf("the machine has a virtual Fibre Channel adapter (%s), whose disks the host does not see", oneLine(o.Props.String("ElementName"))),
			remedy: "remove the adapter if no disk hangs on it, or protect the machine with an agent inside of the guest"})
	}
	for _, o := range stores {
		files := o.Props.Strings("HostResource")
		if o.Props.String("ResourceSubType") != subtypeDisk || len(files) != 1 {
			continue // a DVD, or a drive without a disk
		}
		d := vdisk{path: files[0], at: files[0], setting: o}
		drive := byPath[key(host.Ref(o.Props.String("Parent")))]
		location, _ := drive.Props.Int("AddressOnParent")
		c := controllers[key(host.Ref(drive.Props.String("Parent")))]
		d.controller, d.number, d.location, d.controllerSetting = c.kind, c.number, int(location), c.path
		d.shared = o.Props.Bool("PersistentReservationsSupported") || strings.HasSuffix(strings.ToLower(d.path), ".vhds")
		d.info, d.missing = n.disks.Stat(ctx, d.path)
		if errors.Is(d.missing, host.ErrNotFound) {
			if info, err := n.disks.Stat(ctx, tornName(d.path)); err == nil {
				d.info, d.missing, d.at = info, nil, tornName(d.path)
			}
		}
		d.uuid = strings.ToLower(d.info.ID)
		d.id = dr.DiskID(d.uuid)
		if id, ok := r.Disks[d.uuid]; ok {
			d.id = id
		}
		if d.shared {
			devices = append(devices, device{code: "disk-shared", disk: d.id, text: fmt.Sprintf("the disk at %s is shared with other machines", d.label()),
				remedy: "protect the cluster's machines with agents inside of their guests"})
		}
		disks = append(disks, d)
	}
	slices.SortStableFunc(disks, func(a, b vdisk) int {
		return cmp.Or(cmp.Compare(a.controller, b.controller), cmp.Compare(a.number, b.number), cmp.Compare(a.location, b.location))
	})
	return disks, devices, nil
}

// key makes paths of objects comparable: WMI writes them with and without the
// host and namespace, and in any case.
func key(path host.Ref) string {
	p := strings.ToLower(string(path))
	if i := strings.Index(p, "v2:"); i >= 0 {
		p = p[i+3:]
	}
	return p
}

type controller struct {
	kind   string
	number int
	path   host.Ref
}

// numbered counts the controllers of each kind. IDE ones have an address of
// their own, SCSI ones are counted in the order of their instances.
func numbered(resources []host.Object) map[string]controller {
	all := map[string]controller{}
	scsi := 0
	ordered := slices.Clone(resources)
	slices.SortStableFunc(ordered, func(a, b host.Object) int {
		return cmp.Compare(a.Props.String("InstanceID"), b.Props.String("InstanceID"))
	})
	for _, o := range ordered {
		switch t, _ := o.Props.Int("ResourceType"); t {
		case typeIDE:
			n, _ := o.Props.Int("Address")
			all[key(o.Path)] = controller{"IDE", int(n), o.Path}
		case typeSCSI:
			all[key(o.Path)] = controller{"SCSI", scsi, o.Path}
			scsi++
		}
	}
	return all
}

func diskIn(disks []vdisk, id dr.DiskID) (vdisk, bool) {
	for _, d := range disks {
		if d.id == id {
			return d, true
		}
	}
	return vdisk{}, false
}

// whole refuses a machine of whose disks one can't be looked at, or of which two
// have the same ID: which of them is meant nobody could say.
func (m *machine) whole() error {
	seen := map[dr.DiskID]string{}
	for _, d := range m.disks {
		if d.missing != nil {
			return &explained{fmt.Errorf("look at the disk at %s: %w", d.label(), explain(d.missing)), "see whether the file is there and the account may read it"}
		}
		if other, twice := seen[d.id]; twice {
			return &explained{fmt.Errorf("%w: the disks at %s and %s are both %s: one is a copy of the other's file", dr.ErrAmbiguous, other, d.label(), d.id), "give one of them another identifier: Set-VHD -ResetDiskIdentifier"}
		}
		seen[d.id] = d.label()
	}
	return nil
}

// torn tells whether a draft has begun to write the disks and not ended. The
// record says so, and the disks' names do.
func (m *machine) torn() bool {
	return m.record.Torn || slices.ContainsFunc(m.disks, func(d vdisk) bool { return d.missing == nil && d.at != d.path })
}

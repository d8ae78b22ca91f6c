package hypervtest

import (
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// refPoint is a moment of a machine from which changes can be told.
type refPoint struct {
	vm       *VM
	id       string
	level    int
	disks    []string // VirtualDiskIdentifiers
	tracking []string // ResilientChangeTrackingIdentifiers, of the same disks
}

func (r *refPoint) props() host.Props {
	return host.Props{"InstanceID": "Microsoft:" + r.id, "ElementName": r.vm.name(), "VirtualSystemIdentifier": r.vm.id,
		"ReferencePointType": int64(2), "ConsistencyLevel": int64(r.level),
		"VirtualDiskIdentifiers": list(r.disks), "ResilientChangeTrackingIdentifiers": list(r.tracking)}
}

func (h *Host) refPoint(path host.Ref) (*VM, *refPoint) {
	_, c, keys, err := parsePath(path)
	if err != nil || c.name != "Msvm_VirtualSystemReferencePoint" {
		return nil, nil
	}
	for _, vm := range h.vms {
		for _, r := range vm.refs {
			if strings.EqualFold(keys.String("InstanceID"), "Microsoft:"+r.id) {
				return vm, r
			}
		}
	}
	return nil, nil
}

// moment is one of a disk's, as change tracking names it.
type moment struct {
	disk *file
	id   string
}

// reference makes a reference point. Its disks are not in the machine's order,
// on purpose: nobody promises that, and they come with their identifiers.
func (vm *VM) reference(level int, moments []moment) *refPoint {
	r := &refPoint{vm: vm, id: newGUID(), level: level}
	for _, m := range slices.Backward(moments) {
		r.disks, r.tracking = append(r.disks, strings.ToUpper(m.disk.image.ID())), append(r.tracking, m.id)
	}
	vm.refs = append(vm.refs, r)
	return r
}

func (j *job) result(h *Host, class string, props func() (host.Props, bool)) {
	j.affected = append(j.affected, func() (host.Object, bool) {
		p, ok := props()
		if !ok {
			return host.Object{}, false
		}
		return h.object(class, p), true
	})
}

func (j *job) resultRefPoint(h *Host, r *refPoint) {
	j.result(h, "Msvm_VirtualSystemReferencePoint", func() (host.Props, bool) {
		return r.props(), slices.Contains(r.vm.refs, r)
	})
}

func (j *job) resultSnapshot(h *Host, s *snapshot) {
	j.result(h, "Msvm_VirtualSystemSettingData", func() (host.Props, bool) {
		return s.settings, slices.Contains(s.vm.snaps, s)
	})
}

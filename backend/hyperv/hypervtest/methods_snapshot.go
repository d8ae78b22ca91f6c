package hypervtest

import (
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// Kinds of snapshots for CreateSnapshot, and of reference points for
// CreateReferencePoint (whose property has other numbers).
const (
	snapshotFull     = 2
	snapshotRecovery = 32768
	referenceRCT     = 1
)

func (h *Host) createSnapshot(_ host.Object, in host.Props) answer {
	vm := h.system(in.String("AffectedSystem"))
	p, r := embedded(in.String("SnapshotSettings"), "Msvm_VirtualSystemSnapshotSettingData")
	kind, _ := in.Int("SnapshotType")
	if vm == nil || r != nil || kind != snapshotFull && kind != snapshotRecovery {
		return failed(retInvalidParameter)
	}
	level, set := p.Int("ConsistencyLevel")
	if !set {
		level = crashConsistent
	}
	if level != appConsistent && level != crashConsistent {
		return failed(retInvalidParameter)
	}
	return h.start("CreateSnapshot", vm, func(j *job) *refusal {
		name := vm.name() + time.Now().UTC().Format(" - (2006-01-02 - 15:04:05)")
		s, r := vm.checkpoint(name, kind == snapshotRecovery, int(level), p.Bool("IgnoreNonSnapshottableDisks"))
		if r == nil {
			j.resultSnapshot(h, s)
		}
		return r
	})
}

func (h *Host) destroySnapshot(_ host.Object, in host.Props) answer {
	vm, s := h.settings(in.String("AffectedSnapshot"))
	if s == nil {
		return failed(retInvalidParameter)
	}
	return h.start("DestroySnapshot", vm, func(*job) *refusal {
		vm.drop(s)
		return nil
	})
}

func (h *Host) applySnapshot(_ host.Object, in host.Props) answer {
	vm, s := h.settings(in.String("Snapshot"))
	if s == nil || s.recovery {
		return failed(retInvalidParameter)
	}
	if vm.state != stateOff {
		return failed(retInvalidState)
	}
	return h.start("ApplySnapshot", vm, func(*job) *refusal { return vm.apply(s) })
}

// apply takes the machine back to a checkpoint: it goes on in new files above
// those of the checkpoint. What it had since then goes when it can.
func (vm *VM) apply(s *snapshot) *refusal {
	if vm.state != stateOff {
		return refuse(retInvalidState, vm.name()+" is not off")
	}
	comps := copyComponents(s.comps, s.id, vm.id)
	for _, k := range virtualDisks(comps) {
		f, err := vm.h.s.find(vm.h.opts.Name, k.file())
		if err != nil {
			return refuse(retFailed, err.Error())
		}
		g, err := vm.h.s.create(vm.h.opts.Name, vm.deltaPath(f), imageSpec{}, f)
		if err != nil {
			return refuse(retFailed, err.Error())
		}
		vm.made[g] = true
		k.props["HostResource"] = []any{g.path}
	}
	// What a checkpoint leaves out stays as it is.
	for _, k := range vm.comps {
		if k.sub() == physicalDrive || k.sub() == hardDisk && k.props.Bool("PersistentReservationsSupported") {
			comps = append(comps, k)
		}
	}
	vm.discard(vm.comps)
	vm.comps = comps
	for k, v := range s.settings {
		switch k {
		case "InstanceID", "VirtualSystemType", "CreationTime", "ElementName":
		default:
			vm.settings[k] = v
		}
	}
	vm.settings["Parent"] = string(s.object().Path)
	vm.prune()
	return nil
}

func (h *Host) convertToReferencePoint(_ host.Object, in host.Props) answer {
	vm, s := h.settings(in.String("AffectedSnapshot"))
	if s == nil || !s.recovery {
		return failed(retInvalidParameter)
	}
	if _, r := embedded(in.String("ReferencePointSettings"), "Msvm_VirtualSystemReferencePointSettingData"); r != nil {
		return refused(r)
	}
	if !vm.tracksChanges() {
		return failed(retNotSupported)
	}
	return h.start("ConvertToReferencePoint", vm, func(j *job) *refusal {
		if !slices.Contains(vm.snaps, s) {
			return refuse(retNotFound, "the checkpoint is gone")
		}
		var moments []moment
		for _, f := range vm.files(s.comps) {
			if f.closed != "" {
				moments = append(moments, moment{f, f.closed})
			}
		}
		r := vm.reference(crashConsistent, moments)
		vm.drop(s)
		j.resultRefPoint(h, r)
		return nil
	})
}

func (h *Host) createReferencePoint(_ host.Object, in host.Props) answer {
	vm := h.system(in.String("AffectedSystem"))
	p, r := embedded(in.String("ReferencePointSettings"), "Msvm_VirtualSystemReferencePointSettingData")
	kind, _ := in.Int("ReferencePointType")
	if vm == nil || r != nil || kind != referenceRCT {
		return failed(retInvalidParameter)
	}
	if !vm.tracksChanges() {
		return failed(retNotSupported)
	}
	level, set := p.Int("ConsistencyLevel")
	if !set {
		level = crashConsistent
	}
	return h.start("CreateReferencePoint", vm, func(j *job) *refusal {
		had, r := vm.quiesce(int(level))
		if r != nil {
			return r
		}
		var moments []moment
		for _, k := range vm.storageDisks() {
			f, err := h.s.find(h.opts.Name, k.file())
			if err != nil {
				return refuse(retFailed, err.Error())
			}
			if k.props.Bool("PersistentReservationsSupported") {
				continue
			}
			if f.track(); f.tracker != nil {
				moments = append(moments, moment{f, f.mark()})
			}
		}
		j.resultRefPoint(h, vm.reference(had, moments))
		return nil
	})
}

func (h *Host) destroyReferencePoint(_ host.Object, in host.Props) answer {
	vm, r := h.refPoint(host.Ref(in.String("AffectedReferencePoint")))
	if r == nil {
		return failed(retInvalidParameter)
	}
	return h.start("DestroyReferencePoint", vm, func(*job) *refusal {
		vm.refs = slices.DeleteFunc(vm.refs, func(x *refPoint) bool { return x == r })
		vm.prune()
		return nil
	})
}

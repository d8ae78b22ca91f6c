package hypervtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// VirtualSystemType of configurations.
const (
	typeRealized = "Microsoft:Hyper-V:System:Realized"
	typeSnapshot = "Microsoft:Hyper-V:Snapshot:Realized"
	typeRecovery = "Microsoft:Hyper-V:Snapshot:Recovery"
)

// snapshot is a machine's configuration and its disks at one moment.
type snapshot struct {
	vm       *VM
	id       string
	settings host.Props
	comps    []*component
	recovery bool
}

func (s *snapshot) object() host.Object {
	return s.vm.h.object("Msvm_VirtualSystemSettingData", s.settings)
}

// Consistency levels.
const (
	appConsistent   = 1
	crashConsistent = 2
)

// tracksChanges tells whether the configuration's version has change tracking:
// 6.2 and later, of Windows Server 2016.
func (vm *VM) tracksChanges() bool {
	var major, minor int
	if _, err := fmt.Sscanf(vm.settings.String("Version"), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 2
}

// quiesce stills the guest if that is asked for, and returns the level that the
// snapshot has.
func (vm *VM) quiesce(level int) (int, *refusal) {
	if level != appConsistent || !vm.running() {
		return crashConsistent, nil
	}
	why := ""
	switch {
	case vm.guest.VSS == VSSNone || !vm.integrated("Msvm_VssComponentSettingData"):
		why = vm.h.say("The guest has no Volume Shadow Copy integration service", "Der Gast hat keinen Integrationsdienst für Volumeschattenkopien")
	case vm.guest.VSS == VSSFails || vm.guest.Hung || vm.state == statePaused:
		why = vm.h.say("The Volume Shadow Copy Service in the guest failed", "Der Volumeschattenkopie-Dienst im Gast ist fehlgeschlagen")
	}
	if why != "" {
		return 0, refuse(retFailed, fmt.Sprintf(vm.h.say("Checkpoint operation for '%s' failed. (Virtual machine ID %s) %s (0x80042301).",
			"Fehler beim Prüfpunktvorgang für '%s'. (ID des virtuellen Computers: %s) %s (0x80042301)."), vm.name(), vm.id, why))
	}
	if vm.guest.OnFreeze != nil {
		vm.guest.OnFreeze(vm.writeDisk)
	}
	return appConsistent, nil
}

// excluded are disks that no snapshot can hold, by what they are.
func (vm *VM) excluded() []string {
	var out []string
	for _, k := range vm.comps {
		switch {
		case k.sub() == physicalDrive:
			out = append(out, "pass-through disk "+k.id())
		case k.sub() == hardDisk && k.props.Bool("PersistentReservationsSupported"):
			out = append(out, "shared disk "+k.file())
		case k.sub() == fibreChannel:
			out = append(out, "Fibre Channel adapter "+k.id())
		}
	}
	return out
}

// checkpoint freezes the disks: the machine goes on in new files above them.
func (vm *VM) checkpoint(name string, recovery bool, level int, ignore bool) (*snapshot, *refusal) {
	h := vm.h
	if x := vm.excluded(); len(x) > 0 && !ignore {
		return nil, refuse(retFailed, fmt.Sprintf("'%s' can't be checkpointed: %s", vm.name(), strings.Join(x, ", ")))
	}
	var leaves []*file
	var disks []*component
	for _, k := range vm.storageDisks() {
		if k.props.Bool("PersistentReservationsSupported") {
			continue
		}
		f, err := h.s.find(h.opts.Name, k.file())
		if err != nil {
			return nil, refuse(retFailed, err.Error())
		}
		if f.writer != "" && f.writer != vm.id {
			return nil, refuse(retFailed, k.file()+" is in use: 0x80070020")
		}
		leaves, disks = append(leaves, f), append(disks, k)
	}
	if _, r := vm.quiesce(level); r != nil {
		return nil, r
	}
	s := &snapshot{vm: vm, id: newGUID(), recovery: recovery}
	s.settings = host.Props{}
	for k, v := range vm.settings {
		s.settings[k] = v
	}
	s.settings["InstanceID"] = "Microsoft:" + s.id
	s.settings["ElementName"] = name
	s.settings["VirtualSystemType"] = typeSnapshot
	s.settings["CreationTime"] = dmtf(time.Now())
	if recovery {
		s.settings["VirtualSystemType"] = typeRecovery
	}
	s.comps = copyComponents(vm.comps, vm.id, s.id)
	s.comps = slices.DeleteFunc(s.comps, func(k *component) bool {
		return k.sub() == physicalDrive || k.sub() == hardDisk && k.props.Bool("PersistentReservationsSupported")
	})

	var fresh []*file
	for _, f := range leaves {
		if recovery && vm.tracksChanges() {
			f.track()
		}
		g, err := h.s.create(h.opts.Name, vm.deltaPath(f), imageSpec{}, f)
		if err != nil {
			for _, g := range fresh {
				_ = h.s.removeAll(g)
				g.parent.thaw()
			}
			return nil, refuse(retFailed, err.Error())
		}
		fresh = append(fresh, g)
	}
	for i, g := range fresh {
		f := leaves[i]
		vm.made[g] = true
		disks[i].props["HostResource"] = []any{g.path}
		if write, on := vm.held[f]; on {
			f.release(write)
			delete(vm.held, f)
			if err := g.hold(vm.id, true); err != nil {
				panic("hypervtest: a new file is in use: " + err.Error())
			}
			vm.held[g] = true
		}
	}
	if !recovery {
		vm.settings["Parent"] = string(s.object().Path)
	}
	vm.snaps = append(vm.snaps, s)
	return s, nil
}

// deltaPath is the name of a checkpoint's new file, beside the machine's other
// files of that disk.
func (vm *VM) deltaPath(f *file) string {
	chain := f.chain()
	base := chain[len(chain)-1].path
	dot := strings.LastIndexByte(base, '.')
	ext := ".avhdx"
	if f.vhd {
		ext = ".avhd"
	}
	return base[:dot] + "_" + newGUID() + ext
}

// thaw makes a file the newest one again: nothing is above it.
func (f *file) thaw() {
	f.closed = ""
}

// drop takes a snapshot away. Its files go when they can.
func (vm *VM) drop(s *snapshot) {
	path := string(s.object().Path)
	parent := s.settings["Parent"]
	for _, x := range vm.snaps {
		if x.settings.String("Parent") == path {
			x.settings["Parent"] = parent
		}
	}
	if vm.settings.String("Parent") == path {
		vm.settings["Parent"] = parent
	}
	vm.snaps = slices.DeleteFunc(vm.snaps, func(x *snapshot) bool { return x == s })
	vm.discard(s.comps)
	vm.prune()
}

// discard lets go of a configuration's files: those that a checkpoint made go
// when nothing else needs them.
func (vm *VM) discard(comps []*component) {
	for _, f := range vm.files(comps) {
		for _, g := range f.chain() {
			if vm.made[g] {
				vm.garbage[g] = true
			}
		}
	}
}

// prune forgets the moments that nobody carries any more.
func (vm *VM) prune() {
	carried := map[string]bool{}
	for _, r := range vm.refs {
		for _, id := range r.tracking {
			carried[id] = true
		}
	}
	for _, comps := range vm.configurations() {
		for _, f := range vm.files(comps) {
			if f.closed != "" && vm.frozen(f) {
				carried[f.closed] = true
			}
		}
	}
	for _, comps := range vm.configurations() {
		for _, f := range vm.files(comps) {
			f.prune(carried)
		}
	}
}

// files are the newest files of a configuration's disks, those that are there.
func (vm *VM) files(comps []*component) []*file {
	var out []*file
	for _, k := range virtualDisks(comps) {
		if f, err := vm.h.s.find(vm.h.opts.Name, k.file()); err == nil {
			out = append(out, f)
		}
	}
	return out
}

// frozen tells whether a snapshot's disk ends with this file.
func (vm *VM) frozen(f *file) bool {
	for _, s := range vm.snaps {
		for _, k := range virtualDisks(s.comps) {
			if strings.EqualFold(k.file(), f.path) {
				return true
			}
		}
	}
	return false
}

// settle merges what needn't be apart any more, and removes files that belong to
// nothing. It merges from the newest file downwards only, and not while an older
// reference point lives: that one still needs the files as they are.
func (vm *VM) settle() {
	if len(vm.made) == 0 || vm.job != nil && vm.job.open() {
		return
	}
	vm.collect()
	for _, k := range vm.storageDisks() {
		f, err := vm.h.s.find(vm.h.opts.Name, k.file())
		if err != nil {
			continue
		}
		for vm.mergeable(f) {
			p := f.parent
			if err := vm.merge(f, p); err != nil {
				break
			}
			k.props["HostResource"] = []any{p.path}
			f = p
		}
	}
}

// collect removes discarded files that nothing needs, the newest first.
func (vm *VM) collect() {
	if len(vm.garbage) == 0 {
		return
	}
	used := map[*file]bool{}
	for _, comps := range vm.configurations() {
		for _, f := range vm.files(comps) {
			for _, g := range f.chain() {
				used[g] = true
			}
		}
	}
	for f := range used {
		delete(vm.garbage, f) // whoever lets go of it later says so again
	}
	for more := true; more; {
		more = false
		for f := range vm.garbage {
			if !used[f] && f.readers == 0 && f.writer == "" && vm.h.s.children(f) == 0 && vm.h.s.removeAll(f) == nil {
				delete(vm.made, f)
				delete(vm.garbage, f)
				more = true
			}
		}
	}
}

func (vm *VM) mergeable(f *file) bool {
	p := f.parent
	if p == nil || !vm.made[f] || len(vm.refs) > 1 || vm.frozen(p) || vm.frozen(f) || vm.h.s.children(p) != 1 || vm.h.s.full {
		return false
	}
	if vm.running() {
		return f.writer == vm.id && f.readers == 0 && p.readers == 1
	}
	return f.writer == "" && f.readers == 0 && p.readers == 0 && p.writer == ""
}

// merge puts f into p, the file below it.
func (vm *VM) merge(f, p *file) error {
	if err := f.image.Merge(); err != nil {
		return err
	}
	if write, on := vm.held[f]; on {
		f.release(write)
		delete(vm.held, f)
		defer func() {
			if err := p.hold(vm.id, write); err != nil {
				panic("hypervtest: a merged file is in use: " + err.Error())
			}
			vm.held[p] = write
		}()
	}
	if f.tracker != nil {
		p.tracker = f.tracker
		p.segments = append(p.segments, f.segments...)
		p.accompany()
	}
	p.closed = ""
	delete(vm.garbage, p)
	vm.merges++
	delete(vm.made, f)
	delete(vm.garbage, f)
	return vm.h.s.removeAll(f)
}

package hypervtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

func (r *refusal) err() error {
	if r == nil {
		return nil
	}
	return fmt.Errorf("hypervtest: code %d: %s", r.code, r.detail)
}

// Checkpoint takes a checkpoint as a person does: it stays until it is deleted.
func (vm *VM) Checkpoint(name string) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	_, r := vm.checkpoint(name, false, crashConsistent, false)
	return r.err()
}

func (vm *VM) named(name string) (*snapshot, error) {
	for _, s := range vm.snaps {
		if s.settings.String("ElementName") == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("hypervtest: %s has no checkpoint %q", vm.name(), name)
}

// RevertTo takes the machine back to a checkpoint, off.
func (vm *VM) RevertTo(name string) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	s, err := vm.named(name)
	if err != nil {
		return err
	}
	vm.powerOff()
	return vm.apply(s).err()
}

// DeleteCheckpoint deletes one.
func (vm *VM) DeleteCheckpoint(name string) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	s, err := vm.named(name)
	if err != nil {
		return err
	}
	vm.drop(s)
	return nil
}

// Rename gives the machine another name. Its GUID stays.
func (vm *VM) Rename(name string) {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	vm.settings["ElementName"] = name
}

// GrowDisk enlarges a disk of a machine that is off and has no checkpoints.
func (vm *VM) GrowDisk(disk string, size int64) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	vm.h.settleAll()
	f, err := vm.diskFile(disk)
	if err != nil {
		return err
	}
	if f.writer != "" || f.readers > 0 || vm.frozen(f) {
		return errors.New("hypervtest: " + f.path + " is in use")
	}
	return vm.h.s.grow(f, size)
}

// LoseTracking makes the change tracking of the machine's disks forget
// everything, as damaged tracking files do.
func (vm *VM) LoseTracking() {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	for _, f := range vm.files(vm.comps) {
		f.forget()
	}
}

// MoveDisks moves the files of the machine's disks to another folder, running or
// not, as a storage migration does. What was tracked stays so.
func (vm *VM) MoveDisks(folder string) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	s := vm.h.s
	if err := s.mkdir(vm.h.opts.Name, folder); err != nil {
		return err
	}
	moved := map[*file]bool{}
	for _, comps := range vm.configurations() {
		for _, k := range virtualDisks(comps) {
			leaf, err := s.find(vm.h.opts.Name, k.file())
			if err != nil {
				return err
			}
			for _, f := range leaf.chain() {
				if moved[f] {
					continue
				}
				path := folder + f.path[strings.LastIndexByte(f.path, '\\'):]
				key, err := s.key(vm.h.opts.Name, path)
				if err != nil {
					return err
				}
				if _, err := os.Stat(key); err == nil {
					return fmt.Errorf("hypervtest: there is a file %s already", path)
				}
				if err := s.move(f, key, path); err != nil {
					return err
				}
				moved[f] = true
			}
			k.props["HostResource"] = []any{leaf.path}
		}
	}
	return nil
}

// ReplaceDisk puts another file of the same size in place of a disk's base file,
// as a restore by other software does: same path, another VirtualDiskId, all
// zeros. The machine has to be off and without checkpoints.
func (vm *VM) ReplaceDisk(disk string) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	f, err := vm.diskFile(disk)
	if err != nil {
		return err
	}
	if f.writer != "" || f.readers > 0 || f.parent != nil || vm.frozen(f) {
		return errors.New("hypervtest: " + f.path + " is in use")
	}
	spec := imageSpec{size: f.image.Size(), sector: f.image.LogicalSector(), vhd: f.vhd, fixed: f.fixed}
	if err := vm.h.s.remove(f); err != nil {
		return err
	}
	_, err = vm.h.s.create(vm.h.opts.Name, f.path, spec, nil)
	return err
}

// ChainLength is the number of files of the machine's longest chain of a disk:
// 1 when everything is merged.
func (vm *VM) ChainLength() int {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	n := 0
	for _, f := range vm.files(vm.comps) {
		n = max(n, len(f.chain()))
	}
	return n
}

// Merges is how many files were merged into the one below them.
func (vm *VM) Merges() int {
	vm.h.s.mu.RLock()
	defer vm.h.s.mu.RUnlock()
	return vm.merges
}

// Snapshots and ReferencePoints are the InstanceIDs of what the machine has.
func (vm *VM) Snapshots() []string {
	vm.h.s.mu.RLock()
	defer vm.h.s.mu.RUnlock()
	var out []string
	for _, s := range vm.snaps {
		out = append(out, "Microsoft:"+s.id)
	}
	return out
}

// ReferencePoints are the InstanceIDs of the machine's reference points.
func (vm *VM) ReferencePoints() []string {
	vm.h.s.mu.RLock()
	defer vm.h.s.mu.RUnlock()
	var out []string
	for _, r := range vm.refs {
		out = append(out, "Microsoft:"+r.id)
	}
	return out
}

// DiskState is what a disk of a machine is at present.
type DiskState struct {
	ID            string // DiskSpec.ID, "" for one that came otherwise
	InstanceID    string // of its setting data
	VirtualDiskID string
	Path          string // the newest file
	Base          string // the file below all checkpoints
	Size          int64
}

// Disks returns the machine's virtual disks in the order in which they came.
func (vm *VM) Disks() []DiskState {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	var out []DiskState
	for _, k := range vm.storageDisks() {
		d := DiskState{InstanceID: k.id(), Path: k.file(), Base: k.file()}
		for id, instance := range vm.names {
			if instance == k.id() {
				d.ID = id
			}
		}
		if f, err := vm.h.s.find(vm.h.opts.Name, k.file()); err == nil {
			chain := f.chain()
			d.VirtualDiskID, d.Size, d.Base = f.image.ID(), f.image.Size(), chain[len(chain)-1].path
		}
		out = append(out, d)
	}
	return out
}

// Migrate moves the machine to another node, running or not: with everything
// that belongs to it, also its reference points. Files that the other node
// doesn't see move too: who has one open loses it.
func (vm *VM) Migrate(to *Host) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	from := vm.h
	if to.s != from.s {
		return errors.New("hypervtest: hosts that are no nodes of the same cluster")
	}
	if vm.job != nil && vm.job.open() {
		return fmt.Errorf("hypervtest: %s is busy with %s", vm.name(), vm.job.method)
	}
	// The files that move, whatever their number: those of all chains.
	moves := map[*file]string{}
	for _, comps := range vm.configurations() {
		for _, f := range vm.files(comps) {
			for _, g := range f.chain() {
				key, err := from.s.key(to.opts.Name, g.path)
				if err != nil {
					return err
				}
				if key != g.key {
					if _, err := os.Stat(key); err == nil {
						return fmt.Errorf("hypervtest: %s has a file %s already", to.opts.Name, g.path)
					}
					moves[g] = key
				}
			}
		}
	}
	if err := from.s.mkdir(to.opts.Name, vm.settings.String("ConfigurationDataRoot")+`\Virtual Machines`); err != nil {
		return err
	}
	if err := from.s.touch(to.opts.Name, vm.configFile()); err != nil {
		return err
	}
	for o := range from.handles {
		for _, f := range o.f.chain() {
			if _, ok := moves[f]; ok {
				o.drop()
				break
			}
		}
	}
	for f, key := range moves {
		if err := os.MkdirAll(filepath.Dir(key), 0o755); err != nil {
			return err
		}
		if err := from.s.move(f, key, f.path); err != nil {
			return err
		}
	}
	if a, err := from.s.key(from.opts.Name, vm.configFile()); err == nil {
		if b, err := from.s.key(to.opts.Name, vm.configFile()); err == nil && a != b {
			if err := os.Remove(a); err != nil {
				return err
			}
		}
	}
	from.vms = slices.DeleteFunc(from.vms, func(x *VM) bool { return x == vm })
	to.vms = append(to.vms, vm)
	vm.h = to
	vm.rehome(from.opts.Name, to.opts.Name)
	return nil
}

// rehome puts a host's name in place of another in all paths of objects.
func (vm *VM) rehome(from, to string) {
	swap := func(v any) any {
		s, ok := v.(string)
		if !ok {
			return v
		}
		return strings.Replace(s, `\\`+from+`\`+host.Namespace, `\\`+to+`\`+host.Namespace, 1)
	}
	all := func(p host.Props) {
		for k, v := range p {
			if list, ok := v.([]any); ok {
				out := make([]any, len(list))
				for i := range list {
					out[i] = swap(list[i])
				}
				p[k] = out
				continue
			}
			p[k] = swap(v)
		}
	}
	all(vm.settings)
	for _, s := range vm.snaps {
		all(s.settings)
	}
	for _, comps := range vm.configurations() {
		for _, k := range comps {
			all(k.props)
			if k.sub() == ethernetLink {
				vm.reconnect(k)
			}
		}
	}
}

// reconnect finds the switch of the same name on the machine's new host.
func (vm *VM) reconnect(k *component) {
	path := k.file()
	if path == "" {
		return
	}
	if _, err := vm.h.get(host.Ref(path)); err == nil {
		return
	}
	_, _, keys, err := parsePath(host.Ref(path))
	if err != nil {
		return
	}
	for _, node := range *vm.h.nodes {
		for _, sw := range node.switches {
			if strings.EqualFold(sw.id, keys.String("Name")) {
				if mine := vm.h.switchNamed(sw.name); mine != nil {
					k.props["HostResource"] = []any{vm.h.switchRef(mine)}
					return
				}
			}
		}
	}
	k.props["HostResource"], k.props["EnabledState"] = []any{}, int64(3)
}

// CloneWithConfig imports a copy of the machine, off, under another GUID, with
// copies of its disks in another folder: everything that the configuration
// carries comes along, as notes and KVP items of the host do. Checkpoints and
// reference points don't.
func (vm *VM) CloneWithConfig(name string) (*VM, error) {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	h := vm.h
	settings := host.Props{}
	for k, v := range vm.settings {
		settings[k] = v
	}
	folder := `C:\VMs\` + name
	for i := 2; h.vmAt(folder); i++ {
		folder = fmt.Sprintf(`C:\VMs\%s (%d)`, name, i)
	}
	settings["ElementName"], settings["ConfigurationDataRoot"], settings["SnapshotDataRoot"] = name, folder, folder
	clone, err := h.define(settings, true)
	if err != nil {
		return nil, err
	}
	clone.comps = copyComponents(vm.comps, vm.id, clone.id)
	clone.kvp, clone.guest = slices.Clone(vm.kvp), vm.guest
	for id, instance := range vm.names {
		clone.names[id] = strings.ReplaceAll(instance, vm.id, clone.id)
	}
	if err := h.s.mkdir(h.opts.Name, folder+`\Virtual Hard Disks`); err != nil {
		return nil, err
	}
	for i, k := range clone.storageDisks() {
		if k.props.Bool("PersistentReservationsSupported") {
			continue
		}
		f, err := h.s.find(h.opts.Name, k.file())
		if err != nil {
			return nil, err
		}
		ext := map[bool]string{false: ".vhdx", true: ".vhd"}[f.vhd]
		g, err := h.s.create(h.opts.Name, fmt.Sprintf(`%s\Virtual Hard Disks\disk%d%s`, folder, i, ext),
			imageSpec{size: f.image.Size(), sector: f.image.LogicalSector(), vhd: f.vhd, fixed: f.fixed, id: f.image.ID()}, nil)
		if err != nil {
			return nil, err
		}
		if err := copyImage(g.image, f.image); err != nil {
			return nil, err
		}
		k.props["HostResource"] = []any{g.path}
	}
	return clone, nil
}

// copyImage copies what may hold data.
func copyImage(to, from image) error {
	ranges, err := from.Allocated()
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, r := range ranges {
		for done := int64(0); done < r.Len; {
			p := buf[:min(int64(len(buf)), r.Len-done)]
			if n, err := from.ReadAt(p, r.Off+done); n < len(p) && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := to.WriteAt(p, r.Off+done); err != nil {
				return err
			}
			done += int64(len(p))
		}
	}
	return nil
}

// Inventory names everything that lies on the host and its volumes: machines,
// checkpoints, reference points, KVP items of the host and files, after all that
// was under way has ended.
func (h *Host) Inventory() []string {
	h.s.mu.Lock()
	defer h.s.unlock()
	h.settleAll()
	var out []string
	for _, vm := range h.vms {
		out = append(out, "vm "+vm.id)
		for _, s := range vm.snaps {
			out = append(out, "snapshot "+vm.id+" "+s.id)
		}
		for _, r := range vm.refs {
			out = append(out, "reference point "+vm.id+" "+r.id)
		}
		for _, i := range vm.kvp {
			out = append(out, "kvp "+vm.id+" "+i.name)
		}
	}
	files, err := h.s.list()
	if err != nil {
		out = append(out, err.Error())
	}
	for _, f := range files {
		out = append(out, "file "+f)
	}
	slices.Sort(out)
	return out
}

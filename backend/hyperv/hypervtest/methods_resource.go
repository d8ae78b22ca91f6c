package hypervtest

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

func (h *Host) addResourceSettings(_ host.Object, in host.Props) answer {
	vm, s := h.settings(in.String("AffectedConfiguration"))
	if vm == nil || s != nil {
		return failed(retInvalidParameter)
	}
	before := slices.Clone(vm.comps)
	refs := []any{}
	for _, text := range in.Strings("ResourceSettings") {
		k, r := vm.addResource(text)
		if r != nil {
			vm.comps = before
			return refused(r)
		}
		refs = append(refs, vm.ref(k))
	}
	return h.finished("AddResourceSettings", vm, host.Props{"ResultingResourceSettings": refs})
}

// local is a component's identifier within the machine.
func (vm *VM) local(k *component) string { return k.id()[len("Microsoft:")+len(vm.id)+1:] }

// addResource puts a resource into the configuration, where the rules of its
// kind let it.
func (vm *VM) addResource(text string) (*component, *refusal) {
	bad := func(why string) (*component, *refusal) { return nil, refuse(retInvalidParameter, why) }
	c, p, err := parseText(text)
	if err != nil {
		return bad(err.Error())
	}
	sub := p.String("ResourceSubType")
	i := slices.IndexFunc(kinds, func(k struct {
		class, sub string
		typ        int
	}) bool {
		return k.class == c.name && k.sub == sub
	})
	if i < 0 {
		return bad(fmt.Sprintf("no %s of subtype %q", c.name, sub))
	}
	if n, ok := p.Int("ResourceType"); ok && int(n) != kinds[i].typ {
		return bad("ResourceType and ResourceSubType don't fit")
	}
	parent := vm.find(p.String("Parent"))
	suffix := newGUID()
	switch sub {
	case scsiController:
		if len(vm.controllers(scsiController)) >= 4 {
			return bad("four SCSI controllers are all there can be")
		}
		if vm.running() {
			return nil, refuse(retInvalidState, "the machine is running")
		}
		suffix += `\0`
	case diskDrive, physicalDrive, dvdDrive:
		if parent == nil || parent.sub() != scsiController && parent.sub() != ideController {
			return bad("a drive's parent has to be a controller of the machine")
		}
		if parent.sub() == ideController && vm.running() {
			return nil, refuse(retInvalidState, "the machine is running")
		}
		limit := map[string]int{scsiController: 64, ideController: 2}[parent.sub()]
		taken := map[int]bool{}
		for _, k := range vm.under(parent) {
			if n, err := strconv.Atoi(k.props.String("AddressOnParent")); err == nil {
				taken[n] = true
			}
		}
		n, err := strconv.Atoi(p.String("AddressOnParent"))
		if p.String("AddressOnParent") == "" {
			for n, err = 0, nil; taken[n]; n++ {
			}
		}
		if err != nil || n < 0 || n >= limit || taken[n] {
			return bad("the address on the controller is taken, or none")
		}
		p["AddressOnParent"] = strconv.Itoa(n)
		suffix = fmt.Sprintf(`%s\%d\D`, vm.local(parent), n)
	case hardDisk, dvdImage:
		want := map[string]string{hardDisk: diskDrive, dvdImage: dvdDrive}[sub]
		if parent == nil || parent.sub() != want || len(vm.under(parent)) > 0 {
			return bad("the parent has to be an empty drive of the machine")
		}
		if len(p.Strings("HostResource")) != 1 {
			return bad("HostResource has to be one path")
		}
		id := vm.local(parent)
		suffix = id[:len(id)-1] + "L"
		if vm.running() && sub == hardDisk {
			f, err := vm.h.s.find(vm.h.opts.Name, p.Strings("HostResource")[0])
			if err != nil {
				return nil, refuse(retFailed, err.Error())
			}
			write := !p.Bool("PersistentReservationsSupported")
			if err := f.hold(vm.id, write); err != nil {
				return nil, refuse(retFailed, err.Error())
			}
			vm.held[f] = write
		}
	case ethernetPort, legacyPort:
		if sub == legacyPort && len(vm.controllers(ideController)) == 0 {
			return bad("generation 2 has no emulated cards")
		}
		if !p.Bool("StaticMacAddress") {
			p["Address"] = fmt.Sprintf("00155D%06X", vm.h.nextMAC())
		} else if len(p.String("Address")) != 12 {
			return bad("Address has to be twelve digits")
		}
	case ethernetLink:
		if parent == nil || parent.sub() != ethernetPort && parent.sub() != legacyPort || len(vm.under(parent)) > 0 {
			return bad("a connection's parent has to be a card of the machine without one")
		}
		if r := vm.h.checkSwitch(p); r != nil {
			return nil, r
		}
		suffix = vm.local(parent) + `\C`
	case fibreChannel:
	default:
		return bad(sub + " can't be added")
	}
	return vm.add(c.name, suffix, p), nil
}

// checkSwitch refuses a connection to a switch that isn't there.
func (h *Host) checkSwitch(p host.Props) *refusal {
	for _, path := range p.Strings("HostResource") {
		if path == "" {
			continue
		}
		o, err := h.get(host.Ref(path))
		if err != nil || o.Class != "Msvm_VirtualEthernetSwitch" {
			return refuse(retInvalidParameter, "no such switch: "+path)
		}
	}
	return nil
}

// change puts given properties in place of those of a component.
func change(k *component, p host.Props) {
	for name, v := range p {
		switch name {
		case "InstanceID", "ResourceType", "ResourceSubType", "Parent":
		default:
			k.props[name] = v
		}
	}
}

func (h *Host) modifyResourceSettings(_ host.Object, in host.Props) answer {
	type edit struct {
		k *component
		p host.Props
	}
	var edits []edit
	var of *VM
	refs := []any{}
	for _, text := range in.Strings("ResourceSettings") {
		c, p, err := parseText(text)
		if err != nil {
			return failed(retInvalidParameter)
		}
		var k *component
		for _, vm := range h.vms {
			for _, x := range vm.comps {
				if x.class == c && x.id() == p.String("InstanceID") {
					k, of = x, vm
				}
			}
		}
		if k == nil {
			return failed(retInvalidParameter)
		}
		switch {
		case k.sub() == ethernetLink:
			if r := h.checkSwitch(p); r != nil {
				return refused(r)
			}
		case k.sub() == dvdImage, of.state == stateOff:
		case k.sub() == hardDisk, k.sub() == processor, k.sub() == memory, k.sub() == ethernetPort, k.sub() == legacyPort:
			return failed(retInvalidState)
		}
		edits, refs = append(edits, edit{k, p}), append(refs, of.ref(k))
	}
	for _, e := range edits {
		if e.k.sub() == hardDisk && len(e.p.Strings("HostResource")) > 0 && e.p.Strings("HostResource")[0] != e.k.file() {
			of.disown(e.k)
		}
		change(e.k, e.p)
	}
	return h.finished("ModifyResourceSettings", of, host.Props{"ResultingResourceSettings": refs})
}

// disown leaves the files of a disk alone from now on.
func (vm *VM) disown(k *component) {
	if f, err := vm.h.s.find(vm.h.opts.Name, k.file()); err == nil {
		for _, g := range f.chain() {
			delete(vm.made, g)
			delete(vm.garbage, g)
		}
	}
}

func (h *Host) removeResourceSettings(_ host.Object, in host.Props) answer {
	var of *VM
	var gone []*component
	for _, path := range in.Strings("ResourceSettings") {
		var k *component
		for _, vm := range h.vms {
			if x := vm.find(path); x != nil {
				k, of = x, vm
			}
		}
		if k == nil {
			return failed(retInvalidParameter)
		}
		gone = append(gone, k)
	}
	if of == nil {
		return failed(retInvalidParameter)
	}
	// What hangs below a resource goes with it.
	for i := 0; i < len(gone); i++ {
		gone = append(gone, of.under(gone[i])...)
	}
	for _, k := range gone {
		if of.running() && (k.sub() == processor || k.sub() == memory || k.sub() == scsiController || k.sub() == ideController) {
			return failed(retInvalidState)
		}
	}
	for _, k := range gone {
		if k.sub() == hardDisk {
			if f, err := h.s.find(h.opts.Name, k.file()); err == nil {
				if write, on := of.held[f]; on {
					f.release(write)
					delete(of.held, f)
				}
			}
			of.disown(k)
		}
		of.comps = slices.DeleteFunc(of.comps, func(x *component) bool { return x == k })
	}
	return h.finished("RemoveResourceSettings", of, nil)
}

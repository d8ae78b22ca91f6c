package hypervtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// methods by name: each gets the object that it was called on and its
// parameters, checked for names and types.
var methods map[string]func(*Host, host.Object, host.Props) answer

func init() {
	methods = map[string]func(*Host, host.Object, host.Props) answer{
		"RequestStateChange":                  (*Host).requestStateChange,
		"InitiateShutdown":                    (*Host).initiateShutdown,
		"DefineSystem":                        (*Host).defineSystem,
		"DestroySystem":                       (*Host).destroySystem,
		"ModifySystemSettings":                (*Host).modifySystemSettings,
		"AddResourceSettings":                 (*Host).addResourceSettings,
		"ModifyResourceSettings":              (*Host).modifyResourceSettings,
		"RemoveResourceSettings":              (*Host).removeResourceSettings,
		"AddKvpItems":                         kvpMethod("AddKvpItems", addKvp),
		"ModifyKvpItems":                      kvpMethod("ModifyKvpItems", modifyKvp),
		"RemoveKvpItems":                      kvpMethod("RemoveKvpItems", removeKvp),
		"GetVirtualSystemThumbnailImage":      (*Host).thumbnail,
		"SetGuestNetworkAdapterConfiguration": (*Host).setGuestNetwork,
		"CreateSnapshot":                      (*Host).createSnapshot,
		"DestroySnapshot":                     (*Host).destroySnapshot,
		"ApplySnapshot":                       (*Host).applySnapshot,
		"ConvertToReferencePoint":             (*Host).convertToReferencePoint,
		"CreateReferencePoint":                (*Host).createReferencePoint,
		"DestroyReferencePoint":               (*Host).destroyReferencePoint,
	}
}

// system finds the machine that a path names, by its Msvm_ComputerSystem.
func (h *Host) system(path string) *VM {
	_, c, keys, err := parsePath(host.Ref(path))
	if err != nil || c.name != "Msvm_ComputerSystem" {
		return nil
	}
	return h.vm(keys.String("Name"))
}

// settings finds a configuration by the path of its setting data.
func (h *Host) settings(path string) (*VM, *snapshot) {
	o, err := h.get(host.Ref(path))
	if err != nil {
		return nil, nil
	}
	vm, _, s := h.configuration(o)
	return vm, s
}

// embedded parses an embedded instance of a class, empty text as none.
func embedded(text, class string) (host.Props, *refusal) {
	if text == "" {
		return host.Props{}, nil
	}
	c, p, err := parseText(text)
	if err != nil {
		return nil, refuse(retInvalidParameter, err.Error())
	}
	if !c.is(class) {
		return nil, refuse(retInvalidParameter, c.name+" is no "+class)
	}
	return p, nil
}

func (h *Host) requestStateChange(o host.Object, in host.Props) answer {
	if o.Class != "Msvm_ComputerSystem" {
		return failed(retNotSupported)
	}
	vm := h.vm(o.Props.String("Name"))
	if vm == nil {
		return failed(retNotSupported) // the host itself
	}
	want, _ := in.Int("RequestedState")
	switch {
	case want == stateOn && vm.state == stateOn, want == stateOff && vm.state == stateOff:
		return failed(retInvalidState)
	case want == stateOn:
		was := vm.state
		a := h.start("RequestStateChange", vm, func(*job) *refusal {
			vm.state = was
			if was == statePaused {
				vm.state = stateOn
				return nil
			}
			r := vm.start()
			if f := vm.guest.OnStart; r == nil && f != nil {
				h.s.later = append(h.s.later, func() { f(vm) })
			}
			return r
		})
		if a.code == retJobStarted && was != statePaused {
			vm.state = stateStarting
			vm.job.undo = func() { vm.state = was }
		}
		return a
	case want == stateOff:
		return h.start("RequestStateChange", vm, func(*job) *refusal { vm.powerOff(); return nil })
	case want == stateSaved && vm.running():
		return h.start("RequestStateChange", vm, func(*job) *refusal { vm.powerOff(); vm.state = stateSaved; return nil })
	case want == statePaused && vm.state == stateOn:
		return h.start("RequestStateChange", vm, func(*job) *refusal { vm.state = statePaused; return nil })
	case want == stateSaved, want == statePaused:
		return failed(retInvalidState)
	}
	return failed(retInvalidParameter)
}

func (h *Host) initiateShutdown(o host.Object, in host.Props) answer {
	vm := h.vm(o.Props.String("SystemName"))
	if vm == nil || vm.state != stateOn {
		return failed(retInvalidState)
	}
	if in["Reason"] == nil || in["Force"] == nil {
		return failed(retInvalidParameter)
	}
	switch {
	case vm.guest.Hung || vm.guest.Shutdown == ShutdownFails:
		return failed(retFailed)
	case vm.guest.Shutdown == ShutdownLocked && !in.Bool("Force"):
		return failed(retLocked)
	case vm.guest.Shutdown != ShutdownHangs && vm.stopping == 0:
		vm.stopping = h.opts.ShutdownCalls
	}
	return done()
}

func (h *Host) defineSystem(_ host.Object, in host.Props) answer {
	p, r := embedded(in.String("SystemSettings"), "Msvm_VirtualSystemSettingData")
	if r != nil {
		return refused(r)
	}
	if p.String("ElementName") == "" {
		delete(p, "ElementName")
	}
	switch p.String("VirtualSystemSubType") {
	case "", "Microsoft:Hyper-V:SubType:1", "Microsoft:Hyper-V:SubType:2":
	default:
		return failed(retInvalidParameter)
	}
	if in["ReferenceConfiguration"] != nil && in.String("ReferenceConfiguration") != "" {
		return failed(retNotSupported)
	}
	vm, err := h.define(p, true)
	if err != nil {
		return failed(retInvalidParameter)
	}
	for _, text := range in.Strings("ResourceSettings") {
		c, q, err := parseText(text)
		if err == nil && (c.name == "Msvm_ProcessorSettingData" || c.name == "Msvm_MemorySettingData") {
			for _, k := range vm.comps {
				if k.class == c {
					change(k, q)
				}
			}
			continue
		}
		if _, r := vm.addResource(text); r != nil {
			h.destroy(vm)
			return refused(r)
		}
	}
	return h.finished("DefineSystem", vm, host.Props{"ResultingSystem": string(vm.object().Path)})
}

func (h *Host) destroySystem(_ host.Object, in host.Props) answer {
	vm := h.system(in.String("AffectedSystem"))
	if vm == nil {
		return failed(retInvalidParameter)
	}
	if vm.running() || vm.state == stateStarting {
		return failed(retInvalidState)
	}
	return h.start("DestroySystem", vm, func(*job) *refusal {
		if vm.running() {
			return refuse(retInvalidState, vm.name()+" is running")
		}
		h.destroy(vm)
		return nil
	})
}

// destroy takes a machine away, its checkpoints and reference points too. Its
// disks stay, merged where they can be.
func (h *Host) destroy(vm *VM) {
	vm.snaps, vm.refs, vm.job = nil, nil, nil
	vm.prune()
	vm.settle()
	_ = h.s.erase(h.opts.Name, vm.configFile())
	h.vms = slices.DeleteFunc(h.vms, func(x *VM) bool { return x == vm })
}

func (h *Host) modifySystemSettings(_ host.Object, in host.Props) answer {
	p, r := embedded(in.String("SystemSettings"), "Msvm_VirtualSystemSettingData")
	if r != nil {
		return refused(r)
	}
	vm, s := h.settings(string(h.path("Msvm_VirtualSystemSettingData", p)))
	if vm == nil {
		return failed(retInvalidParameter)
	}
	at := vm.settings
	if s != nil {
		at = s.settings
	}
	for k, v := range p {
		if v == nil || fmt.Sprint(at[k]) == fmt.Sprint(v) {
			continue
		}
		switch k {
		case "ElementName", "Notes", "AutomaticStartupAction", "AutomaticShutdownAction", "AutomaticRecoveryAction", "UserSnapshotType", "AutomaticSnapshotsEnabled":
		case "VirtualSystemType", "VirtualSystemIdentifier", "CreationTime", "Version", "VirtualSystemSubType", "ConfigurationDataRoot":
			return failed(retInvalidParameter)
		default:
			if vm.state != stateOff {
				return failed(retInvalidState)
			}
		}
	}
	for k, v := range p {
		if v != nil {
			at[k] = v
		}
	}
	return h.finished("ModifySystemSettings", vm, nil)
}

type kvpChange func(vm *VM, name, data string) bool

func kvpMethod(method string, f kvpChange) func(*Host, host.Object, host.Props) answer {
	return func(h *Host, _ host.Object, in host.Props) answer {
		vm := h.system(in.String("TargetSystem"))
		if vm == nil {
			return failed(retInvalidParameter)
		}
		before := slices.Clone(vm.kvp)
		for _, text := range in.Strings("DataItems") {
			p, r := embedded(text, "Msvm_KvpExchangeDataItem")
			if r != nil {
				return refused(r)
			}
			name, data := p.String("Name"), p.String("Data")
			// 2048 characters of data and 511 of a name, as the reference has it.
			if src, _ := p.Int("Source"); src != kvpHostOnly || name == "" || len([]rune(name)) > 511 || len([]rune(data)) > 2048 {
				vm.kvp = before
				return failed(retInvalidParameter)
			}
			if !f(vm, name, data) {
				vm.kvp = before
				return failed(retFailed)
			}
		}
		return h.finished(method, nil, nil)
	}
}

func (vm *VM) kvpIndex(name string) int {
	return slices.IndexFunc(vm.kvp, func(i kvpItem) bool { return strings.EqualFold(i.name, name) })
}

func addKvp(vm *VM, name, data string) bool {
	if vm.kvpIndex(name) >= 0 {
		return false
	}
	vm.kvp = append(vm.kvp, kvpItem{name, data})
	return true
}

func modifyKvp(vm *VM, name, data string) bool {
	i := vm.kvpIndex(name)
	if i >= 0 {
		vm.kvp[i].data = data
	}
	return i >= 0
}

func removeKvp(vm *VM, name, _ string) bool {
	i := vm.kvpIndex(name)
	if i >= 0 {
		vm.kvp = slices.Delete(vm.kvp, i, i+1)
	}
	return i >= 0
}

func (h *Host) thumbnail(_ host.Object, in host.Props) answer {
	vm, s := h.settings(in.String("TargetSystem"))
	if vm == nil {
		vm = h.system(in.String("TargetSystem"))
	}
	w, _ := in.Int("WidthPixels")
	ht, _ := in.Int("HeightPixels")
	switch {
	case vm == nil || w <= 0 || ht <= 0 || w > 4096 || ht > 4096:
		return failed(retInvalidParameter)
	case s != nil || vm.state != stateOn:
		return failed(retInvalidState)
	}
	data := make([]any, 2*w*ht)
	for i := range data {
		data[i] = int64([2]byte{0x1f, 0x00}[i%2]) // blue
	}
	return answer{out: host.Props{"ImageData": data}}
}

func (h *Host) setGuestNetwork(_ host.Object, in host.Props) answer {
	vm := h.system(in.String("ComputerSystem"))
	texts := in.Strings("NetworkConfiguration")
	if vm == nil || len(texts) == 0 {
		return failed(retInvalidParameter)
	}
	type change struct {
		card int
		p    host.Props
	}
	var all []change
	for _, text := range texts {
		p, r := embedded(text, "Msvm_GuestNetworkAdapterConfiguration")
		if r != nil {
			return refused(r)
		}
		card := slices.IndexFunc(vm.cards(), func(k *component) bool {
			return strings.EqualFold(p.String("InstanceID"), `Microsoft:GuestNetwork\`+strings.TrimPrefix(k.id(), "Microsoft:"))
		})
		if card < 0 || len(p.Strings("IPAddresses")) != len(p.Strings("Subnets")) {
			return failed(retInvalidParameter)
		}
		all = append(all, change{card, p})
	}
	return h.start("SetGuestNetworkAdapterConfiguration", vm, func(*job) *refusal {
		if !vm.answers("Msvm_KvpExchangeComponentSettingData") {
			return refuse(retInvalidState, h.say("The guest doesn't answer", "Der Gast antwortet nicht"))
		}
		for _, c := range all {
			vm.guest.setNetwork(c.card, c.p)
			if f := vm.guest.OnNetwork; f != nil {
				h.s.later = append(h.s.later, func() { f(c.card, c.p) })
			}
		}
		return nil
	})
}

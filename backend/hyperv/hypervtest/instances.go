package hypervtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// object makes an instance: p with all other properties of the class null.
func (h *Host) object(class string, p host.Props) host.Object {
	c := classOf(class)
	all := make(host.Props, len(c.props))
	for name := range c.props {
		all[name] = nil
	}
	for name, v := range p {
		if _, ok := c.props[name]; !ok {
			panic("hypervtest: " + class + " has no property " + name)
		}
		w, err := put(c.props[name], v)
		if err != nil {
			panic("hypervtest: " + class + "." + name + ": " + err.Error())
		}
		all[name] = w
	}
	return host.Object{Path: pathOf(h.opts.Name, c, all), Class: c.name, Props: all}
}

// instances are those of a class and the classes below it. keep is asked first,
// with the properties that they were made of: it may say no to those that the
// caller has no use for, as making them takes time.
func (h *Host) instances(class string, keep func(host.Props) bool) []host.Object {
	var out []host.Object
	wanted := func(c string) bool { return classOf(c).is(class) }
	add := func(c string, p host.Props) {
		if wanted(c) && keep(p) {
			out = append(out, h.object(c, p))
		}
	}
	add("Msvm_ComputerSystem", h.props())
	for _, vm := range h.vms {
		add("Msvm_ComputerSystem", vm.props())
		add("Msvm_VirtualSystemSettingData", vm.settings)
		for _, s := range vm.snaps {
			add("Msvm_VirtualSystemSettingData", s.settings)
		}
		for _, comps := range vm.configurations() {
			for _, k := range comps {
				if k.class.is(class) && keep(k.props) {
					out = append(out, vm.componentObject(k))
				}
			}
		}
		for _, r := range vm.refs {
			add("Msvm_VirtualSystemReferencePoint", r.props())
		}
		if class == "Msvm_GuestNetworkAdapterConfiguration" {
			out = append(out, filter(vm.guestNetworks(), keep)...)
		}
		if classOf(class).is("CIM_LogicalDevice") || classOf("CIM_LogicalDevice").is(class) {
			for _, o := range filter(vm.devices(), keep) {
				if wanted(o.Class) {
					out = append(out, o)
				}
			}
		}
	}
	for _, t := range templates() {
		add(t.class.name, t.props)
	}
	for _, sw := range h.switches {
		add("Msvm_VirtualEthernetSwitch", host.Props{"CreationClassName": "Msvm_VirtualEthernetSwitch", "Name": sw.id, "ElementName": sw.name,
			"EnabledState": 5, "HealthState": 5, "InstanceID": "Microsoft:" + sw.id})
	}
	for _, s := range []string{"Msvm_VirtualSystemManagementService", "Msvm_VirtualSystemSnapshotService", "Msvm_VirtualSystemReferencePointService", "Msvm_ImageManagementService"} {
		add(s, host.Props{"CreationClassName": s, "Name": serviceNames[s], "SystemCreationClassName": "Msvm_ComputerSystem", "SystemName": h.opts.Name,
			"ElementName": h.say("Hyper-V service", "Hyper-V-Dienst"), "Started": true, "EnabledState": 2})
	}
	add("Msvm_VirtualSystemManagementServiceSettingData", host.Props{"InstanceID": "Microsoft:" + h.opts.Name,
		"DefaultVirtualHardDiskPath": defaultDisks, "DefaultExternalDataRoot": defaultConfigs, "NumaSpanningEnabled": true,
		"MinimumMacAddress": "00155D000000", "MaximumMacAddress": "00155D0000FF"})
	if wanted("Msvm_ConcreteJob") {
		for _, j := range h.jobs {
			if !h.expired(j) && keep(j.props()) {
				add("Msvm_ConcreteJob", h.jobProps(j))
			}
		}
	}
	return out
}

func filter(all []host.Object, keep func(host.Props) bool) []host.Object {
	return slices.DeleteFunc(all, func(o host.Object) bool { return !keep(o.Props) })
}

var serviceNames = map[string]string{
	"Msvm_VirtualSystemManagementService":     "vmms",
	"Msvm_VirtualSystemSnapshotService":       "Msvm_VirtualSystemSnapshotService",
	"Msvm_VirtualSystemReferencePointService": "Msvm_VirtualSystemReferencePointService",
	"Msvm_ImageManagementService":             "vhdsvc",
}

// get reads the object at path, or the class.
func (h *Host) get(path host.Ref) (host.Object, error) {
	server, c, keys, err := parsePath(path)
	if err != nil {
		return host.Object{}, err
	}
	if server != "" && server != "." && !strings.EqualFold(server, h.opts.Name) {
		return host.Object{}, wmiError("Get", wbemNotFound, string(path))
	}
	if keys == nil {
		p := host.Props{}
		for name := range c.props {
			p[name] = nil
		}
		return host.Object{Path: host.Ref(`\\` + h.opts.Name + `\` + host.Namespace + `:` + c.name), Class: c.name, Props: p}, nil
	}
	if c.name == "Msvm_ConcreteJob" { // the most usual
		for _, j := range h.working {
			if keys["InstanceID"] == j.id {
				return h.object(c.name, h.jobProps(j)), nil
			}
		}
	}
	for _, o := range h.instances(c.name, func(p host.Props) bool { return same(c, keys, p) }) {
		return o, nil
	}
	return host.Object{}, wmiError("Get", wbemNotFound, string(path))
}

// associators follows the associations that are known.
func (h *Host) associators(path host.Ref, assoc, result string) ([]host.Object, error) {
	from, err := h.get(path)
	if err != nil {
		return nil, err
	}
	to := classOf(result)
	if to == nil {
		return nil, wmiError("Associators", wbemInvalidClass, result)
	}
	follow := associations[assoc]
	if follow == nil {
		return nil, wmiError("Associators", wbemInvalidClass, assoc)
	}
	var out []host.Object
	for _, o := range follow(h, from) {
		if classOf(o.Class).is(to.name) {
			out = append(out, o)
		}
	}
	return out, nil
}

// associations by class: what they tie to an object, of whatever class.
var associations map[string]func(*Host, host.Object) []host.Object

func init() {
	associations = map[string]func(*Host, host.Object) []host.Object{
		"Msvm_VirtualSystemSettingDataComponent": func(h *Host, o host.Object) []host.Object {
			var out []host.Object
			vm, comps, _ := h.configuration(o)
			for _, k := range comps {
				out = append(out, vm.componentObject(k))
			}
			return out
		},
		"Msvm_SettingsDefineState": func(h *Host, o host.Object) []host.Object {
			if vm := h.vm(o.Props.String("Name")); vm != nil && o.Class == "Msvm_ComputerSystem" {
				return []host.Object{vm.settingsObject()}
			}
			if vm, _, s := h.configuration(o); vm != nil && s == nil {
				return []host.Object{vm.object()}
			}
			return nil
		},
		"Msvm_SnapshotOfVirtualSystem": func(h *Host, o host.Object) []host.Object {
			var out []host.Object
			if vm := h.vm(o.Props.String("Name")); vm != nil && o.Class == "Msvm_ComputerSystem" {
				for _, s := range vm.snaps {
					out = append(out, s.object())
				}
			}
			if vm, _, s := h.configuration(o); s != nil {
				out = append(out, vm.object())
			}
			return out
		},
		"Msvm_ReferencePointOfVirtualSystem": func(h *Host, o host.Object) []host.Object {
			var out []host.Object
			if vm := h.vm(o.Props.String("Name")); vm != nil && o.Class == "Msvm_ComputerSystem" {
				for _, r := range vm.refs {
					out = append(out, h.object("Msvm_VirtualSystemReferencePoint", r.props()))
				}
			}
			if vm, _ := h.refPoint(o.Path); vm != nil {
				out = append(out, vm.object())
			}
			return out
		},
		"Msvm_SystemDevice": func(h *Host, o host.Object) []host.Object {
			if vm := h.vm(o.Props.String("Name")); vm != nil && o.Class == "Msvm_ComputerSystem" {
				return vm.devices()
			}
			return nil
		},
		"Msvm_SettingDataComponent": func(h *Host, o host.Object) []host.Object {
			id := o.Props.String("InstanceID")
			for _, vm := range h.vms {
				if i := slices.IndexFunc(vm.comps, func(k *component) bool { return k.id() == id }); i >= 0 {
					return vm.guestNetworksOf(vm.comps[i])
				}
			}
			return nil
		},
		"Msvm_AffectedJobElement": func(h *Host, o host.Object) []host.Object {
			var out []host.Object
			for _, j := range h.jobs {
				if j.vm != nil && j.vm.id == o.Props.String("Name") && !h.expired(j) {
					out = append(out, h.object("Msvm_ConcreteJob", h.jobProps(j)))
				}
				if j.id != o.Props.String("InstanceID") {
					continue
				}
				for _, f := range j.affected {
					if x, ok := f(); ok {
						out = append(out, x)
					}
				}
			}
			return out
		},
	}
}

// props are those of the host's own Msvm_ComputerSystem.
func (h *Host) props() host.Props {
	return host.Props{"CreationClassName": "Msvm_ComputerSystem", "Name": h.opts.Name, "ElementName": h.opts.Name,
		"Caption": h.say("Hosting Computer System", "Hostcomputersystem"), "EnabledState": 2, "HealthState": 5, "OperationalStatus": []any{2}}
}

// object is the machine's Msvm_ComputerSystem.
func (vm *VM) object() host.Object { return vm.h.object("Msvm_ComputerSystem", vm.props()) }

func (vm *VM) props() host.Props {
	h := vm.h
	p := host.Props{
		"CreationClassName": "Msvm_ComputerSystem", "Name": vm.id, "ElementName": vm.name(),
		"Caption":      h.say("Virtual Machine", "Virtueller Computer"),
		"Description":  h.say("Microsoft Virtual Machine", "Virtueller Microsoft-Computer"),
		"EnabledState": vm.state, "RequestedState": 12, "HealthState": 5, "OperationalStatus": []any{2},
		"OnTimeInMilliseconds": "0", "TimeOfLastStateChange": dmtf(vm.changed), "TimeOfLastConfigurationChange": dmtf(vm.changed),
		"InstallDate": dmtf(vm.created), "ProcessID": nil, "NumberOfNumaNodes": 1,
	}
	if vm.running() {
		p["OnTimeInMilliseconds"] = fmt.Sprint(time.Since(vm.changed).Milliseconds())
		p["ProcessID"] = vm.process
	}
	return p
}

func (vm *VM) settingsObject() host.Object {
	return vm.h.object("Msvm_VirtualSystemSettingData", vm.settings)
}

func (vm *VM) componentObject(k *component) host.Object {
	p := k.props
	if k.class.name == "Msvm_KvpExchangeComponentSettingData" {
		p = maps.Clone(p)
		items := []any{}
		for _, i := range vm.kvp {
			items = append(items, kvpText(i.name, i.data, kvpHostOnly))
		}
		p["HostOnlyItems"] = items
	}
	return vm.h.object(k.class.name, p)
}

// configuration finds what a Msvm_VirtualSystemSettingData describes: a
// machine's present state (s is nil) or a snapshot.
func (h *Host) configuration(o host.Object) (vm *VM, comps []*component, s *snapshot) {
	if o.Class != "Msvm_VirtualSystemSettingData" {
		return nil, nil, nil
	}
	id := o.Props.String("InstanceID")
	for _, vm := range h.vms {
		if strings.EqualFold(id, "Microsoft:"+vm.id) {
			return vm, vm.comps, nil
		}
		for _, s := range vm.snaps {
			if strings.EqualFold(id, "Microsoft:"+s.id) {
				return vm, s.comps, s
			}
		}
	}
	return nil, nil, nil
}

// configurations are the machine's components and those of its snapshots.
func (vm *VM) configurations() [][]*component {
	out := [][]*component{vm.comps}
	for _, s := range vm.snaps {
		out = append(out, s.comps)
	}
	return out
}

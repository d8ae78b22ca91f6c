package hypervtest

import (
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// component is one part of a machine's configuration, or of a snapshot's.
type component struct {
	class *class
	props host.Props
}

func (k *component) id() string     { return k.props.String("InstanceID") }
func (k *component) sub() string    { return k.props.String("ResourceSubType") }
func (k *component) parent() string { return k.props.String("Parent") }

// file is the path of a disk or an image, "" if there is none.
func (k *component) file() string {
	if s := k.props.Strings("HostResource"); len(s) > 0 {
		return s[0]
	}
	return ""
}

// Subtypes of resources.
const (
	scsiController = "Microsoft:Hyper-V:Synthetic SCSI Controller"
	ideController  = "Microsoft:Hyper-V:Emulated IDE Controller"
	diskDrive      = "Microsoft:Hyper-V:Synthetic Disk Drive"
	physicalDrive  = "Microsoft:Hyper-V:Physical Disk Drive"
	dvdDrive       = "Microsoft:Hyper-V:Synthetic DVD Drive"
	hardDisk       = "Microsoft:Hyper-V:Virtual Hard Disk"
	dvdImage       = "Microsoft:Hyper-V:Virtual CD/DVD Disk"
	ethernetPort   = "Microsoft:Hyper-V:Synthetic Ethernet Port"
	legacyPort     = "Microsoft:Hyper-V:Emulated Ethernet Port"
	ethernetLink   = "Microsoft:Hyper-V:Ethernet Connection"
	fibreChannel   = "Microsoft:Hyper-V:Synthetic FibreChannel Port"
	processor      = "Microsoft:Hyper-V:Processor"
	memory         = "Microsoft:Hyper-V:Memory"
)

// kinds are the resources that there are: class, subtype, ResourceType.
var kinds = []struct {
	class, sub string
	typ        int
}{
	{"Msvm_ResourceAllocationSettingData", scsiController, 6},
	{"Msvm_ResourceAllocationSettingData", ideController, 5},
	{"Msvm_ResourceAllocationSettingData", diskDrive, 17},
	{"Msvm_ResourceAllocationSettingData", physicalDrive, 17},
	{"Msvm_ResourceAllocationSettingData", dvdDrive, 16},
	{"Msvm_StorageAllocationSettingData", hardDisk, 31},
	{"Msvm_StorageAllocationSettingData", dvdImage, 31},
	{"Msvm_SyntheticEthernetPortSettingData", ethernetPort, 10},
	{"Msvm_EmulatedEthernetPortSettingData", legacyPort, 10},
	{"Msvm_EthernetPortAllocationSettingData", ethernetLink, 33},
	{"Msvm_SyntheticFcPortSettingData", fibreChannel, 7},
	{"Msvm_ProcessorSettingData", processor, 3},
	{"Msvm_MemorySettingData", memory, 4},
}

// templates are the default settings that TextOf copies.
var templates = sync.OnceValue(func() []*component {
	var out []*component
	for i, k := range kinds {
		p := host.Props{"InstanceID": fmt.Sprintf(`Microsoft:Definition\%08X-0000-0000-0000-000000000000\Default`, i+1),
			"ResourceType": int64(k.typ), "ResourceSubType": k.sub, "ElementName": k.sub[len("Microsoft:Hyper-V:"):]}
		switch k.sub {
		case processor:
			maps.Copy(p, host.Props{"VirtualQuantity": "1", "Reservation": "0", "Limit": "100000", "Weight": int64(100)})
		case memory:
			maps.Copy(p, host.Props{"VirtualQuantity": "1024", "Reservation": "1024", "Limit": "1048576", "DynamicMemoryEnabled": false, "AllocationUnits": "byte * 2^20"})
		case ethernetPort, legacyPort:
			maps.Copy(p, host.Props{"StaticMacAddress": false, "Address": "000000000000"})
		case ethernetLink:
			p["EnabledState"] = int64(2)
		}
		c := classOf(k.class)
		q, err := c.fill("template", p)
		if err != nil {
			panic("hypervtest: " + err.Error())
		}
		out = append(out, &component{class: c, props: q})
	}
	return out
})

// add puts a component into the machine's configuration.
func (vm *VM) add(class, suffix string, p host.Props) *component {
	c := classOf(class)
	p = maps.Clone(p)
	p["InstanceID"] = "Microsoft:" + vm.id + `\` + suffix
	q, err := c.fill("add", p)
	if err != nil {
		panic("hypervtest: " + err.Error())
	}
	k := &component{class: c, props: q}
	vm.comps = append(vm.comps, k)
	return k
}

// resource puts a copy of a template there.
func (vm *VM) resource(sub, suffix string, p host.Props) *component {
	for _, t := range templates() {
		if t.sub() == sub {
			q := maps.Clone(t.props)
			maps.Copy(q, p)
			return vm.add(t.class.name, suffix, q)
		}
	}
	panic("hypervtest: no template for " + sub)
}

func (vm *VM) ref(k *component) string { return string(vm.h.path(k.class.name, k.props)) }

// find returns the component that a path names.
func (vm *VM) find(path string) *component {
	_, c, keys, err := parsePath(host.Ref(path))
	if err != nil || keys == nil {
		return nil
	}
	for _, k := range vm.comps {
		if k.class.is(c.name) && same(k.class, keys, k.props) {
			return k
		}
	}
	return nil
}

// under are the components whose parent is k.
func (vm *VM) under(k *component) []*component {
	var out []*component
	for _, x := range vm.comps {
		if x.parent() != "" && vm.find(x.parent()) == k {
			out = append(out, x)
		}
	}
	return out
}

// controllers of a kind, in order.
func (vm *VM) controllers(sub string) []*component {
	var out []*component
	for _, k := range vm.comps {
		if k.sub() == sub {
			out = append(out, k)
		}
	}
	return out
}

// cards are the machine's network cards, in order.
func (vm *VM) cards() []*component {
	var out []*component
	for _, k := range vm.comps {
		if k.sub() == ethernetPort || k.sub() == legacyPort {
			out = append(out, k)
		}
	}
	return out
}

// copyComponents are those of another configuration, with the identifier put
// in place of the old one wherever it is named.
func copyComponents(comps []*component, old, id string) []*component {
	var swap func(v any) any
	swap = func(v any) any {
		switch x := v.(type) {
		case string:
			return strings.ReplaceAll(x, "Microsoft:"+old, "Microsoft:"+id)
		case []any:
			out := make([]any, len(x))
			for i := range x {
				out[i] = swap(x[i])
			}
			return out
		}
		return v
	}
	var out []*component
	for _, k := range comps {
		p := host.Props{}
		for name, v := range k.props {
			p[name] = swap(v)
		}
		out = append(out, &component{class: k.class, props: p})
	}
	return out
}

// defaults are the components that every new machine has.
func (vm *VM) defaults(generation int, integration bool) {
	vm.resource(processor, `B637F346-6A0E-4DEC-AF52-BD70CB80A21D\0`, nil)
	vm.resource(memory, `4764334D-E001-4176-82EE-5594EC9B530E`, nil)
	if generation == 1 {
		for i := range 2 {
			vm.resource(ideController, fmt.Sprintf(`83F8638B-8DCA-4152-9EDA-2CA8B33039B4\%d`, i), host.Props{"Address": fmt.Sprint(i), "ElementName": fmt.Sprintf("IDE %d", i)})
		}
	}
	if !integration {
		return
	}
	for class, id := range map[string]string{
		"Msvm_ShutdownComponentSettingData":    "9F8233AC-BE49-4C79-8EE3-E7E1985B2077",
		"Msvm_HeartbeatComponentSettingData":   "84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47",
		"Msvm_VssComponentSettingData":         "5CED1297-4598-4915-A5FC-AD21BB4D02A4",
		"Msvm_KvpExchangeComponentSettingData": "2A34B1C2-FD73-4043-8A5B-DD2159BC743F",
	} {
		p := host.Props{"EnabledState": int64(2), "ElementName": class}
		vm.add(class, id, p)
	}
}

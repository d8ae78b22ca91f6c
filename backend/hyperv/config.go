package hyperv

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// savedVersion is the version of saved's JSON.
const savedVersion = 1

// saved is a machine's configuration in the words of Hyper-V: what dr.Machine's
// Config holds, and enough to build the machine anew at another place. It holds
// no secrets.
type saved struct {
	// Version tells this JSON from that of other backends.
	Version int `json:"hyperv"`

	Name          string `json:"name,omitempty"`
	Generation    int    `json:"generation"`
	ConfigVersion string `json:"configVersion,omitempty"` // "9.0"
	SecureBoot    bool   `json:"secureBoot,omitempty"`
	Template      string `json:"secureBootTemplate,omitempty"` // GUID of the set of keys
	CPUs          int    `json:"cpus,omitempty"`
	MemoryMB      int64  `json:"memoryMB,omitempty"`
	Dynamic       bool   `json:"dynamicMemory,omitempty"`
	MemoryMinMB   int64  `json:"memoryMinMB,omitempty"`
	MemoryMaxMB   int64  `json:"memoryMaxMB,omitempty"`

	Disks []savedDisk `json:"disks,omitempty"`
	Cards []savedCard `json:"cards,omitempty"`

	// Lost names what is part of the machine and isn't built anew.
	Lost []string `json:"lost,omitempty"`
}

type savedDisk struct {
	ID         dr.DiskID `json:"id"`
	Controller string    `json:"controller"` // "SCSI" or "IDE"
	Number     int       `json:"number,omitempty"`
	Location   int       `json:"location,omitempty"`
	Sector     uint32    `json:"sector,omitempty"`
	VHD        bool      `json:"vhd,omitempty"` // built anew it is a VHDX
}

type savedCard struct {
	ID        string `json:"id"`
	Name      string `json:"name,omitempty"`
	MAC       string `json:"mac,omitempty"` // 12 hexadecimal digits
	StaticMAC bool   `json:"staticMAC,omitempty"`
	Legacy    bool   `json:"legacy,omitempty"`
	Switch    string `json:"switch,omitempty"`  // GUID
	Network   string `json:"network,omitempty"` // its name then
}

const (
	classCard       = "Msvm_SyntheticEthernetPortSettingData"
	classLegacyCard = "Msvm_EmulatedEthernetPortSettingData"
	classConnection = "Msvm_EthernetPortAllocationSettingData"
	classProcessor  = "Msvm_ProcessorSettingData"
	classMemory     = "Msvm_MemorySettingData"
	subtypeGen1     = "Microsoft:Hyper-V:SubType:1"
	subtypeGen2     = "Microsoft:Hyper-V:SubType:2"
)

// config reads a configuration.
func (n *node) config(ctx context.Context, settings host.Object, disks []vdisk) (saved, error) {
	p := settings.Props
	s := saved{Version: savedVersion, Name: p.String("ElementName"), Generation: 1, ConfigVersion: p.String("Version"),
		SecureBoot: p.Bool("SecureBootEnabled"), Template: p.String("SecureBootTemplateId")}
	if p.String("VirtualSystemSubType") == subtypeGen2 {
		s.Generation = 2
	} else {
		s.SecureBoot, s.Template = false, ""
	}
	processors, err := n.components(ctx, settings.Path, classProcessor)
	if err != nil {
		return saved{}, err
	}
	for _, o := range processors {
		c, _ := o.Props.Int("VirtualQuantity")
		s.CPUs = int(c)
	}
	memory, err := n.components(ctx, settings.Path, classMemory)
	if err != nil {
		return saved{}, err
	}
	for _, o := range memory {
		s.MemoryMB, _ = o.Props.Int("VirtualQuantity")
		if s.Dynamic = o.Props.Bool("DynamicMemoryEnabled"); s.Dynamic {
			s.MemoryMinMB, _ = o.Props.Int("Reservation")
			s.MemoryMaxMB, _ = o.Props.Int("Limit")
		}
	}
	for _, d := range disks {
		x := savedDisk{ID: d.id, Controller: d.controller, Number: d.number, Location: d.location, Sector: d.info.LogicalSector, VHD: d.info.VHD}
		s.Disks = append(s.Disks, x)
	}
	if s.Cards, err = n.cards(ctx, settings.Path); err != nil {
		return saved{}, err
	}
	return s, nil
}

// cards reads the network cards, ordered by their IDs, which are those of their
// ports.
func (n *node) cards(ctx context.Context, settings host.Ref) ([]savedCard, error) {
	connections, err := n.components(ctx, settings, classConnection)
	if err != nil {
		return nil, err
	}
	switchOf := map[string]string{}
	for _, o := range connections {
		state, _ := o.Props.Int("EnabledState")
		if r := o.Props.Strings("HostResource"); len(r) == 1 && r[0] != "" && state != 3 {
			switchOf[key(host.Ref(o.Props.String("Parent")))] = switchGUID(r[0])
		}
	}
	var cards []savedCard
	for _, class := range []string{classCard, classLegacyCard} {
		ports, err := n.components(ctx, settings, class)
		if err != nil {
			return nil, err
		}
		for _, o := range ports {
			cards = append(cards, savedCard{ID: lastPart(o.Props.String("InstanceID")), Name: o.Props.String("ElementName"), MAC: o.Props.String("Address"),
				StaticMAC: o.Props.Bool("StaticMacAddress"), Legacy: class == classLegacyCard, Switch: switchOf[key(o.Path)]})
		}
	}
	slices.SortFunc(cards, func(a, b savedCard) int { return cmp.Compare(a.ID, b.ID) })
	return cards, nil
}

// switchGUID takes a switch's name out of its path: `...Name="GUID"`.
func switchGUID(path string) string {
	i := strings.LastIndex(path, `Name="`)
	if i < 0 {
		return ""
	}
	name, _, _ := strings.Cut(path[i+len(`Name="`):], `"`)
	return strings.ToLower(name)
}

// vswitch is a virtual switch.
type vswitch struct {
	guid string // lower case
	name string
	path host.Ref
}

func (n *node) switches(ctx context.Context) ([]vswitch, error) {
	all, err := n.conn.Query(ctx, "SELECT * FROM Msvm_VirtualEthernetSwitch")
	if err != nil {
		return nil, err
	}
	var out []vswitch
	for _, o := range all {
		out = append(out, vswitch{strings.ToLower(o.Props.String("Name")), o.Props.String("ElementName"), o.Path})
	}
	slices.SortFunc(out, func(a, b vswitch) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.guid, b.guid)) })
	return out, nil
}

func nameOf(switches []vswitch, guid string) string {
	for _, s := range switches {
		if s.guid == guid {
			return s.name
		}
	}
	return ""
}

// findSwitch finds a switch by name or GUID. Names need not be unique.
func findSwitch(switches []vswitch, want string) (vswitch, error) {
	var found []vswitch
	for _, s := range switches {
		if s.guid == strings.ToLower(want) {
			return s, nil
		}
		if s.name == want {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		var names []string
		for _, s := range switches {
			names = append(names, s.name)
		}
		return vswitch{}, &explained{fmt.Errorf("%w: there is no virtual switch %q; there are %q", dr.ErrInvalid, want, names), "make the switch, or map the network to one that is there"}
	}
	return vswitch{}, &explained{fmt.Errorf("%w: %d virtual switches are called %q", dr.ErrAmbiguous, len(found), want), "use the switch's GUID"}
}

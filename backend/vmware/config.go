package vmware

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// savedVersion is the version of saved's JSON.
const savedVersion = 1

// saved is a machine's configuration in the words of vSphere: what dr.Machine's
// Config holds, and enough to build the machine anew at another place. It holds
// no secrets: of extraConfig only what keepsExtra names.
type saved struct {
	// Version tells this JSON from that of other backends.
	Version int `json:"vsphere"`

	Name         string `json:"name,omitempty"`
	Annotation   string `json:"annotation,omitempty"`
	UUID         string `json:"uuid,omitempty"` // of the BIOS
	InstanceUUID string `json:"instanceUuid,omitempty"`

	Hardware string     `json:"hardware,omitempty"` // "vmx-19"
	GuestID  string     `json:"guestId,omitempty"`
	Firmware string     `json:"firmware,omitempty"`
	Boot     *savedBoot `json:"boot,omitempty"`

	CPUs           int32  `json:"cpus,omitempty"`
	CoresPerSocket int32  `json:"coresPerSocket,omitempty"`
	MemoryMB       int64  `json:"memoryMB,omitempty"`
	CPUHotAdd      bool   `json:"cpuHotAdd,omitempty"`
	CPUHotRemove   bool   `json:"cpuHotRemove,omitempty"`
	MemoryHotAdd   bool   `json:"memoryHotAdd,omitempty"`
	MemoryLocked   bool   `json:"memoryLocked,omitempty"` // all of it reserved
	NestedHV       bool   `json:"nestedHV,omitempty"`
	Latency        string `json:"latency,omitempty"`

	Controllers []savedController `json:"controllers,omitempty"`
	Disks       []savedDisk       `json:"disks,omitempty"`
	NICs        []savedNIC        `json:"nics,omitempty"`
	Video       *savedVideo       `json:"video,omitempty"`
	Tools       *savedTools       `json:"tools,omitempty"`
	Extra       map[string]string `json:"extra,omitempty"`

	Guest savedGuest `json:"guest,omitzero"`
	Place savedPlace `json:"place,omitzero"`

	// Lost names what is part of the machine and can't be built anew.
	Lost []string `json:"lost,omitempty"`
}

type savedBoot struct {
	SecureBoot bool     `json:"secureBoot,omitempty"`
	DelayMS    int64    `json:"delayMs,omitempty"`
	Retry      bool     `json:"retry,omitempty"`
	RetryMS    int64    `json:"retryMs,omitempty"`
	Network    string   `json:"network,omitempty"` // "ipv4" or "ipv6"
	Order      []string `json:"order,omitempty"`   // "disk:2000", "nic:4000", "cdrom", "floppy"
}

type savedController struct {
	Type    string `json:"type"` // a key of controllerClasses
	Key     int32  `json:"key"`
	Bus     int32  `json:"bus"`
	Sharing string `json:"sharing,omitempty"` // of SCSI: a types.VirtualSCSISharing
	Slot    int32  `json:"slot,omitempty"`    // PCI
}

type savedDisk struct {
	ID         dr.DiskID `json:"id"`
	UUID       string    `json:"uuid,omitempty"`
	Key        int32     `json:"key"`
	Controller int32     `json:"controller"`
	Unit       int32     `json:"unit"`
	Size       int64     `json:"size"`
	Mode       string    `json:"mode,omitempty"`
	Thin       bool      `json:"thin,omitempty"`
	Datastore  string    `json:"datastore,omitempty"`
}

type savedNIC struct {
	ID           string `json:"id"`
	Type         string `json:"type"` // "vmxnet3", as object.EthernetCardTypes names it
	Key          int32  `json:"key"`
	MAC          string `json:"mac,omitempty"`
	MACType      string `json:"macType,omitempty"` // a types.VirtualEthernetCardMacType, lower case
	Network      string `json:"network,omitempty"`
	Disconnected bool   `json:"disconnected,omitempty"` // when powered on
	WakeOnLAN    bool   `json:"wakeOnLan,omitempty"`
	Slot         int32  `json:"slot,omitempty"` // PCI: Linux names the interface after it
}

type savedVideo struct {
	MemoryKB int64 `json:"memoryKB,omitempty"`
	Displays int32 `json:"displays,omitempty"`
	Auto     bool  `json:"auto,omitempty"`
	ThreeD   bool  `json:"threeD,omitempty"`
}

type savedTools struct {
	AfterPowerOn   bool   `json:"afterPowerOn,omitempty"`
	AfterResume    bool   `json:"afterResume,omitempty"`
	BeforeStandby  bool   `json:"beforeStandby,omitempty"`
	BeforeShutdown bool   `json:"beforeShutdown,omitempty"`
	BeforeReboot   bool   `json:"beforeReboot,omitempty"`
	Upgrade        string `json:"upgrade,omitempty"`
	SyncTime       bool   `json:"syncTime,omitempty"`
}

// savedGuest is what the guest said of its network beyond addresses. The
// customization of Linux can't leave these alone, so it has to tell them again.
type savedGuest struct {
	Host     string              `json:"host,omitempty"`
	Domain   string              `json:"domain,omitempty"`
	DNS      []string            `json:"dns,omitempty"`
	Search   []string            `json:"search,omitempty"`
	Gateways map[string][]string `json:"gateways,omitempty"` // by card
}

// savedPlace is where the machine was, in names. Folder and ResourcePool are
// inventory paths.
type savedPlace struct {
	Datacenter   string `json:"datacenter,omitempty"`
	Folder       string `json:"folder,omitempty"`
	Cluster      string `json:"cluster,omitempty"` // or the host, where it is in none
	Host         string `json:"host,omitempty"`
	ResourcePool string `json:"resourcePool,omitempty"`
	Datastore    string `json:"datastore,omitempty"`
}

// extraKept are the keys of extraConfig that are saved. Nothing else is: there
// are passwords among the values, of guestinfo, consoles and agents.
var extraKept = regexp.MustCompile(`(?i)^(disk\.enableUUID|devices\.hotplug|isolation\.(tools|device)\.[a-z0-9.]{1,60}|tools\.guest\.desktop\.autolock|` +
	`tools\.setInfo\.sizeLimit|vmci[0-9]\.unrestricted|RemoteDisplay\.maxConnections|log\.(keepOld|rotateSize)|numa\.[a-zA-Z.]{1,60}|` +
	`pciBridge[0-9]{1,2}\.(present|pciSlotNumber|virtualDev|functions))$`)

// extraValue is what a kept value may look like: words and numbers, no secrets.
var extraValue = regexp.MustCompile(`^[A-Za-z0-9_.,-]{1,64}$`)

func keepsExtra(key, value string) bool {
	return extraKept.MatchString(key) && extraValue.MatchString(value)
}

// save is the machine's configuration.
func (f facts) save() *saved {
	c := &f.config
	s := &saved{
		Version: savedVersion, Name: f.name, Annotation: c.Annotation, UUID: c.Uuid, InstanceUUID: c.InstanceUuid,
		Hardware: c.Version, GuestID: c.GuestId, Firmware: c.Firmware,
		CPUs: c.Hardware.NumCPU, MemoryMB: int64(c.Hardware.MemoryMB),
		CPUHotAdd: isTrue(c.CpuHotAddEnabled), CPUHotRemove: isTrue(c.CpuHotRemoveEnabled), MemoryHotAdd: isTrue(c.MemoryHotAddEnabled),
		MemoryLocked: isTrue(c.MemoryReservationLockedToMax), NestedHV: isTrue(c.NestedHVEnabled),
		Guest: f.saveGuest(), Place: f.savePlace(),
	}
	if n := c.Hardware.NumCoresPerSocket; n != nil {
		s.CoresPerSocket = *n
	}
	if l := c.LatencySensitivity; l != nil && l.Level != types.LatencySensitivitySensitivityLevelNormal {
		s.Latency = string(l.Level)
	}
	if b := c.BootOptions; b != nil {
		s.Boot = saveBoot(b)
	}
	if t := c.Tools; t != nil {
		s.Tools = &savedTools{isTrue(t.AfterPowerOn), isTrue(t.AfterResume), isTrue(t.BeforeGuestStandby), isTrue(t.BeforeGuestShutdown),
			isTrue(t.BeforeGuestReboot), t.ToolsUpgradePolicy, isTrue(t.SyncTimeWithHost)}
	}
	for _, o := range c.ExtraConfig {
		v := o.GetOptionValue()
		if text, ok := v.Value.(string); ok && keepsExtra(v.Key, text) {
			if s.Extra == nil {
				s.Extra = map[string]string{}
			}
			s.Extra[v.Key] = text
		}
	}
	f.saveDevices(s)
	if c.KeyId != nil {
		s.Lost = append(s.Lost, "encryption")
	}
	if c.VAppConfig != nil {
		s.Lost = append(s.Lost, "vApp properties")
	}
	slices.Sort(s.Lost)
	s.Lost = slices.Compact(s.Lost)
	return s
}

func saveBoot(b *types.VirtualMachineBootOptions) *savedBoot {
	out := &savedBoot{SecureBoot: isTrue(b.EfiSecureBootEnabled), DelayMS: b.BootDelay, Retry: isTrue(b.BootRetryEnabled), RetryMS: b.BootRetryDelay, Network: b.NetworkBootProtocol}
	for _, d := range b.BootOrder {
		switch d := d.(type) {
		case *types.VirtualMachineBootOptionsBootableDiskDevice:
			out.Order = append(out.Order, fmt.Sprintf("disk:%d", d.DeviceKey))
		case *types.VirtualMachineBootOptionsBootableEthernetDevice:
			out.Order = append(out.Order, fmt.Sprintf("nic:%d", d.DeviceKey))
		case *types.VirtualMachineBootOptionsBootableCdromDevice:
			out.Order = append(out.Order, "cdrom")
		case *types.VirtualMachineBootOptionsBootableFloppyDevice:
			out.Order = append(out.Order, "floppy")
		}
	}
	return out
}

func (f facts) saveDevices(s *saved) {
	ids := map[int32]vdisk{}
	for _, d := range f.disks {
		ids[d.key] = d
	}
	used := map[int32]bool{}
	for _, dev := range f.config.Hardware.Device {
		switch d := dev.(type) {
		case *types.VirtualDisk:
			x := ids[d.Key]
			used[d.ControllerKey] = true
			entry := savedDisk{ID: x.id, UUID: x.uuid, Key: d.Key, Controller: d.ControllerKey, Size: x.size, Mode: x.mode}
			if d.UnitNumber != nil {
				entry.Unit = *d.UnitNumber
			}
			switch b := d.Backing.(type) {
			case *types.VirtualDiskFlatVer2BackingInfo:
				entry.Thin = isTrue(b.ThinProvisioned)
			case *types.VirtualDiskSeSparseBackingInfo, *types.VirtualDiskSparseVer2BackingInfo:
				entry.Thin = true
			}
			var file object.DatastorePath
			if file.FromString(x.file) {
				entry.Datastore = file.Datastore
			}
			s.Disks = append(s.Disks, entry)
		case *types.VirtualMachineVideoCard:
			s.Video = &savedVideo{d.VideoRamSizeInKB, d.NumDisplays, isTrue(d.UseAutoDetect), isTrue(d.Enable3DSupport)}
		case *types.VirtualTPM:
			s.Lost = append(s.Lost, "virtual TPM")
		case *types.VirtualPCIPassthrough:
			s.Lost = append(s.Lost, "passthrough device")
		case *types.VirtualSriovEthernetCard:
			s.Lost = append(s.Lost, "SR-IOV card") // rebuilt as an emulated one
		case *types.VirtualNVDIMM:
			s.Lost = append(s.Lost, "NVDIMM")
		}
	}
	for _, dev := range f.config.Hardware.Device {
		c, ok := dev.(types.BaseVirtualController)
		kind := controllerKind(dev)
		// IDE is in every machine; SCSI and its like without disks still count,
		// as guests number what they find.
		if !ok || kind == "" || kind == "ide" && !used[c.GetVirtualController().Key] {
			continue
		}
		entry := savedController{Type: kind, Key: c.GetVirtualController().Key, Bus: c.GetVirtualController().BusNumber, Slot: slotOf(dev)}
		if scsi, ok := dev.(types.BaseVirtualSCSIController); ok {
			entry.Sharing = string(scsi.GetVirtualSCSIController().SharedBus)
		}
		s.Controllers = append(s.Controllers, entry)
	}
	for _, card := range cardsOf(f.config.Hardware.Device) {
		c := card.GetVirtualEthernetCard()
		s.NICs = append(s.NICs, savedNIC{
			ID: nicID(c.Key), Type: cardKind(card), Key: c.Key, MAC: c.MacAddress, MACType: strings.ToLower(c.AddressType),
			Network: f.network(c), Disconnected: c.Connectable != nil && !c.Connectable.StartConnected, WakeOnLAN: isTrue(c.WakeOnLanEnabled), Slot: slotOf(card.(types.BaseVirtualDevice)),
		})
	}
}

func slotOf(d types.BaseVirtualDevice) int32 {
	if s, ok := d.GetVirtualDevice().SlotInfo.(*types.VirtualDevicePciBusSlotInfo); ok {
		return s.PciSlotNumber
	}
	return 0
}

// controllerKind names a controller of disks; "" is none.
func controllerKind(d types.BaseVirtualDevice) string {
	switch d.(type) {
	case *types.ParaVirtualSCSIController:
		return "pvscsi"
	case *types.VirtualLsiLogicController:
		return "lsilogic"
	case *types.VirtualLsiLogicSASController:
		return "lsilogic-sas"
	case *types.VirtualBusLogicController:
		return "buslogic"
	case *types.VirtualAHCIController:
		return "sata"
	case *types.VirtualNVMEController:
		return "nvme"
	case *types.VirtualIDEController:
		return "ide"
	}
	return ""
}

// cardKind names a card as object.EthernetCardTypes does. What can't be built
// anew is a vmxnet3.
func cardKind(c types.BaseVirtualEthernetCard) string {
	switch c.(type) {
	case *types.VirtualE1000:
		return "e1000"
	case *types.VirtualE1000e:
		return "e1000e"
	case *types.VirtualPCNet32:
		return "pcnet32"
	case *types.VirtualVmxnet2:
		return "vmxnet2"
	}
	return "vmxnet3"
}

func (f facts) saveGuest() savedGuest {
	var s savedGuest
	if f.guest == nil {
		return s
	}
	s.Host, s.Domain, _ = strings.Cut(f.guest.HostName, ".")
	for _, stack := range f.guest.IpStack {
		if d := stack.DnsConfig; d != nil {
			if s.Host == "" {
				s.Host = d.HostName
			}
			if d.DomainName != "" {
				s.Domain = d.DomainName
			}
			s.DNS, s.Search = append(s.DNS, d.IpAddress...), append(s.Search, d.SearchDomain...)
		}
		if stack.IpRouteConfig == nil {
			continue
		}
		for _, r := range stack.IpRouteConfig.IpRoute {
			if r.PrefixLength != 0 || r.Gateway.IpAddress == "" {
				continue
			}
			if id := f.routeCard(r.Gateway.Device); id != "" && !slices.Contains(s.Gateways[id], r.Gateway.IpAddress) {
				if s.Gateways == nil {
					s.Gateways = map[string][]string{}
				}
				s.Gateways[id] = append(s.Gateways[id], r.Gateway.IpAddress)
			}
		}
	}
	return s
}

// routeCard finds the card of a route, which names it by its place in the
// guest's list.
func (f facts) routeCard(device string) string {
	var i int
	if n, err := fmt.Sscanf(device, "%d", &i); n != 1 || err != nil || i < 0 || i >= len(f.guest.Net) {
		return ""
	}
	for _, card := range cardsOf(f.config.Hardware.Device) {
		c := card.GetVirtualEthernetCard()
		if guestNIC(f.guest, c) == &f.guest.Net[i] {
			return nicID(c.Key)
		}
	}
	return ""
}

func (f facts) savePlace() savedPlace {
	var p savedPlace
	name := func(ref types.ManagedObjectReference, ok bool) string {
		if !ok {
			return ""
		}
		return f.around[ref].name
	}
	if r := f.at.folder; r != nil {
		p.Folder = f.around.path(*r)
		p.Datacenter = name(f.around.up(*r, "Datacenter"))
	}
	if r := f.at.host; r != nil {
		p.Host = f.around[*r].name
		p.Cluster = name(f.around.up(*r, "ClusterComputeResource", "ComputeResource"))
		if p.Datacenter == "" {
			p.Datacenter = name(f.around.up(*r, "Datacenter"))
		}
	}
	if r := f.at.pool; r != nil {
		p.ResourcePool = f.around.path(*r)
	}
	var file object.DatastorePath
	if file.FromString(f.config.Files.VmPathName) {
		p.Datastore = file.Datastore
	}
	return p
}

func (s *saved) encode() json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, numbers, and maps of strings
	}
	return b
}

// parseSaved reads what encode wrote. What another backend wrote, or nobody, is
// nil and no error.
func parseSaved(raw json.RawMessage) (*saved, error) {
	var head struct {
		Version json.RawMessage `json:"vsphere"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &head) != nil || head.Version == nil {
		return nil, nil
	}
	var version int
	if err := json.Unmarshal(head.Version, &version); err != nil {
		return nil, fmt.Errorf("%w: the machine's configuration has no version number: %w", dr.ErrInvalid, err)
	}
	if version != savedVersion {
		return nil, fmt.Errorf("%w: the machine's configuration has version %d, and this Lifeboat knows version %d: use the one that recorded it", dr.ErrUnsupported, version, savedVersion)
	}
	var s saved
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%w: the machine's configuration: %w", dr.ErrInvalid, err)
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("%w: the machine's configuration: %w", dr.ErrInvalid, err)
	}
	return &s, nil
}

var hardwareVersion = regexp.MustCompile(`^vmx-[0-9]{2,3}$`)

func (s *saved) validate() error {
	switch {
	case s.CPUs < 0 || s.CPUs > 4096 || s.CoresPerSocket < 0 || s.CoresPerSocket > 4096:
		return fmt.Errorf("%d CPUs, %d a socket", s.CPUs, s.CoresPerSocket)
	case s.MemoryMB < 0 || s.MemoryMB > 1<<30:
		return fmt.Errorf("%d MB of memory", s.MemoryMB)
	case s.Hardware != "" && !hardwareVersion.MatchString(s.Hardware):
		return fmt.Errorf("hardware version %q", s.Hardware)
	}
	controllers := map[int32]savedController{}
	buses := map[string]bool{}
	for _, c := range s.Controllers {
		class, ok := controllerClasses[c.Type]
		bus := fmt.Sprintf("%s %d", class.name, c.Bus)
		if _, twice := controllers[c.Key]; !ok || twice || buses[bus] || c.Bus < 0 || c.Bus >= class.buses {
			return fmt.Errorf("controller %d of type %q on bus %d", c.Key, c.Type, c.Bus)
		}
		controllers[c.Key], buses[bus] = c, true
	}
	units, ids := map[[2]int32]bool{}, map[dr.DiskID]bool{}
	for _, d := range s.Disks {
		c, known := controllers[d.Controller]
		if d.ID == "" || ids[d.ID] || known && (!controllerClasses[c.Type].has(d.Unit) || units[[2]int32{d.Controller, d.Unit}]) || d.Size < 0 {
			return fmt.Errorf("disk %q of %d bytes at unit %d of controller %d", d.ID, d.Size, d.Unit, d.Controller)
		}
		units[[2]int32{d.Controller, d.Unit}], ids[d.ID] = true, true
	}
	nics := map[string]bool{}
	for _, n := range s.NICs {
		if nics[n.ID] || !slices.Contains(cardKinds, n.Type) {
			return fmt.Errorf("card %q of type %q", n.ID, n.Type)
		}
		nics[n.ID] = true
	}
	for k, v := range s.Extra {
		if !keepsExtra(k, v) {
			return fmt.Errorf("extra value %q can't be among it", k)
		}
	}
	return nil
}

// cardKinds are what cardKind answers.
var cardKinds = []string{"vmxnet3", "e1000e", "e1000", "vmxnet2", "pcnet32"}

// controllerClass is what controllers of a type share: the buses that there are
// of their class, and the units of each.
type controllerClass struct {
	name         string
	buses, units int32
	reserved     int32 // a unit that the controller itself takes, or -1
}

func (c controllerClass) has(unit int32) bool {
	return unit >= 0 && unit < c.units && unit != c.reserved
}

var controllerClasses = map[string]controllerClass{
	"pvscsi":       {"scsi", 4, 64, 7},
	"lsilogic":     {"scsi", 4, 16, 7},
	"lsilogic-sas": {"scsi", 4, 16, 7},
	"buslogic":     {"scsi", 4, 16, 7},
	"sata":         {"sata", 4, 30, -1},
	"nvme":         {"nvme", 4, 15, -1},
	"ide":          {"ide", 2, 2, -1},
}

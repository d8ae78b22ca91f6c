package hypervtest

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// VMSpec describes a machine that is there already, off.
type VMSpec struct {
	Name       string
	Generation int    // 1 or 2; 0: 2
	Folder     string // for its files; empty: C:\VMs\ and the name
	Disks      []DiskSpec
	Switches   []string // one card for each, on the first switch of that name, which is made if it isn't there; "" is a card without one
	MACs       []string // static addresses of the cards, "" for dynamic ones
	CPUs       int      // 0: 1
	Memory     int64    // MiB; 0: 1024
	Version    string   // of the configuration; empty: 9.0. Below 6.2 nothing tracks changes.
	SecureBoot bool
	Template   string // of secure boot; empty: Microsoft Windows
	Notes      []string
	Guest      Guest
	// NoIntegration leaves the integration components out of the configuration.
	NoIntegration bool
	FibreChannel  int  // so many adapters
	LegacyCards   bool // cards are emulated ones, which generation 1 has only
	DVD           bool // an empty drive
}

// DiskSpec describes a disk of a new machine.
type DiskSpec struct {
	ID          string // for Read, Write and the like; empty: disk0, disk1, ...
	Size        int64
	VHD         bool   // the old format
	Fixed       bool   // not dynamic
	PassThrough bool   // a disk of the host itself: it holds nothing here
	Shared      bool   // may be attached to several machines
	Sector4K    bool   // logical sectors of 4096 bytes
	Controller  string // SCSI or IDE; empty: IDE for the first four of generation 1, else SCSI
	Path        string // empty: in the machine's folder
	Existing    bool   // the file is there already
	// VirtualDiskID is the identifier inside of the file; empty: another one.
	// Copies of a file have the same.
	VirtualDiskID string
}

// VM is a machine. All methods are safe for concurrent use.
type VM struct {
	h        *Host
	id       string // GUID in upper case
	settings host.Props
	comps    []*component
	snaps    []*snapshot
	refs     []*refPoint
	state    int
	changed  time.Time
	created  time.Time
	process  int
	stopping int // calls until a shutdown is through
	job      *job
	guest    Guest
	kvp      []kvpItem
	names    map[string]string // DiskSpec.ID → the drive's instance
	held     map[*file]bool    // what the running machine has open, and whether for writing
	made     map[*file]bool    // files that checkpoints made
	garbage  map[*file]bool    // those of them that go when nothing needs them
	merges   int
}

// States of a machine: EnabledState.
const (
	stateOn       = 2
	stateOff      = 3
	stateSaved    = 6
	statePaused   = 9
	stateStarting = 32770
)

// Templates of secure boot.
const (
	secureBootWindows = "1734c6e8-3154-4dda-ba5f-a874cc483422"
	secureBootUEFI    = "272e7447-90a4-4563-a4b9-8e4ab00526ce"
)

// AddVM makes a machine with its disks, all zeros, off.
func (h *Host) AddVM(spec VMSpec) (*VM, error) {
	if spec.Generation == 0 {
		spec.Generation = 2
	}
	if spec.Template == "" && spec.SecureBoot {
		spec.Template = secureBootWindows
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	for _, name := range spec.Switches {
		if name != "" && h.switchNamed(name) == nil {
			h.addSwitch(name)
		}
	}
	settings := host.Props{"ElementName": spec.Name, "VirtualSystemSubType": fmt.Sprintf("Microsoft:Hyper-V:SubType:%d", spec.Generation),
		"SecureBootEnabled": spec.SecureBoot}
	if spec.Version != "" {
		settings["Version"] = spec.Version
	}
	if spec.Template != "" {
		settings["SecureBootTemplateId"] = spec.Template
	}
	if spec.Notes != nil {
		notes := []any{}
		for _, n := range spec.Notes {
			notes = append(notes, n)
		}
		settings["Notes"] = notes
	}
	folder := spec.Folder
	if folder == "" {
		folder = `C:\VMs\` + spec.Name
		for i := 2; h.vmAt(folder); i++ {
			folder = fmt.Sprintf(`C:\VMs\%s (%d)`, spec.Name, i)
		}
	}
	settings["ConfigurationDataRoot"] = folder
	vm, err := h.define(settings, !spec.NoIntegration)
	if err != nil {
		return nil, err
	}
	vm.guest = spec.Guest
	for _, k := range vm.comps {
		switch {
		case k.sub() == processor && spec.CPUs > 0:
			k.props["VirtualQuantity"] = strconv.Itoa(spec.CPUs)
		case k.sub() == memory && spec.Memory > 0:
			k.props["VirtualQuantity"] = strconv.FormatInt(spec.Memory, 10)
		}
	}
	for i, name := range spec.Switches {
		mac := ""
		if i < len(spec.MACs) {
			mac = spec.MACs[i]
		}
		vm.addCard(name, mac, spec.LegacyCards)
	}
	for range spec.FibreChannel {
		vm.resource(fibreChannel, newGUID(), nil)
	}
	for i, d := range spec.Disks {
		if d.ID == "" {
			d.ID = fmt.Sprintf("disk%d", i)
		}
		if err := vm.attach(d, folder); err != nil {
			return nil, err
		}
	}
	if spec.DVD {
		ctl := vm.controllerFor("SCSI")
		vm.resource(dvdDrive, ctl.id()[len("Microsoft:")+len(vm.id)+1:]+`\63\D`, host.Props{"Parent": vm.ref(ctl), "AddressOnParent": "63"})
	}
	return vm, nil
}

func (h *Host) vmAt(folder string) bool {
	for _, vm := range h.vms {
		if strings.EqualFold(vm.settings.String("ConfigurationDataRoot"), folder) {
			return true
		}
	}
	return false
}

func (h *Host) switchNamed(name string) *vSwitch {
	for _, sw := range h.switches {
		if sw.name == name {
			return sw
		}
	}
	return nil
}

// define makes a machine of its settings, with what every machine has.
func (h *Host) define(given host.Props, integration bool) (*VM, error) {
	id := newGUID()
	root := given.String("ConfigurationDataRoot")
	if root == "" {
		root = defaultConfigs
	}
	snaps := given.String("SnapshotDataRoot")
	if snaps == "" {
		snaps = root
	}
	vm := &VM{h: h, id: id, state: stateOff, changed: time.Now(), created: time.Now(), names: map[string]string{}, held: map[*file]bool{}, made: map[*file]bool{}, garbage: map[*file]bool{}}
	vm.settings = host.Props{
		"InstanceID": "Microsoft:" + id, "VirtualSystemIdentifier": id, "ElementName": "New Virtual Machine",
		"Caption":           h.say("Virtual Machine Settings", "Einstellungen für virtuelle Computer"),
		"VirtualSystemType": typeRealized, "VirtualSystemSubType": "Microsoft:Hyper-V:SubType:1", "Version": "9.0",
		"SecureBootEnabled": false, "CreationTime": dmtf(vm.created), "UserSnapshotType": int64(3),
		"AutomaticStartupAction": int64(3), "AutomaticShutdownAction": int64(4), "Notes": []any{},
		"BootOrder": []any{int64(1), int64(2), int64(3), int64(0)}, "BIOSGUID": "{" + newGUID() + "}",
	}
	for k, v := range given {
		switch k {
		case "InstanceID", "VirtualSystemIdentifier", "VirtualSystemType", "CreationTime", "Caption", "Parent":
		default:
			if v != nil {
				vm.settings[k] = v
			}
		}
	}
	vm.settings["ConfigurationDataRoot"], vm.settings["SnapshotDataRoot"] = root, snaps
	generation := 1
	if strings.HasSuffix(vm.settings.String("VirtualSystemSubType"), ":2") {
		generation = 2
	}
	if err := h.s.mkdir(h.opts.Name, root+`\Virtual Machines`); err != nil {
		return nil, err
	}
	if err := h.s.touch(h.opts.Name, vm.configFile()); err != nil {
		return nil, err
	}
	vm.defaults(generation, integration)
	h.vms = append(h.vms, vm)
	return vm, nil
}

func (vm *VM) configFile() string {
	return vm.settings.String("ConfigurationDataRoot") + `\Virtual Machines\` + vm.id + `.vmcx`
}

func (vm *VM) addCard(name, mac string, legacy bool) {
	p := host.Props{"ElementName": vm.h.say("Network Adapter", "Netzwerkkarte"), "Address": fmt.Sprintf("00155D%06X", vm.h.nextMAC())}
	if mac != "" {
		p["Address"], p["StaticMacAddress"] = strings.NewReplacer(":", "", "-", "").Replace(strings.ToUpper(mac)), true
	}
	id := newGUID()
	sub := ethernetPort
	if legacy {
		sub = legacyPort
	}
	port := vm.resource(sub, id, p)
	link := host.Props{"Parent": vm.ref(port), "EnabledState": int64(3)}
	if sw := vm.h.switchNamed(name); sw != nil {
		link["EnabledState"] = int64(2)
		link["HostResource"] = []any{vm.h.switchRef(sw)}
	}
	vm.resource(ethernetLink, id+`\C`, link)
}

func (h *Host) switchRef(sw *vSwitch) string {
	return string(h.path("Msvm_VirtualEthernetSwitch", host.Props{"CreationClassName": "Msvm_VirtualEthernetSwitch", "Name": sw.id}))
}

func (h *Host) nextMAC() int {
	h.s.macs++
	return 0x010000 + h.s.macs
}

// controllerFor returns a controller of a kind, making a SCSI one if need be.
func (vm *VM) controllerFor(kind string) *component {
	sub := scsiController
	if kind == "IDE" {
		sub = ideController
	}
	for _, c := range vm.controllers(sub) {
		if kind != "IDE" || len(vm.under(c)) < 2 {
			return c
		}
	}
	if kind == "IDE" {
		return nil
	}
	return vm.resource(scsiController, newGUID()+`\0`, host.Props{"ElementName": "SCSI Controller"})
}

// attach makes a disk and puts it into the machine.
func (vm *VM) attach(d DiskSpec, folder string) error {
	kind := d.Controller
	if kind == "" {
		kind = "SCSI"
		if len(vm.controllers(ideController)) > 0 && vm.controllerFor("IDE") != nil {
			kind = "IDE"
		}
	}
	ctl := vm.controllerFor(kind)
	if ctl == nil {
		return fmt.Errorf("hypervtest: no room for %s on an IDE controller", d.ID)
	}
	at := 0
	for _, k := range vm.under(ctl) {
		if n, err := strconv.Atoi(k.props.String("AddressOnParent")); err == nil && n >= at {
			at = n + 1
		}
	}
	base := ctl.id()[len("Microsoft:")+len(vm.id)+1:] + fmt.Sprintf(`\%d`, at)
	address := host.Props{"Parent": vm.ref(ctl), "AddressOnParent": strconv.Itoa(at)}
	if d.PassThrough {
		address["HostResource"] = []any{fmt.Sprintf(`\\%s\%s:Msvm_DiskDrive.CreationClassName="Msvm_DiskDrive",DeviceID="Microsoft:%s\\%d"`, vm.h.opts.Name, host.Namespace, newGUID(), at)}
		k := vm.resource(physicalDrive, base+`\D`, address)
		vm.names[d.ID] = k.id()
		return nil
	}
	drive := vm.resource(diskDrive, base+`\D`, address)
	file := d.Path
	if file == "" {
		file = folder + `\Virtual Hard Disks\` + path.Base(d.ID) + map[bool]string{false: ".vhdx", true: ".vhd"}[d.VHD]
	}
	if err := vm.h.s.mkdir(vm.h.opts.Name, windowsDir(file)); err != nil {
		return err
	}
	if !d.Existing {
		sector := uint32(512)
		if d.Sector4K {
			sector = 4096
		}
		if _, err := vm.h.s.create(vm.h.opts.Name, file, imageSpec{size: d.Size, sector: sector, vhd: d.VHD, fixed: d.Fixed, id: d.VirtualDiskID}, nil); err != nil {
			return err
		}
	}
	k := vm.resource(hardDisk, base+`\L`, host.Props{"Parent": vm.ref(drive), "HostResource": []any{file}, "PersistentReservationsSupported": d.Shared})
	vm.names[d.ID] = k.id()
	return nil
}

func windowsDir(p string) string { return p[:strings.LastIndexByte(p, '\\')] }

func (vm *VM) name() string { return vm.settings.String("ElementName") }

// ID returns the machine's GUID, in upper case.
func (vm *VM) ID() string { return vm.id }

// Name returns what the machine is called.
func (vm *VM) Name() string {
	vm.h.s.mu.RLock()
	defer vm.h.s.mu.RUnlock()
	return vm.name()
}

func (vm *VM) running() bool { return vm.state == stateOn || vm.state == statePaused }

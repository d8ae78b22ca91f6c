package hypervtest

import (
	"fmt"
	"io"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// Guest is what runs in a machine. The zero value answers everything: it shuts
// down when it is asked to, and its snapshots are consistent.
type Guest struct {
	Shutdown Shutdown
	VSS      VSS
	Hung     bool // answers neither heartbeat nor facts nor shutdown; it writes on
	// Facts are intrinsic KVP items: OSName, OSVersion,
	// FullyQualifiedDomainName, IntegrationServicesVersion, ... The items
	// with addresses are made of Addresses.
	Facts map[string]string
	// Exchange are items that programs in the guest put there.
	Exchange map[string]string
	// Addresses of each card, in order: "10.0.0.4/24" or "fd00::4/64".
	Addresses [][]string
	// Gateways and DNS are those of each card.
	Gateways, DNS [][]string
	DHCP          []bool
	// OnStart runs after the machine has come up, OnFreeze when a consistent
	// snapshot has stilled the guest, before the disks are frozen. OnFreeze
	// must not use the host, but may use the writer that it is given.
	OnStart  func(*VM)
	OnFreeze func(write func(disk string, p []byte, off int64) error)
	// OnNetwork is told what SetGuestNetworkAdapterConfiguration asked for,
	// after the card's number.
	OnNetwork func(card int, p host.Props)
}

// Shutdown is how a guest takes being asked to shut down.
type Shutdown uint8

// Ways to take it.
const (
	ShutdownWorks  Shutdown = iota
	ShutdownHangs           // it says yes and stays
	ShutdownFails           // it says no
	ShutdownLocked          // somebody works at its locked console: 32781 unless forced
)

// VSS is how a guest takes being asked for a consistent snapshot.
type VSS uint8

// Ways to take it.
const (
	VSSWorks VSS = iota
	VSSFails     // a writer fails
	VSSNone      // nothing there that could be asked
)

// SetGuest changes what runs in the machine.
func (vm *VM) SetGuest(change func(*Guest)) {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	change(&vm.guest)
}

// Write writes as the guest of a running machine does, and returns when the
// bytes are on the disk. disk is a DiskSpec.ID, a VirtualDiskId, the path of the
// disk's present file or of the file below all checkpoints, or the InstanceID of
// its setting data.
func (vm *VM) Write(disk string, p []byte, off int64) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	if vm.state != stateOn {
		return fmt.Errorf("hypervtest: %s is not running", vm.name())
	}
	return vm.writeDisk(disk, p, off)
}

func (vm *VM) writeDisk(disk string, p []byte, off int64) error {
	f, err := vm.diskFile(disk)
	if err != nil {
		return err
	}
	_, err = vm.h.s.write(f, p, off)
	return err
}

// Read fills p with what the machine sees on a disk, running or not.
func (vm *VM) Read(disk string, p []byte, off int64) error {
	vm.h.s.mu.Lock()
	defer vm.h.s.mu.Unlock()
	f, err := vm.diskFile(disk)
	if err != nil {
		return err
	}
	n, err := f.image.ReadAt(p, off)
	if n < len(p) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// diskFile finds a disk's present file.
func (vm *VM) diskFile(disk string) (*file, error) {
	k, err := vm.diskSetting(disk)
	if err != nil {
		return nil, err
	}
	return vm.h.s.find(vm.h.opts.Name, k.file())
}

func (vm *VM) diskSetting(disk string) (*component, error) {
	for _, k := range vm.storageDisks() {
		if k.id() == disk || k.id() == vm.names[disk] || strings.EqualFold(k.file(), disk) {
			return k, nil
		}
		f, err := vm.h.s.find(vm.h.opts.Name, k.file())
		if err != nil {
			continue
		}
		chain := f.chain()
		if strings.EqualFold(strings.Trim(disk, "{}"), f.image.ID()) || strings.EqualFold(chain[len(chain)-1].path, disk) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("hypervtest: %s has no disk %q", vm.name(), disk)
}

// answers tells whether integration components of that class are there and
// the guest behind them answers.
func (vm *VM) answers(class string) bool {
	return vm.state == stateOn && !vm.guest.Hung && vm.integrated(class)
}

func (vm *VM) integrated(class string) bool {
	for _, k := range vm.comps {
		if k.class.name == class {
			n, _ := k.props.Int("EnabledState")
			return n != 3
		}
	}
	return false
}

// Sources of KVP items.
const kvpHostOnly = 4

type kvpItem struct{ name, data string }

func kvpText(name, data string, source int) string {
	c := classOf("Msvm_KvpExchangeDataItem")
	return c.text(host.Props{"Name": name, "Data": data, "Source": int64(source)})
}

// devices are the machine's integration components.
func (vm *VM) devices() []host.Object {
	h := vm.h
	p := func(class string) host.Props {
		return host.Props{"CreationClassName": class, "DeviceID": "Microsoft:" + vm.id + `\` + class, "SystemCreationClassName": "Msvm_ComputerSystem",
			"SystemName": vm.id, "ElementName": class, "EnabledState": 2, "OperationalStatus": []any{int64(2)}, "HealthState": 5}
	}
	var out []host.Object
	if !vm.running() {
		return nil
	}
	if vm.integrated("Msvm_ShutdownComponentSettingData") {
		out = append(out, h.object("Msvm_ShutdownComponent", p("Msvm_ShutdownComponent")))
	}
	if vm.integrated("Msvm_HeartbeatComponentSettingData") {
		q := p("Msvm_HeartbeatComponent")
		switch {
		case vm.state == statePaused:
			q["OperationalStatus"] = []any{int64(15)}
		case vm.guest.Hung:
			q["OperationalStatus"] = []any{int64(13)} // lost communication
		}
		out = append(out, h.object("Msvm_HeartbeatComponent", q))
	}
	if vm.integrated("Msvm_KvpExchangeComponentSettingData") {
		q := p("Msvm_KvpExchangeComponent")
		intrinsic, exchange := []any{}, []any{}
		if vm.answers("Msvm_KvpExchangeComponentSettingData") {
			for _, k := range sortedKeys(vm.guest.Facts) {
				intrinsic = append(intrinsic, kvpText(k, vm.guest.Facts[k], 2))
			}
			for _, k := range sortedKeys(vm.guest.Exchange) {
				exchange = append(exchange, kvpText(k, vm.guest.Exchange[k], 1))
			}
			var v4, v6 []string
			for _, card := range vm.guest.Addresses {
				for _, a := range card {
					ip, _, _ := strings.Cut(a, "/")
					if strings.Contains(ip, ":") {
						v6 = append(v6, ip)
					} else {
						v4 = append(v4, ip)
					}
				}
			}
			if v4 != nil {
				intrinsic = append(intrinsic, kvpText("NetworkAddressIPv4", strings.Join(v4, ";"), 2))
			}
			if v6 != nil {
				intrinsic = append(intrinsic, kvpText("NetworkAddressIPv6", strings.Join(v6, ";"), 2))
			}
		}
		q["GuestIntrinsicExchangeItems"], q["GuestExchangeItems"] = intrinsic, exchange
		out = append(out, h.object("Msvm_KvpExchangeComponent", q))
	}
	return out
}

// guestNetworks are the addresses of the machine's cards.
func (vm *VM) guestNetworks() []host.Object {
	var out []host.Object
	for _, k := range vm.cards() {
		out = append(out, vm.guestNetworksOf(k)...)
	}
	return out
}

func (vm *VM) guestNetworksOf(port *component) []host.Object {
	card := -1
	for i, k := range vm.cards() {
		if k == port {
			card = i
		}
	}
	if card < 0 {
		return nil
	}
	p := host.Props{"InstanceID": `Microsoft:GuestNetwork\` + strings.TrimPrefix(port.id(), "Microsoft:"),
		"IPAddresses": []any{}, "Subnets": []any{}, "DefaultGateways": []any{}, "DNSServers": []any{}, "DHCPEnabled": true, "ProtocolIFType": 4096}
	if vm.answers("Msvm_KvpExchangeComponentSettingData") {
		ips, nets := []any{}, []any{}
		for _, a := range at(vm.guest.Addresses, card) {
			ip, mask := splitAddress(a)
			ips, nets = append(ips, ip), append(nets, mask)
		}
		p["IPAddresses"], p["Subnets"] = ips, nets
		p["DefaultGateways"], p["DNSServers"] = list(at(vm.guest.Gateways, card)), list(at(vm.guest.DNS, card))
		if card < len(vm.guest.DHCP) {
			p["DHCPEnabled"] = vm.guest.DHCP[card]
		}
	}
	return []host.Object{vm.h.object("Msvm_GuestNetworkAdapterConfiguration", p)}
}

// setNetwork is what the guest makes of a configuration that it is given.
func (g *Guest) setNetwork(card int, p host.Props) {
	for len(g.Addresses) <= card {
		g.Addresses = append(g.Addresses, nil)
	}
	for len(g.Gateways) <= card {
		g.Gateways = append(g.Gateways, nil)
	}
	for len(g.DNS) <= card {
		g.DNS = append(g.DNS, nil)
	}
	for len(g.DHCP) <= card {
		g.DHCP = append(g.DHCP, true)
	}
	g.DHCP[card] = p.Bool("DHCPEnabled")
	g.Gateways[card], g.DNS[card] = p.Strings("DefaultGateways"), p.Strings("DNSServers")
	g.Addresses[card] = nil
	if g.DHCP[card] {
		return
	}
	subnets := p.Strings("Subnets")
	for i, ip := range p.Strings("IPAddresses") {
		g.Addresses[card] = append(g.Addresses[card], joinAddress(ip, subnets[i]))
	}
}

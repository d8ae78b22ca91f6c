package hyperv

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Machine implements backend.Source.
func (v *HyperV) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	m, err := v.find(ctx, id)
	if err == nil {
		err = m.whole()
	}
	var d dr.Machine
	if err == nil {
		d, err = m.describe(ctx, m.settings, m.disks)
	}
	return d, fail("look up machine", id, "", -1, err)
}

// describe tells of a machine as some settings have it: its own, or those of a
// checkpoint.
func (m *machine) describe(ctx context.Context, settings host.Object, disks []vdisk) (dr.Machine, error) {
	c, err := m.node.config(ctx, settings, disks)
	if err != nil {
		return dr.Machine{}, err
	}
	d := dr.Machine{ID: m.id, Name: m.name(), Power: m.power(), CPUs: c.CPUs, Memory: c.MemoryMB << 20, SecureBoot: c.SecureBoot, Firmware: dr.BIOS}
	if c.Generation == 2 {
		d.Firmware = dr.UEFI
	}
	for i, x := range disks {
		d.Disks = append(d.Disks, dr.Disk{ID: x.id, Name: baseName(x.path), Size: x.info.Size, Boot: i == 0})
	}
	guest, err := m.guest(ctx)
	if err != nil {
		return dr.Machine{}, err
	}
	d.OS = guest.os()
	switches, err := m.node.switches(ctx)
	if err != nil {
		return dr.Machine{}, err
	}
	addresses, err := m.addresses(ctx)
	if err != nil {
		return dr.Machine{}, err
	}
	for _, card := range c.Cards {
		n := dr.NIC{ID: card.ID, MAC: colons(card.MAC), Network: nameOf(switches, card.Switch)}
		if a, ok := addresses[strings.ToLower(card.ID)]; ok {
			n.Addresses, n.DHCP = a.Addresses, a.DHCP
		}
		d.NICs = append(d.NICs, n)
	}
	for i := range c.Cards { // networks' names are for people
		c.Cards[i].Network = d.NICs[i].Network
	}
	d.Config, err = json.Marshal(c)
	return d, err
}

// guest is what a machine's guest says of itself, by the data exchange service.
type guest map[string]string

// guest asks; without an answer nothing is known.
func (m *machine) guest(ctx context.Context) (guest, error) {
	all, err := m.node.conn.Query(ctx, "SELECT * FROM Msvm_KvpExchangeComponent WHERE SystemName='"+strings.ToUpper(string(m.id))+"'")
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return items(all[0].Props.Strings("GuestIntrinsicExchangeItems")), nil
}

// os is "windows", "linux", or "" if the guest didn't say.
func (g guest) os() string {
	name := strings.ToLower(g["OSName"])
	switch {
	case name == "" && g["OSPlatformId"] == "":
		return ""
	case strings.Contains(name, "windows"), g["OSPlatformId"] == "2":
		return "windows"
	}
	return "linux" // the only others that have the service, but FreeBSD
}

// addressing is what a guest's card has.
type addressing struct {
	Addresses []string
	DHCP      bool
}

// addresses tells what guests' cards have, by the GUID of the port in lower case.
func (m *machine) addresses(ctx context.Context) (map[string]addressing, error) {
	all, err := m.node.conn.Query(ctx, `SELECT * FROM Msvm_GuestNetworkAdapterConfiguration WHERE InstanceID LIKE 'Microsoft:GuestNetwork\\`+strings.ToUpper(string(m.id))+`%'`)
	if err != nil {
		return nil, err
	}
	out := map[string]addressing{}
	for _, o := range all {
		var a addressing
		a.DHCP = o.Props.Bool("DHCPEnabled")
		masks := o.Props.Strings("Subnets")
		for i, s := range o.Props.Strings("IPAddresses") {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			if i < len(masks) {
				if n, ok := prefixLength(masks[i]); ok {
					a.Addresses = append(a.Addresses, fmt.Sprintf("%s/%d", ip, n))
					continue
				}
			}
			a.Addresses = append(a.Addresses, ip.String())
		}
		out[strings.ToLower(lastPart(o.Props.String("InstanceID")))] = a
	}
	return out, nil
}

// prefixLength reads what the guest writes as a subnet: a mask, or a length.
func prefixLength(s string) (int, bool) {
	s = strings.TrimPrefix(s, "/")
	if n, err := strconv.Atoi(s); err == nil {
		return n, n >= 0 && n <= 128
	}
	mask, err := netip.ParseAddr(s)
	if err != nil {
		return 0, false
	}
	n, ended := 0, false
	for _, b := range mask.AsSlice() {
		for i := 7; i >= 0; i-- {
			switch set := b>>i&1 == 1; {
			case set && ended:
				return 0, false
			case set:
				n++
			default:
				ended = true
			}
		}
	}
	return n, true
}

// baseName is the last part of a host's path.
func baseName(path string) string { return path[strings.LastIndexByte(path, '\\')+1:] }

// folderOf is a host's path without its last part.
func folderOf(path string) string { return path[:max(0, strings.LastIndexByte(path, '\\'))] }

// lastPart is what stands behind the last backslash of an InstanceID.
func lastPart(id string) string { return id[strings.LastIndexByte(id, '\\')+1:] }

// colons writes a hardware address as everybody but Hyper-V does.
func colons(mac string) string {
	if len(mac) != 12 {
		return strings.ToLower(mac)
	}
	var parts []string
	for i := 0; i < 12; i += 2 {
		parts = append(parts, mac[i:i+2])
	}
	return strings.ToLower(strings.Join(parts, ":"))
}

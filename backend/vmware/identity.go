package vmware

import (
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// ids are UUIDs and MAC addresses, in lower case.
type ids map[string]bool

// identity lists what a machine would keep of its original's, if it is free.
func identity(p backend.Placement, o PlaceOptions, s *saved) ids {
	all := ids{}
	if p.Isolated {
		return all // a drill's machine could meet its original
	}
	if o.KeepUUID == nil || *o.KeepUUID {
		if s != nil && instanceUUID.MatchString(strings.ToLower(s.UUID)) {
			all[strings.ToLower(s.UUID)] = true
		}
		for _, d := range p.Machine.Disks {
			if diskUUID.MatchString(string(d.ID)) {
				all[string(d.ID)] = true
			}
		}
	}
	for _, n := range p.Machine.NICs {
		if mac := unicastMAC(n.MAC); mac != "" && keepsMAC(p.Cards[n.ID], o) {
			all[mac] = true
		}
	}
	return all
}

// diskUUID is what vSphere's own UUIDs of disks look like. Guests see others as
// disks of another maker.
var diskUUID = regexp.MustCompile(`^6000c29[0-9a-f](-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// taken tells which of these some machine here has.
func (v *VSphere) taken(ctx context.Context, ask ids) (ids, error) {
	used := ids{}
	if len(ask) == 0 {
		return used, nil
	}
	see := func(s string) {
		if s = strings.ToLower(s); ask[s] {
			used[s] = true
		}
	}
	for page, err := range v.below(ctx, pageSize, types.PropertySpec{Type: "VirtualMachine", PathSet: []string{"config.uuid", "config.hardware.device"}}) {
		if err != nil {
			return nil, err
		}
		for _, o := range page {
			var vm mo.VirtualMachine
			if vm, err = loadMachine(o); err != nil {
				return nil, err
			}
			if vm.Config == nil {
				continue
			}
			see(vm.Config.Uuid)
			for _, c := range cardsOf(vm.Config.Hardware.Device) {
				see(c.GetVirtualEthernetCard().MacAddress)
			}
			for _, d := range disksOf(vm.Config.Hardware.Device, nil) {
				see(d.uuid)
			}
		}
	}
	return used, nil
}

// unicastMAC is an address as vSphere writes it, or "" if a card can't have it.
func unicastMAC(s string) string {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return ""
	}
	return mac.String()
}

// namespace makes our UUIDs others than those that anybody else derives.
var namespace = [16]byte{0x3e, 0x8b, 0x0d, 0x52, 0x64, 0x1f, 0x4c, 0x0a, 0x9d, 0x27, 0x5a, 0xe1, 0x70, 0xb6, 0x2c, 0x93}

// machineFor is the instance UUID (RFC 9562, version 5) of the machine that is
// made for a placement's key: who asks again, after an answer was lost, finds
// the machine by it.
func machineFor(key string) dr.MachineID {
	h := derive("machine", key)
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	return dr.MachineID(formatUUID(h))
}

// diskFor is the UUID of the disk that stands for another in that machine. It
// begins as those that VMware gives out, as guests know its disks by that.
func diskFor(key string, disk dr.DiskID) string {
	h := derive("disk", key, string(disk))
	h[0], h[1], h[2], h[3] = 0x60, 0x00, 0xc2, h[3]&0x0f|0x90
	return formatUUID(h)
}

func derive(parts ...string) [16]byte {
	sum := sha1.New()
	sum.Write(namespace[:])
	for _, p := range parts {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	return [16]byte(sum.Sum(nil)[:16])
}

func formatUUID(h [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:])
}

// maxName is the length of a machine's name, in bytes.
const maxName = 80

var strange = regexp.MustCompile(`[^\p{L}\p{N} ._-]+`)

// nameOf is the name of the machine that p asks for. A derived one is the same
// whenever it is asked for, so that a folder can't hold two of them.
func nameOf(p backend.Placement) (string, error) {
	if p.Name != "" {
		if len(p.Name) > maxName || !utf8.ValidString(p.Name) {
			return "", &explained{fmt.Errorf("%w: the name %q has %d bytes", dr.ErrInvalid, p.Name, len(p.Name)), "give it one of at most 80 bytes"}
		}
		return p.Name, nil
	}
	sum := sha256.Sum256([]byte(p.Key))
	end := "-replica-" + hex.EncodeToString(sum[:4])
	if p.Isolated {
		end = "-drill-" + hex.EncodeToString(sum[:4])
	}
	base := strings.Trim(strange.ReplaceAllString(strings.ToValidUTF8(cmp.Or(p.Machine.Name, string(p.Machine.ID)), ""), "-"), " .-")
	if base == "" {
		base = "machine"
	}
	for len(base)+len(end) > maxName {
		_, n := utf8.DecodeLastRuneInString(base)
		base = base[:len(base)-n]
	}
	return base + end, nil
}

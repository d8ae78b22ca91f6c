package qemu

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Config describes a machine. The zero value of all but Dir is usable: a
// machine without disks or network.
type Config struct {
	// Dir is the machine's folder, which must exist: its sockets, its firmware's
	// variables and its screen land there. Nobody else may write to it.
	Dir string
	// Program is QEMU; "": qemu-system-x86_64.
	Program string
	// Type is QEMU's machine type, "pc" or "q35"; "": q35.
	Type string
	// Firmware is dr.BIOS (SeaBIOS) or dr.UEFI (OVMF); "": dr.BIOS.
	Firmware dr.Firmware
	// OVMFCode and OVMFVars are the firmware and the empty variables that a
	// machine gets a copy of; "": where Debian's package ovmf puts them. A
	// folder that has variables already keeps them.
	OVMFCode, OVMFVars string
	// Memory in bytes; 0: 1 GiB. CPUs; 0: 1.
	Memory int64
	CPUs   int
	Disks  []Disk
	NICs   []NIC
	// KVM tries hardware acceleration first. Without it, or where it isn't to
	// be had, instructions are emulated.
	KVM bool
	// Kernel, with Initrd and Append, is booted without a boot loader; "": the
	// disks are.
	Kernel, Initrd, Append string

	// Outlive lets QEMU run on when this process ends; [Attach] finds it again.
	// Otherwise the kernel kills it with this process, however that ends
	// (Linux), and Close does.
	Outlive bool
	// User is whom QEMU runs as if this process is root; nil: 65534, nobody.
	// Everything that runs as that user could disturb the machine.
	User *User
	// Resets is how many times a guest may reset before it is called a loop;
	// 0: 3; negative: as often as it likes.
	Resets int
	// Log gets the command line and QEMU's complaints; nil is silent.
	Log *slog.Logger
}

// User is a user and group by number.
type User struct{ UID, GID uint32 }

// Disk is one disk, in the order of booting.
type Disk struct {
	// Path is a raw image or a block device. Or Socket is the name of a Unix
	// socket in the machine's folder where NBD is served, and Export the
	// export's name there.
	Path, Socket, Export string
	// Bus is what it is attached to: "virtio", "ahci" or "nvme"; "": virtio.
	Bus string
	// Serial is what the guest reads as its serial number; QEMU keeps 20 bytes.
	Serial   string
	ReadOnly bool
}

// NIC is one network card.
type NIC struct {
	MAC   string // "": QEMU's choice
	Model string // QEMU's device; "": virtio-net-pci
	// Netdev is QEMU's backend without id, such as "tap,ifname=tap0,script=no":
	// the machine reaches what that reaches. "" is the isolated user network:
	// the guest has 10.0.2.15/24 by DHCP, and reaches nothing.
	Netdev string
	// Guest is the IPv4 address that the guest has by itself, with its network,
	// between /8 and /28: the isolated network is one in which it is reached
	// there. Zero: 10.0.2.15/24.
	Guest netip.Prefix
	// Forward are TCP ports of the guest that this host reaches on 127.0.0.1, at
	// ports that [Machine.Port] tells. For the isolated network only.
	Forward []int
	// Hello is a TCP port at which the guest may call in, at 10.0.2.100, or where
	// Guest is of another network at the last address of that, or the last but one
	// if that is the guest's: see [Hello]. 0: none. For the isolated network only;
	// one card can have it.
	Hello int
	// Unconnected cards are there, without a cable.
	Unconnected bool
}

// The defaults of Debian's package ovmf.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

const (
	defaultMemory = 1 << 30
	defaultResets = 3
	nobody        = 65534
)

func (c Config) withDefaults() (Config, error) {
	bad := func(format string, args ...any) (Config, error) {
		return c, fmt.Errorf("%w: machine in QEMU: %s", dr.ErrInvalid, fmt.Sprintf(format, args...))
	}
	c.Program = cmp.Or(c.Program, "qemu-system-x86_64")
	c.Type = cmp.Or(c.Type, "q35")
	c.Firmware = cmp.Or(c.Firmware, dr.BIOS)
	c.OVMFCode, c.OVMFVars = cmp.Or(c.OVMFCode, ovmfCode), cmp.Or(c.OVMFVars, ovmfVars)
	c.Memory, c.CPUs = cmp.Or(c.Memory, defaultMemory), cmp.Or(c.CPUs, 1)
	c.Resets = cmp.Or(c.Resets, defaultResets)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Dir == "":
		return bad("no folder")
	case c.Type != "pc" && c.Type != "q35":
		return bad("type %q; there are pc and q35", c.Type)
	case c.Firmware != dr.BIOS && c.Firmware != dr.UEFI:
		return bad("firmware %q; there are %s and %s", c.Firmware, dr.BIOS, dr.UEFI)
	case c.Memory < 16<<20 || c.CPUs < 1:
		return bad("%d bytes of memory and %d processors", c.Memory, c.CPUs)
	}
	c.Disks = append([]Disk(nil), c.Disks...)
	for i := range c.Disks {
		d := &c.Disks[i]
		d.Bus = cmp.Or(d.Bus, "virtio")
		if (d.Path == "") == (d.Socket == "") {
			return bad("disk %d: want a path or a socket", i)
		}
		if d.Bus != "virtio" && d.Bus != "ahci" && d.Bus != "nvme" {
			return bad("disk %d: bus %q; there are virtio, ahci and nvme", i, d.Bus)
		}
	}
	c.NICs = append([]NIC(nil), c.NICs...)
	for i := range c.NICs {
		n := &c.NICs[i]
		n.Model = cmp.Or(n.Model, "virtio-net-pci")
		if (n.Netdev != "" || n.Unconnected) && (len(n.Forward) > 0 || n.Hello != 0) {
			return bad("card %d: ports are forwarded in the isolated network only", i)
		}
		if n.Guest.IsValid() && (!n.Guest.Addr().Is4() || n.Guest.Bits() < 8 || n.Guest.Bits() > 28) {
			return bad("card %d: address %s; want an IPv4 address in a network between /8 and /28", i, n.Guest)
		}
		for _, p := range append([]int{max(1, n.Hello)}, n.Forward...) {
			if p < 1 || p > 65535 {
				return bad("card %d: port %d", i, p)
			}
		}
	}
	return c, nil
}

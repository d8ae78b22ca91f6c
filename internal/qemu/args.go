package qemu

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// The files of a machine's folder, as QEMU, which runs in it, calls them.
const (
	qmpSocket    = "qmp"
	serialSocket = "serial"
	biosSocket   = "firmware"
	helloSocket  = "hello"
	varsFile     = "vars.fd"
	screenFile   = "screen.ppm"
	logFile      = "qemu.log"
)

// args is the command line. files are what disks' paths are replaced by, where
// they were opened for QEMU; none for those that it opens by itself.
func (c Config) args(files map[int]string) []string {
	accel := []string{"-accel", "tcg"}
	if c.KVM {
		accel = []string{"-accel", "kvm", "-accel", "tcg"}
	}
	kind := c.Type
	if c.Firmware == dr.UEFI {
		kind += ",pflash0=code,pflash1=vars"
	}
	a := append(accel,
		"-machine", kind, "-name", "lifeboat", "-nodefaults", "-no-user-config", "-display", "none",
		"-m", strconv.FormatInt((c.Memory+(1<<20)-1)>>20, 10), "-smp", strconv.Itoa(c.CPUs),
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-S", "-boot", "strict=on", "-action", "panic=none",
		"-device", "VGA", "-device", "pvpanic", "-device", "virtio-rng-pci",
		"-chardev", "socket,id=qmp,server=on,wait=off,path="+qmpSocket, "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=serial,server=on,wait=off,path="+serialSocket, "-serial", "chardev:serial",
	)
	if c.Firmware == dr.UEFI {
		a = append(a,
			"-blockdev", object{"driver": "raw", "node-name": "code", "read-only": true, "file": object{"driver": "file", "filename": c.OVMFCode}}.String(),
			"-blockdev", object{"driver": "raw", "node-name": "vars", "file": object{"driver": "file", "filename": varsFile}}.String(),
		)
	} else {
		// SeaBIOS tells its debug port what it shows on the screen.
		a = append(a,
			"-chardev", "socket,id=bios,server=on,wait=off,path="+biosSocket,
			"-device", "isa-debugcon,iobase=0x402,chardev=bios",
		)
	}
	if c.Kernel != "" {
		a = append(a, "-kernel", c.Kernel, "-append", c.Append)
		if c.Initrd != "" {
			a = append(a, "-initrd", c.Initrd)
		}
	}
	for i, d := range c.Disks {
		a = append(a, d.args(i, c.Type, files[i])...)
	}
	for i, n := range c.NICs {
		a = append(a, n.args(i)...)
	}
	return a
}

// object is an option's JSON form, in which nothing needs quoting.
type object map[string]any

func (o object) String() string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings, numbers and truths
	}
	return string(b)
}

func (d Disk) args(i int, kind, file string) []string {
	node := fmt.Sprintf("disk%d", i)
	below := object{"driver": "nbd", "server": object{"type": "unix", "path": d.Socket}, "export": d.Export}
	if d.Path != "" {
		if file == "" {
			file = d.Path
		}
		driver := "file"
		if isDevice(d.Path) {
			driver = "host_device"
		}
		below = object{"driver": driver, "filename": file, "locking": "auto"}
	}
	// A guest's discards reach an overlay as zeros, which take no room there.
	below["discard"], below["read-only"] = "unmap", d.ReadOnly
	dev := object{"drive": node, "id": "dev-" + node, "bootindex": i}
	if len(d.Serial) > 0 {
		dev["serial"] = d.Serial[:min(20, len(d.Serial))]
	}
	var more []string
	switch d.Bus {
	case "ahci":
		dev["driver"] = "ide-hd"
		if kind == "q35" && i < 6 {
			dev["bus"] = fmt.Sprintf("ide.%d", i)
		} else {
			more = []string{"-device", fmt.Sprintf("ahci,id=ahci%d", i)}
			dev["bus"] = fmt.Sprintf("ahci%d.0", i)
		}
	case "nvme":
		dev["driver"] = "nvme"
		if d.Serial == "" {
			dev["serial"] = node // it has to have one
		}
	default:
		dev["driver"] = "virtio-blk-pci"
	}
	return append(append([]string{"-blockdev", object{"driver": "raw", "node-name": node, "read-only": d.ReadOnly, "file": below}.String()},
		more...), "-device", dev.String())
}

func (n NIC) args(i int) []string {
	id := fmt.Sprintf("net%d", i)
	dev := object{"driver": n.Model, "id": "dev-" + id, "romfile": ""} // no booting from networks
	if n.MAC != "" {
		dev["mac"] = n.MAC
	}
	if n.Unconnected {
		return []string{"-device", dev.String()}
	}
	dev["netdev"] = id
	var a []string
	backend := n.Netdev
	if backend == "" {
		net := n.network()
		backend = fmt.Sprintf("user,restrict=on,ipv6=off,net=%s,host=%s,dns=%s,dhcpstart=%s", net.prefix, net.host, net.dns, net.guest)
		for _, p := range n.Forward {
			backend += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:0-%s:%d", net.guest, p)
		}
		if n.Hello != 0 {
			backend += fmt.Sprintf(",guestfwd=tcp:%s:%d-chardev:%s", net.hello, n.Hello, id+"-hello")
			a = append(a, "-chardev", "socket,id="+id+"-hello,server=on,wait=off,path="+helloSocket)
		}
	}
	return append(a, "-netdev", backend+",id="+id, "-device", dev.String())
}

// network is an isolated network around a guest's address.
type network struct {
	prefix                  netip.Prefix
	guest, host, dns, hello netip.Addr
}

// network finds room for QEMU's own addresses beside the guest's.
func (n NIC) network() network {
	a := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 2, last}) }
	usual := network{netip.PrefixFrom(a(0), 24), a(15), a(2), a(3), a(100)}
	if !n.Guest.IsValid() {
		return usual
	}
	if g := n.Guest.Addr(); n.Guest.Masked() == usual.prefix && g != usual.host && g != usual.dns && g != usual.hello {
		usual.guest = g
		return usual
	}
	net := network{prefix: n.Guest.Masked(), guest: n.Guest.Addr()}
	at := net.prefix.Addr()
	next := func() netip.Addr {
		if at = at.Next(); at == net.guest {
			at = at.Next()
		}
		return at
	}
	net.host, net.dns = next(), next()
	b := net.prefix.Addr().As4()
	last := binary.BigEndian.Uint32(b[:]) | (1<<(32-net.prefix.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], last-1) // the last one is for broadcasts
	if net.hello = netip.AddrFrom4(b); net.hello == net.guest {
		net.hello = net.hello.Prev()
	}
	return net
}

// Static is the address that a card's guest has by itself, if it can have it in an
// isolated network; else none.
func Static(n dr.NIC) netip.Prefix {
	if n.DHCP {
		return netip.Prefix{}
	}
	for _, s := range n.Addresses {
		p, err := netip.ParsePrefix(s)
		if err == nil && p.Addr().Is4() && p.Bits() >= 8 && p.Bits() <= 28 {
			return p
		}
	}
	return netip.Prefix{}
}

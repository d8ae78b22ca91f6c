package bootproof

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/qemu"
)

// DefaultLimit is how long a proof may take if Options.Limit is 0: long enough
// for a server's boot under emulation.
const DefaultLimit = 10 * time.Minute

// mostMemory is what a machine gets at most if nobody says more.
const mostMemory = 2 << 30

// Options say how a point is booted. The zero value boots it as its machine was,
// and waits for nothing.
type Options struct {
	// Evidence is what a machine must show to have booted, all of it.
	Evidence []Evidence
	// Limit bounds a proof, from its beginning; 0: DefaultLimit.
	Limit time.Duration
	// Folder is where machines have their folders, and overlays, that take as
	// much room as guests write; "": the system's for temporary files.
	Folder string

	// Firmware, Memory (bytes) and CPUs are those of the point's machine if
	// they are not given: BIOS where it isn't known, 1 GiB, or at most 2 GiB,
	// one processor, or at most two.
	Firmware dr.Firmware
	Memory   int64
	CPUs     int
	// Type is QEMU's machine type; "": q35.
	Type string
	// Bus is what disks are attached to: "virtio", "ahci" or "nvme"; "": virtio.
	Bus string
	// NICModel is QEMU's name of a card; "": virtio-net-pci.
	NICModel string
	// NoNetwork leaves all cards without a cable, and forwards no port.
	NoNetwork bool
	// KVM tries hardware acceleration first.
	KVM bool
	// Program is QEMU; "": qemu-system-x86_64. OVMFCode and OVMFVars are the
	// firmware for UEFI; "": where Debian's package ovmf puts them.
	Program            string
	OVMFCode, OVMFVars string
	// User is whom QEMU runs as if this process is root; nil: 65534, nobody.
	User *User
	// Resets is how many resets are no loop; 0: 3. Guests that install updates
	// at a boot want more.
	Resets int

	// Report gets each proof's report, also of those that failed; may be nil.
	Report func(Report)
	// Log gets what QEMU and the disks' server have to say; nil is silent.
	Log *slog.Logger
}

// User is a user and group by number.
type User = qemu.User

// config is the machine of a point.
func (o Options) config(p dr.Point, dir, socket string) qemu.Config {
	m := p.Machine
	c := qemu.Config{
		Dir: dir, Program: o.Program, Type: o.Type, OVMFCode: o.OVMFCode, OVMFVars: o.OVMFVars,
		Firmware: cmp.Or(o.Firmware, m.Firmware),
		Memory:   cmp.Or(o.Memory, min(m.Memory, mostMemory)),
		CPUs:     cmp.Or(o.CPUs, min(m.CPUs, 2)),
		KVM:      o.KVM, User: o.User, Resets: o.Resets, Log: o.Log,
	}
	for i, d := range bootOrder(m.Disks) {
		c.Disks = append(c.Disks, qemu.Disk{Socket: socket, Export: exportName(m.Disks, d.ID), Bus: o.Bus, Serial: serial(d, i)})
	}
	var forward []int
	hello := 0
	for _, e := range o.Evidence {
		f, h := e.Ports()
		forward, hello = append(forward, f...), max(hello, h)
	}
	slices.Sort(forward)
	nics := m.NICs
	if len(nics) == 0 && len(forward)+hello > 0 {
		nics = []dr.NIC{{}}
	}
	for i, n := range nics {
		card := qemu.NIC{MAC: n.MAC, Model: o.NICModel, Unconnected: o.NoNetwork}
		if !o.NoNetwork {
			card.Guest = qemu.Static(n)
			if i == 0 {
				card.Forward, card.Hello = slices.Compact(forward), hello
			}
		}
		c.NICs = append(c.NICs, card)
	}
	return c
}

// bootOrder puts disks that the firmware starts from first.
func bootOrder(disks []dr.Disk) []dr.Disk {
	out := slices.Clone(disks)
	slices.SortStableFunc(out, func(a, b dr.Disk) int {
		switch {
		case a.Boot == b.Boot:
			return 0
		case a.Boot:
			return -1
		}
		return 1
	})
	return out
}

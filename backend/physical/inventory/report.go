package inventory

import (
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Report is what a machine is. It holds plain values, and no secrets: serial
// numbers and addresses are in it.
type Report struct {
	At   time.Time    `json:"at"`
	ID   dr.MachineID `json:"id"`             // stays as long as the hardware, or the installation
	Name string       `json:"name,omitempty"` // the host's

	System     System      `json:"system"`
	Firmware   dr.Firmware `json:"firmware,omitempty"`
	SecureBoot bool        `json:"secureBoot,omitempty"`
	CPUs       int         `json:"cpus,omitempty"`
	Memory     int64       `json:"memory,omitempty"` // bytes

	// Disks that could be protected, by name. A multipath device is one.
	Disks []Disk `json:"disks"`
	// Volumes are devices that the kernel builds on disks: of LVM, RAID,
	// encryption.
	Volumes []Volume `json:"volumes,omitempty"`
	// Skipped are block devices that are no disks of the machine.
	Skipped []Skipped `json:"skipped,omitempty"`
	Cards   []Card    `json:"cards,omitempty"`

	// Problems are what keeps disks from being protected or restored, or what
	// one ought to know before. Their codes are listed at [Read].
	Problems []backend.Problem `json:"problems,omitempty"`
}

// System says what hardware and what operating system it is.
type System struct {
	Vendor  string `json:"vendor,omitempty"`
	Product string `json:"product,omitempty"`
	Serial  string `json:"serial,omitempty"`
	UUID    string `json:"uuid,omitempty"`
	CPU     string `json:"cpu,omitempty"` // the processor's model
	// Virtual names the hypervisor below: "kvm", "vmware", "hyper-v", "xen",
	// "amazon", "google", "virtualbox", "firecracker", "unknown"; "" if none
	// is known.
	Virtual string `json:"virtual,omitempty"`
	Release string `json:"release,omitempty"` // "Debian GNU/Linux 12 (bookworm)"
	Kernel  string `json:"kernel,omitempty"`  // its release
}

// Disk is a whole disk.
type Disk struct {
	// ID is its stable name; where Stable is false it may change with the
	// cabling or at the next start.
	ID     dr.DiskID `json:"id"`
	Stable bool      `json:"stable"`
	// Name is the kernel's, such as "sda". Path is by what to open it: a link
	// below /dev/disk if there is one, or a file below /dev.
	Name string `json:"name"`
	Path string `json:"path"`
	Size int64  `json:"size"` // bytes

	Sector         int `json:"sector,omitempty"`         // logical, in bytes
	PhysicalSector int `json:"physicalSector,omitempty"` // in bytes

	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	Bus        string `json:"bus,omitempty"` // "nvme", "sas/sata", "usb", "virtio", "mmc", "multipath", "loop"
	Rotational bool   `json:"rotational,omitempty"`
	Removable  bool   `json:"removable,omitempty"`
	ReadOnly   bool   `json:"readOnly,omitempty"`

	// System: /, /boot or the firmware's partition is on it, or on a volume
	// that it is a part of. Boot: the firmware starts from it; of mirrored
	// disks from each.
	System bool `json:"system,omitempty"`
	Boot   bool `json:"boot,omitempty"`

	// Paths of a multipath disk, by the kernel's names.
	Paths []string `json:"paths,omitempty"`

	Table      string      `json:"table,omitempty"`   // "gpt" or "mbr"
	TableID    string      `json:"tableId,omitempty"` // GPT's GUID, or MBR's signature
	Partitions []Partition `json:"partitions,omitempty"`
	Use                    // of the whole disk
}

// Partition is one that the kernel knows. What only its table tells is empty
// where the table couldn't be read.
type Partition struct {
	Number int    `json:"number"`
	Name   string `json:"name"` // "sda1"
	Off    int64  `json:"off"`  // bytes
	Size   int64  `json:"size"` // bytes
	Type   string `json:"type,omitempty"`
	UUID   string `json:"uuid,omitempty"`
	Label  string `json:"label,omitempty"`
	Use
}

// Volume is a device that is built on others.
type Volume struct {
	Name string `json:"name"`           // the kernel's: "dm-0", "md127"
	Kind string `json:"kind"`           // "lvm", "crypt", "md", "dm", "bcache", ...
	Path string `json:"path,omitempty"` // "/dev/mapper/vg-root"
	Size int64  `json:"size"`           // bytes
	// On are the devices that it is built on, by the kernel's names; Disks
	// those that it lies on, down to the whole ones.
	On    []string    `json:"on,omitempty"`
	Disks []dr.DiskID `json:"disks"`
	Use
}

// Use is what is on a device, and who uses it.
type Use struct {
	Content *Content `json:"content,omitempty"`
	Mounts  []Mount  `json:"mounts,omitempty"`
	Swap    bool     `json:"swap,omitempty"` // is swapped to
	// Holders are the devices built on it, by the kernel's names.
	Holders []string `json:"holders,omitempty"`
}

// Content is what a device's superblock says.
type Content struct {
	Kind   string `json:"kind"` // as blkid's TYPE: "ext4", "LVM2_member"
	Use    string `json:"use"`  // "file system", "swap", "encrypted" or "member"
	Label  string `json:"label,omitempty"`
	UUID   string `json:"uuid,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Mount is where a device is mounted.
type Mount struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // the file system as mounted
	// Subtree of the file system, if not all of it: a subvolume, or what is
	// bound.
	Subtree string `json:"subtree,omitempty"`
	// ReadOnly: nobody can write to the file system, by whatever mount.
	ReadOnly bool `json:"readOnly,omitempty"`
	// PID of a process in whose mount namespace it is; 0: in this one's.
	PID int `json:"pid,omitempty"`
}

// Skipped is a block device that isn't taken for a disk of the machine.
type Skipped struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Card is a network interface: cards of hardware, and what is built on them if
// it carries an address.
type Card struct {
	// ID stays: a name by place or firmware such as "enp3s0", or of the MAC.
	ID     string `json:"id"`
	Name   string `json:"name"`
	MAC    string `json:"mac,omitempty"`
	Driver string `json:"driver,omitempty"`
	// Hardware: it is a card, and not made of others.
	Hardware bool `json:"hardware"`
	// Master is the bond or bridge that it is a part of.
	Master    string   `json:"master,omitempty"`
	Carrier   bool     `json:"carrier"`
	Addresses []string `json:"addresses,omitempty"` // with prefix length; none of the link alone
	Gateways  []string `json:"gateways,omitempty"`
	// DHCP: it gets its address by DHCP, with what says so.
	DHCP backend.Fact `json:"dhcp,omitzero"`
}

package dr

import "encoding/json"

// MachineID names a machine within one backend, for as long as it exists
// there. Names and addresses that can change are not IDs.
type MachineID string

// DiskID names a disk of a machine. A replica's disks keep the IDs of the
// disks that they stand for, whatever the platform calls them: so points of
// both directions speak of the same disks.
type DiskID string

// Machine describes a machine as a backend sees it, or as a point recorded it.
type Machine struct {
	ID    MachineID `json:"id"`
	Name  string    `json:"name,omitempty"` // for people; neither unique nor stable
	Power Power     `json:"power,omitempty"`
	Disks []Disk    `json:"disks"`

	Firmware   Firmware `json:"firmware,omitempty"`
	SecureBoot bool     `json:"secureBoot,omitempty"`
	CPUs       int      `json:"cpus,omitempty"`
	Memory     int64    `json:"memory,omitempty"` // bytes
	OS         string   `json:"os,omitempty"`     // "linux", "windows", or the platform's own word
	NICs       []NIC    `json:"nics,omitempty"`

	// Config is the machine's configuration in the words of the backend that
	// reported it, opaque elsewhere. It lets that backend rebuild the machine
	// at another location. It holds no secrets.
	Config json.RawMessage `json:"config,omitempty"`
}

// Disk looks up a disk by ID.
func (m Machine) Disk(id DiskID) (Disk, bool) {
	for _, d := range m.Disks {
		if d.ID == id {
			return d, true
		}
	}
	return Disk{}, false
}

// Disk is one virtual or physical disk. Size is in bytes, a multiple of the
// disk's sector size (512 at least) but of nothing larger.
type Disk struct {
	ID   DiskID `json:"id"`
	Name string `json:"name,omitempty"`
	Size int64  `json:"size"`
	Boot bool   `json:"boot,omitempty"` // the firmware starts from it
}

// NIC is a network card. Addresses are those configured in the guest, where
// the backend can tell.
type NIC struct {
	ID        string   `json:"id"`
	MAC       string   `json:"mac,omitempty"`
	Network   string   `json:"network,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // with or without prefix length
	DHCP      bool     `json:"dhcp,omitempty"`
}

// Firmware starts a machine. The zero value means unknown.
type Firmware string

// Firmware kinds.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Power is whether a machine runs. The zero value means unknown: never take
// it for off.
type Power string

// Power states.
const (
	On  Power = "on"
	Off Power = "off"
)

package hyperv

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// PlaceOptions is the JSON of a placement's Options for this backend. Fields that
// aren't known are refused.
type PlaceOptions struct {
	// Node is the host where a new machine is made; "" is the first of Options.
	Node string `json:"node,omitempty"`
	// Folder is where its files go, in a folder of their own; "" is
	// Options.Folder.
	Folder string `json:"folder,omitempty"`
	// Generation is 1 (BIOS) or 2 (UEFI) of a new machine; 0: what it was, else
	// what its firmware asks for.
	Generation int `json:"generation,omitempty"`
	// KeepMAC gives cards the hardware address that they had, where it was
	// fixed; default true. A drill's machine never gets it.
	KeepMAC *bool `json:"keepMAC,omitempty"`
	// IsolatedSwitch is where a drill's cards are connected that
	// Placement.Networks doesn't name. Without it they are not connected.
	IsolatedSwitch string `json:"isolatedSwitch,omitempty"`
}

// parseOptions reads a placement's options. It is called for an original too,
// which needs none: a typo must not wait for the day when the original is gone.
func parseOptions(p backend.Placement) (PlaceOptions, error) {
	var o PlaceOptions
	if len(p.Options) == 0 {
		return o, nil
	}
	dec := json.NewDecoder(bytes.NewReader(p.Options))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return o, fmt.Errorf("%w: placement options: %w", dr.ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return o, fmt.Errorf("%w: placement options: there is something behind them", dr.ErrInvalid)
	}
	if o.Generation < 0 || o.Generation > 2 {
		return o, fmt.Errorf("%w: option generation: there are 1 and 2", dr.ErrInvalid)
	}
	return o, nil
}

// checkPlacement refuses what can't be done, before anything is made.
func checkPlacement(p backend.Placement) error {
	if !utf8.ValidString(p.Key) {
		return fmt.Errorf("%w: key %q is not UTF-8", dr.ErrInvalid, p.Key)
	}
	if p.Original == "" && p.Key == "" {
		return fmt.Errorf("%w: placement without a key", dr.ErrInvalid)
	}
	seen := map[dr.DiskID]bool{}
	for _, d := range p.Machine.Disks {
		switch {
		case d.ID == "" || !utf8.ValidString(string(d.ID)) || seen[d.ID]:
			return fmt.Errorf("%w: disk ID %q is empty, not UTF-8, or there twice", dr.ErrInvalid, d.ID)
		case d.Size <= 0 || d.Size%512 != 0:
			return fmt.Errorf("%w: disk %s has %d bytes, which are no whole sectors", dr.ErrInvalid, d.ID, d.Size)
		case d.Size > maxDisk:
			return fmt.Errorf("%w: disk %s has %d bytes, and a VHDX 64 TiB at most", dr.ErrUnsupported, d.ID, d.Size)
		}
		seen[d.ID] = true
	}
	if err := p.CheckCards(); err != nil {
		return err
	}
	for id, c := range p.Cards {
		switch {
		case c.Subnet != "":
			return &explained{fmt.Errorf("%w: card %s: a virtual switch has no subnets", dr.ErrUnsupported, id), "name the switch only"}
		case c.Addressing():
			return &explained{fmt.Errorf("%w: card %s: addresses inside of the guest can't be set before it runs", dr.ErrUnsupported, id), "let DHCP give it its address, or set it in the guest by a step of your own behind the start"}
		}
	}
	return nil
}

// maxDisk is the largest VHDX, [MS-VHDX] 1.3.
const maxDisk = 64 << 40

// connection is what a new machine's card is like.
type connection struct {
	nic dr.NIC
	sw  vswitch // the zero one: not connected
	mac string  // 12 digits; "" is Hyper-V's choice
}

// connections finds the switches of a placement's cards.
func connections(p backend.Placement, o PlaceOptions, switches []vswitch, s saved) ([]connection, error) {
	var out []connection
	for _, nic := range p.Machine.NICs {
		c := connection{nic: nic}
		had := savedCard{StaticMAC: true}
		if i := slices.IndexFunc(s.Cards, func(x savedCard) bool { return x.ID == nic.ID }); i >= 0 {
			had = s.Cards[i]
		}
		switch want, how := wantedNetwork(p, o, nic); how {
		case named:
			sw, err := findSwitch(switches, want)
			if err != nil {
				return nil, fmt.Errorf("card %s: %w", nic.ID, err)
			}
			c.sw = sw
		case asBefore: // the same switch, else the one of that name, else none
			sw, err := findSwitch(switches, cmp.Or(had.Switch, want))
			if err != nil {
				sw, err = findSwitch(switches, want)
			}
			if err == nil {
				c.sw = sw
			}
		}
		keep, static := o.KeepMAC == nil || *o.KeepMAC, had.StaticMAC
		switch p.Cards[nic.ID].MAC {
		case backend.KeepMAC:
			keep, static = true, true
		case backend.NewMAC:
			keep = false
		}
		if mac := strings.ToUpper(strings.NewReplacer(":", "", "-", "").Replace(nic.MAC)); keep && static && !p.Isolated && len(mac) == 12 {
			c.mac = mac
		}
		out = append(out, c)
	}
	return out, nil
}

// How a card is connected.
type how int

const (
	unconnected how = iota
	named
	asBefore
)

// wantedNetwork is the switch that a card asks for.
func wantedNetwork(p backend.Placement, o PlaceOptions, nic dr.NIC) (string, how) {
	c := p.Cards[nic.ID]
	to, mapped := p.Networks[nic.Network]
	switch {
	case c.Unconnected, mapped && to == "" && c.Network == "":
		return "", unconnected
	case c.Network != "":
		return c.Network, named
	case mapped:
		return to, named
	case p.Isolated && o.IsolatedSwitch != "":
		return o.IsolatedSwitch, named
	case p.Isolated || nic.Network == "":
		return "", unconnected
	}
	return nic.Network, asBefore
}

// savedOf reads the configuration that a point recorded, if it is of this kind
// of backend.
func savedOf(m dr.Machine) saved {
	var s saved
	if err := json.Unmarshal(m.Config, &s); err != nil || s.Version != savedVersion {
		return saved{}
	}
	return s
}

// generation of a new machine.
func generation(o PlaceOptions, m dr.Machine, s saved) int {
	switch {
	case o.Generation != 0:
		return o.Generation
	case s.Generation == 1 || s.Generation == 2:
		return s.Generation
	case m.Firmware == dr.UEFI:
		return 2
	}
	return 1
}

// slot is where a disk is attached.
type slot struct {
	controller       string // "IDE" or "SCSI"
	number, location int
}

const (
	maxSCSI      = 4  // controllers of a machine
	maxLocations = 64 // of a SCSI controller
)

// slots finds a place for each disk: the one that it had, else, in a machine of
// generation 1, the first place of the first IDE controller for the boot disk,
// which BIOS starts from, and otherwise the first free one of SCSI.
func slots(disks []dr.Disk, s saved, generation int, taken map[slot]bool) (map[dr.DiskID]slot, error) {
	used := map[slot]bool{}
	for k := range taken {
		used[k] = true
	}
	out := map[dr.DiskID]slot{}
	put := func(id dr.DiskID, at slot) bool {
		if used[at] {
			return false
		}
		used[at], out[id] = true, at
		return true
	}
	for _, d := range disks {
		if d.Boot && generation == 1 && put(d.ID, slot{"IDE", 0, 0}) {
			break
		}
	}
	for _, d := range disks {
		i := slices.IndexFunc(s.Disks, func(x savedDisk) bool { return x.ID == d.ID })
		if _, done := out[d.ID]; done || i < 0 {
			continue
		}
		x := s.Disks[i]
		ide := x.Controller == "IDE" && generation == 1 && x.Number < 2 && x.Location < 2
		if ide || x.Controller == "SCSI" && x.Number < maxSCSI && x.Location < maxLocations && x.Number >= 0 && x.Location >= 0 {
			put(d.ID, slot{x.Controller, x.Number, x.Location})
		}
	}
next:
	for _, d := range disks {
		if _, done := out[d.ID]; done {
			continue
		}
		for n := range maxSCSI * maxLocations {
			if put(d.ID, slot{"SCSI", n / maxLocations, n % maxLocations}) {
				continue next
			}
		}
		return nil, fmt.Errorf("%w: a machine has room for %d disks", dr.ErrUnsupported, maxSCSI*maxLocations)
	}
	return out, nil
}

// short is a name for what a key or an ID stands for.
func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// fileName makes a name of a folder out of one for people.
func fileName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, s)
	return s[:min(len(s), 40)]
}

package azure

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// PlacementOptions are what backend.Placement.Options may hold, as JSON. The
// zero value lets this package choose.
type PlacementOptions struct {
	// Size of the machine: "Standard_D4s_v5". "": the smallest that has the
	// processors and the memory of the machine it stands for.
	Size string `json:"size,omitempty"`
	// Zone, or AvailabilitySet by name or resource ID; not both.
	Zone            string `json:"zone,omitempty"`
	AvailabilitySet string `json:"availabilitySet,omitempty"`
	// DiskType of managed disks: "Standard_LRS", "StandardSSD_LRS" (the
	// default), "Premium_LRS", ... A machine's own disks keep theirs.
	DiskType string `json:"diskType,omitempty"`
	// Security is "TrustedLaunch" or "": it asks for UEFI, and gives the machine
	// a new virtual TPM.
	Security string `json:"security,omitempty"`
	// License is "Windows_Server", "Windows_Client", "RHEL_BYOS" or
	// "SLES_BYOS" where one is brought along.
	License string `json:"license,omitempty"`
	// Network is where cards go that Placement.Networks maps nowhere, in
	// place of Options.Network; of a drill's machine, the virtual network
	// in place of Options.DrillNetwork.
	Network string `json:"network,omitempty"`
	// Addresses are the cards' static addresses by the card's ID, in place
	// of those that they had. "" asks for a dynamic one.
	Addresses map[string]string `json:"addresses,omitempty"`
	// SecurityGroup is the network security group of all cards, by name or
	// resource ID.
	SecurityGroup string `json:"securityGroup,omitempty"`
	// Upload is "direct" for disks that are written without a page blob before
	// them, where the image lives elsewhere anyway: nothing is stored twice, and
	// disks may have 32 TiB. "" or "staged": by page blobs, which points of
	// package pageblob become without a byte moving through this process. A copy
	// that is cut off begins again either way.
	Upload string `json:"upload,omitempty"`
	// Tags are put on everything that is made, beside this library's own.
	Tags map[string]string `json:"tags,omitempty"`
}

// diskTypes lacks Ultra and Premium v2: no machine starts from these.
var diskTypes = []string{"Standard_LRS", "StandardSSD_LRS", "Premium_LRS", "StandardSSD_ZRS", "Premium_ZRS"}

var licenses = []string{"Windows_Server", "Windows_Client", "RHEL_BYOS", "SLES_BYOS"}

func parseOptions(raw json.RawMessage) (PlacementOptions, error) {
	var o PlacementOptions
	if len(bytes.TrimSpace(raw)) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return o, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return o, fmt.Errorf("%w: placement options: %w", dr.ErrInvalid, err)
	}
	if d.More() {
		return o, fmt.Errorf("%w: placement options: more than one", dr.ErrInvalid)
	}
	bad := func(format string, args ...any) (PlacementOptions, error) {
		return o, fmt.Errorf("%w: placement options: %s", dr.ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case o.Zone != "" && o.AvailabilitySet != "":
		return bad("a machine is in a zone or in an availability set, not in both")
	case o.DiskType != "" && !slices.Contains(diskTypes, o.DiskType):
		return bad("diskType %q; there are %q", o.DiskType, diskTypes)
	case o.Upload != "" && o.Upload != "direct" && o.Upload != "staged":
		return bad("upload %q; there are direct and staged", o.Upload)
	case o.Security != "" && o.Security != "TrustedLaunch":
		return bad("security %q; there is TrustedLaunch", o.Security)
	case o.License != "" && !slices.Contains(licenses, o.License):
		return bad("license %q; there are %q", o.License, licenses)
	}
	for card, at := range o.Addresses {
		if addr, err := netip.ParseAddr(at); at != "" && (err != nil || !addr.Is4()) {
			return bad("address %q of card %q: want one of IPv4", at, card)
		}
	}
	for k := range o.Tags {
		if strings.HasPrefix(strings.ToLower(k), "lifeboat-") {
			return bad("tag %q: names with lifeboat- are this library's", k)
		}
		if k == "" || strings.ContainsAny(k, `<>%&\?/`) {
			return bad("tag %q: Azure takes no such name", k)
		}
	}
	return o, nil
}

// optionsOf are those of a record's placement; a machine that was never placed
// has none.
func (a *Azure) optionsOf(r *record) (PlacementOptions, error) {
	if r.Placement == nil {
		return PlacementOptions{}, nil
	}
	return parseOptions(r.Placement.Options)
}

// tags are those of everything that is made of a machine.
func (a *Azure) tags(r *record, disk dr.DiskID, point dr.PointID) map[string]*string {
	t := map[string]*string{}
	set := func(k, v string) {
		v = tagValue(v)
		t[k] = &v
	}
	if o, err := a.optionsOf(r); err == nil {
		for k, v := range o.Tags {
			set(k, v)
		}
	}
	set(tagMachine, string(r.ID))
	if r.Key != "" {
		set(tagKey, r.Key)
	}
	if disk != "" {
		set(tagDisk, string(disk))
	}
	if point != "" {
		set(tagPoint, string(point))
	}
	return t
}

// zoneOf is the machine's own zone, or the one that is asked for.
func (a *Azure) zoneOf(m *machine, o PlacementOptions) string {
	if m.vm != nil && len(m.vm.Zones) > 0 {
		return deref(m.vm.Zones[0])
	}
	if m.vm != nil {
		return ""
	}
	return o.Zone
}

// check refuses what can't be made, before anything is. A machine that is there
// has its cards and its size.
func (a *Azure) check(ctx context.Context, m *machine, p backend.Placement, o PlacementOptions) (size string, cards []card, err error) {
	like := p.Machine
	if err := checkDisks(like, o); err != nil {
		return "", nil, err
	}
	if m.vm != nil && m.rec.VMID != "" {
		return m.rec.Size, nil, nil
	}
	if cards, err = a.plan(ctx, p, o); err != nil {
		return "", nil, err
	}
	if err := a.exist(ctx, o); err != nil {
		return "", nil, err
	}
	size, err = a.choose(ctx, like, o, len(cards))
	return size, cards, err
}

// exist refuses what is named and isn't there.
func (a *Azure) exist(ctx context.Context, o PlacementOptions) error {
	missing := func(what, name string, err error) error {
		if isNotFound(err) {
			return fmt.Errorf("%w: there is no %s %s", dr.ErrInvalid, what, name)
		}
		return explain(err)
	}
	if o.SecurityGroup != "" {
		at, err := parseID(a.groupID("networkSecurityGroups", o.SecurityGroup))
		if err == nil {
			_, err = a.guards.Get(ctx, at.group, at.name, nil)
		}
		if err != nil {
			return missing("network security group", o.SecurityGroup, err)
		}
	}
	if o.AvailabilitySet != "" {
		at, err := parseID(a.setID(o.AvailabilitySet))
		if err == nil {
			_, err = a.avsets.Get(ctx, at.group, at.name, nil)
		}
		if err != nil {
			return missing("availability set", o.AvailabilitySet, err)
		}
	}
	return nil
}

// setID is the ID of an availability set, given by name or ID.
func (a *Azure) setID(set string) string {
	if strings.HasPrefix(set, "/") {
		return set
	}
	return a.computeID("availabilitySets", place{a.opts.ResourceGroup, set})
}

// Limits of disks: "Scalability and performance targets for VM disks" and
// "Support for generation 2 VMs".
const (
	maxBIOSDisk = 2 << 40    // what the master boot record reaches
	maxOSDisk   = 4095 << 30 // 4 TiB less one GiB
	maxBlob     = 8<<40 - 512
)

func checkDisks(like dr.Machine, o PlacementOptions) error {
	if len(like.Disks) == 0 {
		return fmt.Errorf("%w: a machine without disks", dr.ErrInvalid)
	}
	boot := bootDisk(like.Disks)
	seen := map[dr.DiskID]bool{}
	for i, d := range like.Disks {
		bad := func(format string, args ...any) error {
			return &dr.Error{Op: "prepare", Disk: d.ID, Off: -1, Err: fmt.Errorf("%w: %s", dr.ErrInvalid, fmt.Sprintf(format, args...))}
		}
		switch {
		case d.ID == "" || seen[d.ID]:
			return bad("two disks of one ID, or of none")
		case d.Size <= 0 || d.Size%sector != 0:
			return bad("a disk of %d bytes, which are no whole sectors", d.Size)
		case i == boot && d.Size > maxOSDisk:
			return bad("the disk that the machine starts from has %d bytes, more than %d, the most that Azure starts from", d.Size, int64(maxOSDisk))
		case i == boot && like.Firmware == dr.BIOS && d.Size > maxBIOSDisk:
			return bad("the disk that the machine starts from has %d bytes; with a BIOS Azure starts from %d at most", d.Size, int64(maxBIOSDisk))
		case o.Upload == "direct" && d.Size > maxUpload:
			return bad("a disk of %d bytes, more than Azure's largest: %d", d.Size, int64(maxUpload))
		case o.Upload != "direct" && d.Size > maxBlob:
			return bad("a disk of %d bytes, more than a page blob holds: %d", d.Size, int64(maxBlob))
		}
		seen[d.ID] = true
	}
	if o.Security == "TrustedLaunch" && like.Firmware == dr.BIOS {
		return fmt.Errorf("%w: placement option security: a machine with a BIOS can't be launched trusted", dr.ErrInvalid)
	}
	return nil
}

// bootDisk is the disk that becomes the OS disk: the one that the machine
// starts from, or its first.
func bootDisk(disks []dr.Disk) int {
	return max(0, slices.IndexFunc(disks, func(d dr.Disk) bool { return d.Boot }))
}

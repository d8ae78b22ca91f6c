package vmware

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// PlaceOptions is the JSON of a placement's Options for this backend. Names may
// be inventory paths as govc prints them, or their ends ("prod/web"), where a
// name alone isn't unique. What is left out is taken from where the machine was,
// if there is something of that name here, else it is the only one that there
// is. Fields that aren't known are refused.
type PlaceOptions struct {
	Datacenter   string `json:"datacenter,omitempty"`
	Folder       string `json:"folder,omitempty"`       // of machines; else the datacenter's own
	Cluster      string `json:"cluster,omitempty"`      // or a host that is in none
	Host         string `json:"host,omitempty"`         // else any that can run the machine
	ResourcePool string `json:"resourcePool,omitempty"` // else the cluster's own
	Datastore    string `json:"datastore,omitempty"`

	// DiskDatastores are datastores of single disks.
	DiskDatastores map[dr.DiskID]string `json:"diskDatastores,omitempty"`
	// Thin is whether disks take only the room of what is written; default true.
	Thin *bool `json:"thin,omitempty"`
	// KeepMAC and KeepUUID give the machine the MAC addresses, and the UUIDs of
	// its BIOS and disks, that it had, where nothing here has them; default
	// true. A drill's machine never gets them.
	KeepMAC  *bool `json:"keepMAC,omitempty"`
	KeepUUID *bool `json:"keepUUID,omitempty"`
	// HardwareVersion is that of a new machine, "vmx-19"; else the machine's own,
	// or the newest of the host if that is older.
	HardwareVersion string `json:"hardwareVersion,omitempty"`
	// IsolatedNetwork is where a drill's cards are connected that
	// Placement.Networks doesn't name. Without it they are not connected.
	IsolatedNetwork string `json:"isolatedNetwork,omitempty"`

	// Addresses gives the guest the addresses of Placement.Machine's cards when
	// it starts for the first time: Linux with VMware Tools only. The other
	// three go with them; without them it gets those it had.
	Addresses bool                `json:"addresses,omitempty"`
	DNS       []string            `json:"dns,omitempty"`
	Search    []string            `json:"search,omitempty"`
	Gateways  map[string][]string `json:"gateways,omitempty"` // by the ID of the card
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
	if o.HardwareVersion != "" && !hardwareVersion.MatchString(o.HardwareVersion) {
		return o, fmt.Errorf("%w: option hardwareVersion: %q is none: write it as \"vmx-19\"", dr.ErrInvalid, o.HardwareVersion)
	}
	for id := range o.DiskDatastores {
		if _, ok := p.Machine.Disk(id); !ok {
			return o, fmt.Errorf("%w: option diskDatastores: the machine has no disk %s", dr.ErrInvalid, id)
		}
	}
	for id, list := range o.Gateways {
		if !slices.ContainsFunc(p.Machine.NICs, func(n dr.NIC) bool { return n.ID == id }) {
			return o, fmt.Errorf("%w: option gateways: the machine has no card %q", dr.ErrInvalid, id)
		}
		for _, a := range list {
			if _, err := netip.ParseAddr(a); err != nil {
				return o, fmt.Errorf("%w: option gateways: %w", dr.ErrInvalid, err)
			}
		}
	}
	for _, a := range o.DNS {
		if _, err := netip.ParseAddr(a); err != nil {
			return o, fmt.Errorf("%w: option dns: %w", dr.ErrInvalid, err)
		}
	}
	return o, nil
}

// thin tells whether disks are to be thin.
func (o PlaceOptions) thin() bool { return o.Thin == nil || *o.Thin }

// target is where a machine is made.
type target struct {
	folder, pool, host, compute types.ManagedObjectReference

	datastore string               // of the machine's own files
	disks     map[dr.DiskID]string // datastores of the disks
	// cards are what Placement.Machine's cards are connected to, one by one;
	// nil is nothing. spare is for those: every card needs a network to not be
	// connected to.
	cards []types.BaseVirtualDeviceBackingInfo
	spare types.BaseVirtualDeviceBackingInfo

	hardware string   // the newest version that can be made here; "" if unknown
	warnings []string // for the log
}

// place finds out where the machine is to be made.
func (v *VSphere) place(ctx context.Context, p backend.Placement, o PlaceOptions, s *saved) (target, error) {
	inv, err := v.inventory(ctx)
	if err != nil {
		return target{}, err
	}
	t, err := choose(inv, p, o, s)
	if err != nil {
		return target{}, err
	}
	if t.hardware, err = v.newestHardware(ctx, t.compute); err != nil {
		v.options.Log.DebugContext(ctx, "newest hardware version is unknown", "error", err)
	}
	for _, w := range t.warnings {
		v.options.Log.WarnContext(ctx, w, "placement", p.Key)
	}
	return t, nil
}

// newestHardware asks for the newest hardware version that machines can be made
// of.
func (v *VSphere) newestHardware(ctx context.Context, compute types.ManagedObjectReference) (string, error) {
	var c mo.ComputeResource
	for page, err := range v.pages(ctx, 1, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: compute}},
		PropSet:   []types.PropertySpec{{Type: "ComputeResource", PathSet: []string{"environmentBrowser"}}},
	}) {
		if err != nil {
			return "", err
		}
		if err := mo.LoadObjectContent(page, &c); err != nil {
			return "", err
		}
	}
	if c.EnvironmentBrowser == nil {
		return "", errors.New("there is no environment browser")
	}
	res, err := methods.QueryConfigOptionDescriptor(ctx, v.client, &types.QueryConfigOptionDescriptor{This: *c.EnvironmentBrowser})
	if err != nil {
		return "", explain(err)
	}
	newest := ""
	for _, d := range res.Returnval {
		if hardwareVersion.MatchString(d.Key) && d.CreateSupported && (newest == "" || older(newest, d.Key)) {
			newest = d.Key
		}
	}
	return newest, nil
}

// older compares hardware versions.
func older(a, b string) bool {
	x, _ := strconv.Atoi(strings.TrimPrefix(a, "vmx-"))
	y, _ := strconv.Atoi(strings.TrimPrefix(b, "vmx-"))
	return x < y
}

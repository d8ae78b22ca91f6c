package hyperv

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Check implements backend.Checker. Rights can't be asked of Hyper-V: what is
// only read is tried, on every node.
func (v *HyperV) Check(ctx context.Context) ([]backend.Problem, error) {
	var all []backend.Problem
	add := func(code, text, remedy string) {
		all = append(all, backend.Problem{Code: code, Text: text, Remedy: remedy, Blocker: true})
	}
	for _, n := range v.nodes {
		if err := n.services(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, fail("check", "", "", -1, err)
			}
			add("host-silent", fmt.Sprintf("host %s: %v", n.name, explain(err)), "see that the account is one of its Hyper-V Administrators, and that its services run")
			continue
		}
		folder, err := n.folder(ctx)
		if err == nil {
			_, err = n.disks.Free(ctx, folder)
		}
		if err != nil {
			add("folder-unusable", fmt.Sprintf("host %s: the folder for new machines, %q, can't be looked at: %v", n.name, folder, explain(err)), "set Options.Folder to one that the account may write to")
		}
	}
	return all, nil
}

// folder is where new machines go.
func (n *node) folder(ctx context.Context) (string, error) {
	if n.v.options.Folder != "" {
		return n.v.options.Folder, nil
	}
	d, err := n.one(ctx, "SELECT * FROM Msvm_VirtualSystemManagementServiceSettingData")
	if err == nil && d.Props.String("DefaultVirtualHardDiskPath") == "" {
		err = fmt.Errorf("%w: the host has no default folder for virtual disks: set Options.Folder", dr.ErrInvalid)
	}
	return d.Props.String("DefaultVirtualHardDiskPath"), err
}

// Room implements backend.Roomer. Disks are dynamic: what counts is what they
// will come to when they are full.
func (v *HyperV) Room(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	no := func(err error) ([]backend.Problem, error) { return nil, fail("look for room", p.Original, "", -1, err) }
	if err := checkPlacement(p); err != nil {
		return no(err)
	}
	o, err := parseOptions(p)
	if err != nil {
		return no(err)
	}
	need := map[string]int64{} // by folder
	n, err := v.nodeFor(o)
	if err != nil {
		return no(err)
	}
	if p.Original != "" {
		m, err := v.find(ctx, p.Original)
		if err != nil {
			return no(err)
		}
		n = m.node
		for _, d := range m.disks {
			if !d.info.Fixed {
				need[folderOf(d.path)] += max(0, d.info.Size-d.info.Allocated)
			}
		}
	} else {
		x, err := n.planFor(ctx, p, o)
		if err != nil {
			return no(err)
		}
		for _, d := range p.Machine.Disks {
			need[folderOf(x.folder)] += d.Size
		}
	}
	var all []backend.Problem
	for folder, bytes := range need {
		free, err := n.disks.Free(ctx, folder)
		switch {
		case errors.Is(err, host.ErrNotFound):
			all = append(all, backend.Problem{Code: "folder-missing", Text: fmt.Sprintf("host %s has no folder %s", n.name, folder), Remedy: "make it, or choose another one", Blocker: true})
		case err != nil:
			return no(err)
		case free < bytes:
			all = append(all, backend.Problem{Code: "volume-small", Text: fmt.Sprintf("the volume of %s on host %s has %d bytes left, and full disks would need %d", folder, n.name, free, bytes), Remedy: "make room, or choose another folder", Blocker: true})
		}
	}
	return all, nil
}

// Receives implements backend.Receiver.
func (v *HyperV) Receives(ctx context.Context, id dr.MachineID) (backend.Reception, error) {
	m, err := v.find(ctx, id)
	if err != nil {
		return backend.Reception{}, fail("look whether it can be written", id, "", -1, err)
	}
	var r backend.Reception
	r.Snapshots = backend.Fact{Answer: backend.No}
	if names := m.foreign(m.record); len(names) > 0 {
		r.Snapshots = backend.Fact{Answer: backend.Yes, Detail: fmt.Sprintf("%q", names)}
	}
	r.SameUUID, r.Datastore = backend.Fact{Answer: backend.No}, backend.Fact{Answer: backend.Yes}
	for _, d := range m.disks {
		if d.missing != nil {
			r.Datastore = backend.Fact{Answer: backend.No, Detail: fmt.Sprintf("%s: %v", d.path, d.missing)}
		}
	}
	if err := m.whole(); errors.Is(err, dr.ErrAmbiguous) {
		r.SameUUID = backend.Fact{Answer: backend.Yes, Detail: err.Error()}
	}
	return r, nil
}

// Networks implements backend.NetworkLister: the virtual switches of all nodes.
func (v *HyperV) Networks(ctx context.Context) ([]backend.Network, error) {
	var all []backend.Network
	byName := map[string]int{}
	for _, n := range v.nodes {
		switches, err := n.switches(ctx)
		if err != nil {
			return nil, fail("list networks of host "+n.name, "", "", -1, err)
		}
		for _, s := range switches {
			// Nodes of a cluster have switches of one name for one network.
			if i, ok := byName[s.name]; ok && len(v.nodes) > 1 && !slices.Contains(all[i].Hosts, n.name) {
				all[i].Hosts = append(all[i].Hosts, n.name)
				all[i].Aliases = append(all[i].Aliases, s.guid)
				continue
			}
			byName[s.name] = len(all)
			all = append(all, backend.Network{Name: s.name, ID: s.guid, Hosts: []string{n.name}})
		}
	}
	uses, err := v.uses(ctx)
	if err != nil {
		return nil, fail("list networks", "", "", -1, err)
	}
	for i := range all {
		all[i].Used = append(all[i].Used, uses[all[i].Name]...)
	}
	return all, nil
}

// uses tells which addresses machines have on networks, by the networks' names.
func (v *HyperV) uses(ctx context.Context) (map[string][]backend.Use, error) {
	out := map[string][]backend.Use{}
	for m, err := range v.Machines(ctx) {
		if err != nil {
			if m.ID != "" || isNotFound(err) {
				continue
			}
			return nil, err
		}
		for _, c := range m.NICs {
			if c.Network == "" {
				continue
			}
			u := backend.Use{MAC: c.MAC, Machine: m.ID, By: m.Name}
			if len(c.Addresses) == 0 {
				out[c.Network] = append(out[c.Network], u)
			}
			for _, a := range c.Addresses {
				if p, err := netip.ParsePrefix(a); err == nil {
					u.Address = p.Addr()
				} else if ip, err := netip.ParseAddr(a); err == nil {
					u.Address = ip
				}
				out[c.Network] = append(out[c.Network], u)
			}
		}
	}
	return out, nil
}

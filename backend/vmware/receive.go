package vmware

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var _ backend.Receiver = (*VSphere)(nil)

// Receives implements [backend.Receiver]. It looks at the disks of every machine
// that the account sees: a UUID may be there twice in one that it doesn't see.
func (v *VSphere) Receives(ctx context.Context, id dr.MachineID) (backend.Reception, error) {
	r, err := v.receives(ctx, id)
	return r, fail("look at the machine to write to", id, "", -1, err)
}

func (v *VSphere) receives(ctx context.Context, id dr.MachineID) (r backend.Reception, err error) {
	m, err := v.find(ctx, id)
	if err != nil {
		return r, err
	}
	s, err := v.surroundings(ctx, m)
	if err != nil {
		return r, err
	}
	r.Datastore = storesFact(m, s.stores)
	r.Snapshots = backend.Fact{Answer: backend.No}
	if names := m.foreign(); len(names) > 0 {
		r.Snapshots = backend.Fact{Answer: backend.Yes, Detail: fmt.Sprintf("it has the snapshots %q", names)}
	}
	if r.SameUUID, err = v.sameUUID(ctx, m); err != nil {
		return r, err
	}
	r.Writes, err = v.mayWrite(ctx, m)
	return r, err
}

// storesFact tells whether the datastores of all disks can be written.
func storesFact(m *machine, stores map[types.ManagedObjectReference]types.DatastoreSummary) backend.Fact {
	var bad, unknown []string
	for _, d := range m.disks {
		s, ok := stores[d.datastore]
		if !ok {
			unknown = append(unknown, d.label)
		} else if why := unusable(s); why != "" {
			bad = append(bad, fmt.Sprintf("datastore %s of %s %s", s.Name, d.label, why))
		}
	}
	switch {
	case len(bad) > 0:
		return backend.Fact{Answer: backend.No, Detail: strings.Join(bad, "; ")}
	case len(unknown) > 0 || len(m.disks) == 0:
		return backend.Fact{Detail: "it isn't known where these are: " + strings.Join(unknown, ", ")}
	}
	return backend.Fact{Answer: backend.Yes}
}

// sameUUID looks for the UUIDs of the machine's disks in it and in all others.
func (v *VSphere) sameUUID(ctx context.Context, m *machine) (backend.Fact, error) {
	if err := m.twins(); err != nil {
		return backend.Fact{Answer: backend.Yes, Detail: err.Error()}, nil
	}
	mine := map[string]vdisk{}
	for _, d := range m.disks {
		if d.uuid != "" {
			mine[strings.ToLower(d.uuid)] = d
		}
	}
	var twice []string
	for page, err := range v.below(ctx, pageSize, types.PropertySpec{Type: "VirtualMachine", PathSet: []string{"name", "config.hardware.device"}}) {
		if err != nil {
			return backend.Fact{}, err
		}
		for _, o := range page {
			var vm mo.VirtualMachine
			if vm, err = loadMachine(o); err != nil {
				return backend.Fact{}, err
			}
			if vm.Config == nil || vm.Self == m.ref {
				continue
			}
			for _, d := range disksOf(vm.Config.Hardware.Device, nil) {
				if x, ok := mine[strings.ToLower(d.uuid)]; ok {
					twice = append(twice, fmt.Sprintf("%s has the UUID of %s of machine %s", x.label, d.label, vm.Name))
				}
			}
		}
	}
	if len(twice) > 0 {
		slices.Sort(twice)
		return backend.Fact{Answer: backend.Yes, Detail: strings.Join(twice, "; ")}, nil
	}
	return backend.Fact{Answer: backend.No}, nil
}

// mayWrite asks for what a failback needs on the machine itself. Where servers
// don't tell of privileges nothing is known.
func (v *VSphere) mayWrite(ctx context.Context, m *machine) (backend.Fact, error) {
	need := []string{"VirtualMachine.Provisioning.DiskRandomAccess", "VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Interact.PowerOn"}
	if v.client.ServiceContent.AuthorizationManager == nil {
		return backend.Fact{Detail: "the server doesn't tell of privileges"}, nil
	}
	held, err := v.privileges(ctx, need, m.ref)
	if err != nil {
		return backend.Fact{}, err
	}
	if need = slices.DeleteFunc(need, func(id string) bool { return held[id] }); len(need) > 0 {
		return backend.Fact{Answer: backend.No, Detail: "the account lacks on the machine: " + strings.Join(need, ", ")}, nil
	}
	return backend.Fact{Answer: backend.Yes}, nil
}

package vmware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Filter says which machines List yields: those that meet everything that is
// set. The zero value is all machines but templates.
type Filter struct {
	// Datacenters, Clusters and Hosts are names; a host that is in no cluster
	// counts as one of its own name.
	Datacenters, Clusters, Hosts []string
	// Folders are inventory paths as govc prints them ("/DC0/vm/prod"), with
	// all that lies below.
	Folders []string
	// Names are patterns by the rules of path.Match.
	Names []string
	// PoweredOn, if set, is whether the machine must run; one that is suspended
	// does not.
	PoweredOn *bool
	// Templates adds templates, which can be listed, but not captured.
	Templates bool
}

// Machines implements [backend.Lister]: List without a filter.
func (v *VSphere) Machines(ctx context.Context) iter.Seq2[dr.Machine, error] {
	return v.List(ctx, Filter{})
}

// List yields the machines that the account sees and f wants, in no particular
// order. A machine whose configuration can't be read, as its host or datastore
// is out of reach or its record is damaged, is left out, and the log says so.
func (v *VSphere) List(ctx context.Context, f Filter) iter.Seq2[dr.Machine, error] {
	return v.list(ctx, f, pageSize)
}

func (v *VSphere) list(ctx context.Context, f Filter, size int32) iter.Seq2[dr.Machine, error] {
	return func(yield func(dr.Machine, error) bool) {
		for _, n := range f.Names {
			if _, err := path.Match(n, ""); err != nil {
				yield(dr.Machine{}, fail("list machines", "", "", -1, fmt.Errorf("%w: Filter.Names: %q: %w", dr.ErrInvalid, n, err)))
				return
			}
		}
		known := entities{}
		for page, err := range v.below(ctx, size, types.PropertySpec{Type: "VirtualMachine", PathSet: sketchProps}) {
			if err == nil {
				page, err = v.filter(ctx, f, known, page)
			}
			if err == nil {
				err = v.each(ctx, page, size, known, func(m dr.Machine) bool { return yield(m, nil) })
			}
			if errors.Is(err, errStop) {
				return
			}
			if err != nil {
				yield(dr.Machine{}, fail("list machines", "", "", -1, err))
				return
			}
		}
	}
}

// sketchProps are what a Filter looks at: they cost little.
var sketchProps = []string{"name", "parent", "parentVApp", "resourcePool", "config.template", "runtime.powerState", "runtime.host"}

// errStop says that the caller has seen enough.
var errStop = errors.New("stop")

// filter keeps the machines of a page that f wants.
func (v *VSphere) filter(ctx context.Context, f Filter, known entities, page []types.ObjectContent) ([]types.ObjectContent, error) {
	sketches := make([]mo.VirtualMachine, 0, len(page))
	var refs []types.ManagedObjectReference
	for _, o := range page {
		vm, err := loadMachine(o)
		if err != nil {
			return nil, err
		}
		sketches = append(sketches, vm)
		for _, r := range []*types.ManagedObjectReference{vm.Parent, vm.ParentVApp, vm.ResourcePool, vm.Runtime.Host} {
			if r != nil {
				refs = append(refs, *r)
			}
		}
	}
	if err := v.around(ctx, known, refs...); err != nil {
		return nil, err
	}
	var kept []types.ObjectContent
	for i, vm := range sketches {
		if f.wants(vm, known) {
			kept = append(kept, page[i])
		}
	}
	return kept, nil
}

// wants decides by what sketchProps tell.
func (f Filter) wants(vm mo.VirtualMachine, known entities) bool {
	if vm.Config != nil && vm.Config.Template && !f.Templates {
		return false
	}
	if f.PoweredOn != nil && *f.PoweredOn != (vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn) {
		return false
	}
	if len(f.Names) > 0 && !slices.ContainsFunc(f.Names, func(p string) bool { ok, _ := path.Match(p, vm.Name); return ok }) {
		return false
	}
	home := vm.Parent
	if home == nil {
		home = vm.ParentVApp
	}
	in := func(names []string, ref *types.ManagedObjectReference, kinds ...string) bool {
		if len(names) == 0 {
			return true
		}
		if ref == nil {
			return false
		}
		at, ok := known.up(*ref, kinds...)
		return ok && slices.Contains(names, known[at].name)
	}
	return in(f.Datacenters, home, "Datacenter") &&
		in(f.Clusters, vm.Runtime.Host, "ClusterComputeResource", "ComputeResource") &&
		in(f.Hosts, vm.Runtime.Host, "HostSystem") &&
		(len(f.Folders) == 0 || home != nil && slices.ContainsFunc(f.Folders, func(p string) bool {
			p = strings.TrimSuffix(p, "/") + "/"
			return strings.HasPrefix(known.path(*home)+"/", p)
		}))
}

// each describes the machines of a page.
func (v *VSphere) each(ctx context.Context, page []types.ObjectContent, size int32, known entities, f func(dr.Machine) bool) error {
	if len(page) == 0 {
		return nil
	}
	var ask []types.ObjectSpec
	for _, o := range page {
		ask = append(ask, types.ObjectSpec{Obj: o.Obj})
	}
	for full, err := range v.pages(ctx, size, types.PropertyFilterSpec{
		ObjectSet: ask, PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: machineProps}},
		ReportMissingObjectsInResults: types.NewBool(true),
	}) {
		if err != nil {
			return err
		}
		var all []facts
		var refs []types.ManagedObjectReference
		for _, o := range full {
			props, err := loadMachine(o)
			var m *machine
			if err == nil {
				m, err = machineOf(props)
			}
			if err != nil {
				v.options.Log.WarnContext(ctx, "machine left out of the list", "name", props.Name, "object", o.Obj.Value, "error", err)
				continue
			}
			x := m.facts(known)
			all, refs = append(all, x), append(refs, x.refers()...)
		}
		if err := v.around(ctx, known, refs...); err != nil {
			return err
		}
		for _, x := range all {
			if !f(x.describe()) {
				return errStop
			}
		}
	}
	return nil
}

// findByKey finds the machines that were made for a placement's key. Those that
// can't be read can't be found either.
func (v *VSphere) findByKey(ctx context.Context, key string) ([]*machine, error) {
	if key == "" {
		return nil, fmt.Errorf("%w: the placement has no key", dr.ErrInvalid)
	}
	refs, err := v.recorded(ctx, `config.extraConfig["`+recordKey+`"]`, key)
	if _, ok := faultOf(err).(types.InvalidProperty); ok {
		refs, err = v.recorded(ctx, "config.extraConfig", key) // a server that finds nothing by key
	}
	if err != nil {
		return nil, err
	}
	var found []*machine
	for _, ref := range refs {
		m, err := v.look(ctx, ref)
		if errors.Is(err, dr.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m.record.Key == key { // a clone's record says so too, and isn't believed
			found = append(found, m)
		}
	}
	return found, nil
}

// recorded lists the machines whose record, believed or not, has this key.
func (v *VSphere) recorded(ctx context.Context, prop, key string) ([]types.ManagedObjectReference, error) {
	var found []types.ManagedObjectReference
	for page, err := range v.below(ctx, 10*pageSize, types.PropertySpec{Type: "VirtualMachine", PathSet: []string{prop}}) {
		if err != nil {
			return nil, err
		}
		for _, o := range page {
			for _, p := range o.PropSet {
				var r struct {
					Key string `json:"key"`
				}
				if json.Unmarshal([]byte(recordIn(p.Val)), &r) == nil && r.Key == key {
					found = append(found, o.Obj)
				}
			}
		}
	}
	return found, nil
}

// recordIn is the text of the record in what a property's path gave.
func recordIn(val types.AnyType) string {
	switch val := val.(type) {
	case types.OptionValue:
		s, _ := val.Value.(string)
		return s
	case types.ArrayOfOptionValue:
		s, _ := object.OptionValueList(val.OptionValue).GetString(recordKey)
		return s
	}
	return ""
}

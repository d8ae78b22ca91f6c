package vmware

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// pageSize is how many objects are asked for at once.
const pageSize = 100

// entity is a thing of the inventory: its name, and what it lies in.
type entity struct {
	name   string
	parent *types.ManagedObjectReference
}

// entities are things of the inventory by their reference.
type entities map[types.ManagedObjectReference]entity

// path is an inventory path as govc prints it, "/DC0/vm/prod", without the root
// folder. It is "" where a part of it isn't known.
func (e entities) path(ref types.ManagedObjectReference) string {
	var parts []string
	for range 100 { // a loop can't be, but would be one
		x, ok := e[ref]
		if !ok {
			return ""
		}
		if x.parent == nil {
			slices.Reverse(parts)
			return "/" + strings.Join(parts, "/")
		}
		parts = append(parts, x.name)
		ref = *x.parent
	}
	return ""
}

// up finds the nearest of these types, ref itself first.
func (e entities) up(ref types.ManagedObjectReference, kinds ...string) (types.ManagedObjectReference, bool) {
	for range 100 {
		if slices.Contains(kinds, ref.Type) {
			return ref, true
		}
		x := e[ref]
		if x.parent == nil {
			break
		}
		ref = *x.parent
	}
	return types.ManagedObjectReference{}, false
}

// add takes in what was retrieved.
func (e entities) add(content []types.ObjectContent) {
	for _, o := range content {
		var x entity
		for _, p := range o.PropSet {
			switch v := p.Val.(type) {
			case string:
				if p.Name == "name" {
					x.name = v
				}
			case types.ManagedObjectReference:
				if p.Name == "parent" {
					x.parent = &v
				}
			}
		}
		if x.name != "" {
			e[o.Obj] = x
		}
	}
}

// around adds things, and all that they lie in, to what is known. What can't be
// seen stays unknown.
func (v *VSphere) around(ctx context.Context, known entities, refs ...types.ManagedObjectReference) error {
	var ask []types.ObjectSpec
	for _, ref := range refs {
		if _, ok := known[ref]; ok || slices.ContainsFunc(ask, func(o types.ObjectSpec) bool { return o.Obj == ref }) {
			continue
		}
		ask = append(ask, types.ObjectSpec{Obj: ref, SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{
			SelectionSpec: types.SelectionSpec{Name: "up"}, Type: "ManagedEntity", Path: "parent",
			SelectSet: []types.BaseSelectionSpec{&types.SelectionSpec{Name: "up"}},
		}}})
	}
	if len(ask) == 0 {
		return nil
	}
	for page, err := range v.pages(ctx, pageSize, types.PropertyFilterSpec{
		ObjectSet:                     ask,
		PropSet:                       []types.PropertySpec{{Type: "ManagedEntity", PathSet: []string{"name", "parent"}}},
		ReportMissingObjectsInResults: types.NewBool(true),
	}) {
		if err != nil {
			return err
		}
		known.add(page)
	}
	return nil
}

// below yields, page by page, the properties of everything of these types that
// the account sees. A session that is replaced takes its views along, and a view
// that is gone reads as if nothing were there: then it begins again, or, when
// something was yielded, ends with an error.
func (v *VSphere) below(ctx context.Context, size int32, props ...types.PropertySpec) iter.Seq2[[]types.ObjectContent, error] {
	return func(yield func([]types.ObjectContent, error) bool) {
		for n := 1; ; n++ {
			again, err := v.listing(ctx, size, props, func(page []types.ObjectContent) bool { return yield(page, nil) })
			if err == nil || again && n < retries {
				if again {
					continue
				}
				return
			}
			yield(nil, err)
			return
		}
	}
}

// listing is one attempt of below. again says that nothing was yielded, and that
// another attempt may do better.
func (v *VSphere) listing(ctx context.Context, size int32, props []types.PropertySpec, yield func([]types.ObjectContent) bool) (again bool, err error) {
	var kinds []string
	for _, p := range props {
		kinds = append(kinds, p.Type)
	}
	all, err := view.NewManager(v.client).CreateContainerView(ctx, v.client.ServiceContent.RootFolder, kinds, true)
	if err != nil {
		return false, explain(err)
	}
	turn := v.session.turns()
	defer tidy(ctx, func(ctx context.Context) {
		if v.session.turns() != turn {
			return // it went with its session
		}
		if err := all.Destroy(ctx); err != nil {
			v.options.Log.DebugContext(ctx, "view left behind until the session ends", "error", err)
		}
	})
	again = true
	for page, err := range v.pages(ctx, size, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: all.Reference(), Skip: types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: "ContainerView", Path: "view"}}}},
		PropSet:                       props,
		ReportMissingObjectsInResults: types.NewBool(true),
	}) {
		if v.session.turns() != turn {
			return again, fmt.Errorf("the listing was interrupted: the session had to be replaced")
		}
		if errors.Is(err, dr.ErrNotFound) {
			// Callers must not think that what they look for isn't there.
			err = fmt.Errorf("the listing was interrupted: %v", err)
		}
		if err != nil {
			return false, err
		}
		again = false
		if !yield(page) {
			return false, nil
		}
	}
	if again && v.session.turns() != turn {
		return true, fmt.Errorf("the listing was interrupted: the session had to be replaced")
	}
	return false, nil
}

// pages retrieves properties page by page. Properties that can't be read are
// left out.
func (v *VSphere) pages(ctx context.Context, size int32, spec types.PropertyFilterSpec) iter.Seq2[[]types.ObjectContent, error] {
	return func(yield func([]types.ObjectContent, error) bool) {
		pc := v.client.ServiceContent.PropertyCollector
		res, err := methods.RetrievePropertiesEx(ctx, v.client, &types.RetrievePropertiesEx{
			This: pc, SpecSet: []types.PropertyFilterSpec{spec}, Options: types.RetrieveOptions{MaxObjects: size},
		})
		if err != nil {
			yield(nil, explain(err))
			return
		}
		page := res.Returnval
		for page != nil {
			for i := range page.Objects {
				page.Objects[i].MissingSet = nil
			}
			if !yield(page.Objects, nil) {
				if page.Token != "" {
					tidy(ctx, func(ctx context.Context) {
						_, _ = methods.CancelRetrievePropertiesEx(ctx, v.client, &types.CancelRetrievePropertiesEx{This: pc, Token: page.Token})
					})
				}
				return
			}
			if page.Token == "" {
				return
			}
			more, err := methods.ContinueRetrievePropertiesEx(ctx, v.client, &types.ContinueRetrievePropertiesEx{This: pc, Token: page.Token})
			if err != nil {
				yield(nil, explain(err))
				return
			}
			page = &more.Returnval
		}
	}
}

// tidy gives back what the server keeps for us, also when ctx has ended.
func tidy(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	f(ctx)
}

// loadMachine makes a machine's properties of what was retrieved.
func loadMachine(o types.ObjectContent) (mo.VirtualMachine, error) {
	var vm mo.VirtualMachine
	o.MissingSet = nil
	err := mo.LoadObjectContent([]types.ObjectContent{o}, &vm)
	vm.Self = o.Obj
	return vm, err
}

package azure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// order in which kinds of resources are deleted: what uses others goes first.
var order = []string{"microsoft.compute/virtualmachines", "microsoft.compute/restorepointcollections", "microsoft.network/networkinterfaces",
	"microsoft.network/publicipaddresses", "microsoft.network/networksecuritygroups", "microsoft.compute/snapshots", "microsoft.compute/disks"}

// Remove implements backend.Target. What is to be deleted is found by its tag,
// also if a crash has left it before the record knew of it, and nothing else is:
// no machine that Prepare found as an original.
func (a *Azure) Remove(ctx context.Context, id dr.MachineID) error {
	if err := ctx.Err(); err != nil {
		return fail("remove", id, "", -1, err)
	}
	if err := id.Validate(); err != nil {
		return fail("remove", id, "", -1, err)
	}
	if !isReplicaID(id) {
		return nil // nothing of it was made here
	}
	seen := time.Now()
	r, etag, err := a.load(ctx, id)
	if err == nil && r.Reused {
		return nil
	}
	m := &machine{id: id, rec: r, has: err == nil, etag: etag, seen: seen, at: r.at()}
	if m.has {
		ctx, err = a.raise(ctx, m)
		r, etag = m.rec, m.etag
	} else if errors.Is(err, dr.ErrNotFound) {
		ctx, err = a.under(ctx, m)
	}
	if err != nil {
		return fail("remove", id, "", -1, err)
	}
	return fail("remove", id, "", -1, a.remove(ctx, id, r, etag))
}

func (a *Azure) remove(ctx context.Context, id dr.MachineID, r record, etag azcore.ETag) error {
	tagged, err := a.tagged(ctx, a.opts.ResourceGroup, id)
	if err != nil {
		return err
	}
	for kind, ids := range a.named(id, r) {
		tagged[kind] = append(ids, tagged[kind]...)
	}
	for _, rule := range r.Rules {
		if group, name, ok := strings.Cut(rule, "/securityRules/"); ok {
			if err := a.dropRule(ctx, group, name); err != nil {
				return fmt.Errorf("delete rule %s: %w", rule, err)
			}
		}
	}
	for _, kind := range order {
		ids := unique(tagged[kind])
		err := a.all(ctx, len(ids), func(ctx context.Context, i int) error {
			if err := a.removeResource(ctx, kind, id, ids[i]); err != nil {
				return fmt.Errorf("delete %s: %w", ids[i], err)
			}
			return nil
		}, nil)
		if err != nil {
			return err
		}
	}
	for name, err := range a.blobs(ctx, blobPrefix(id)) {
		if err == nil {
			err = a.drop(ctx, name)
		}
		if err != nil {
			return err
		}
	}
	if r.Name != "" {
		if err := a.unclaim(ctx, id, r.Name); err != nil {
			return err
		}
	}
	return a.dropRecord(ctx, id, etag)
}

// named is what a record says that there may be: lists are late.
func (a *Azure) named(id dr.MachineID, r record) map[string][]string {
	if r.Name == "" {
		return nil
	}
	found := map[string][]string{
		"microsoft.compute/virtualmachines":         {a.computeID("virtualMachines", r.at())},
		"microsoft.compute/restorepointcollections": {a.computeID("restorePointCollections", place{a.opts.ResourceGroup, restoreSet(id)})},
		"microsoft.network/publicipaddresses":       {a.networkID("publicIPAddresses", place{r.Group, r.Name + "-address"})},
		"microsoft.network/networksecuritygroups":   {a.networkID("networkSecurityGroups", place{r.Group, r.Name + "-guard"})},
	}
	add := func(kind, id string) { found[kind] = append(found[kind], id) }
	cards := 1
	if r.Placement != nil {
		cards = max(1, len(r.Placement.Machine.NICs))
	}
	for i := range cards {
		add("microsoft.network/networkinterfaces", a.networkID("networkInterfaces", place{r.Group, cardName(r.Name, i)}))
	}
	for _, d := range r.Disks {
		for _, x := range append(slices.Clone(d.Replaced), d.Disk) {
			if x != "" {
				add("microsoft.compute/disks", x)
			}
		}
		if d.Blob != "" { // imported, and not recorded yet
			add("microsoft.compute/disks", a.computeID("disks", place{r.Group, diskName(r.Name, d, contentName(d.Blob, r.Gen))}))
		}
	}
	m := &machine{id: id, rec: r, has: true, at: r.at()}
	for _, mo := range r.Moments {
		for _, name := range a.momentNames(m, r, mo) {
			add("microsoft.compute/snapshots", a.computeID("snapshots", place{a.opts.ResourceGroup, name}))
		}
	}
	return found
}

// tagged lists what carries a machine's tag in a resource group, by kind.
func (a *Azure) tagged(ctx context.Context, group string, id dr.MachineID) (map[string][]string, error) {
	found := map[string][]string{}
	pages := a.resources.NewListByResourceGroupPager(group, &armresources.ClientListByResourceGroupOptions{
		Filter: to.Ptr(fmt.Sprintf("tagName eq '%s' and tagValue eq '%s'", tagMachine, id))})
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		for _, x := range page.Value {
			kind := strings.ToLower(deref(x.Type))
			found[kind] = append(found[kind], deref(x.ID))
		}
	}
	return found, nil
}

// removeResource deletes one resource, if it carries the tag: names can be given
// again, and lists be late.
func (a *Azure) removeResource(ctx context.Context, kind string, id dr.MachineID, resource string) error {
	at, err := parseID(resource)
	if err != nil {
		return err
	}
	ours := func(tags map[string]*string, err error) (bool, error) {
		if isNotFound(err) {
			return false, nil
		}
		return err == nil && deref(tags[tagMachine]) == string(id), explain(err)
	}
	switch kind {
	case "microsoft.compute/virtualmachines":
		x, err := a.vms.Get(ctx, at.group, at.name, nil)
		if ok, err := ours(x.Tags, err); err != nil || !ok {
			return err
		}
		return a.dropVM(ctx, at)
	case "microsoft.compute/disks":
		x, err := a.disks.Get(ctx, at.group, at.name, nil)
		if ok, err := ours(x.Tags, err); err != nil || !ok {
			return err
		}
		return a.dropDisk(ctx, resource)
	case "microsoft.compute/snapshots":
		x, err := a.snapshots.Get(ctx, at.group, at.name, nil)
		if ok, err := ours(x.Tags, err); err != nil || !ok {
			return err
		}
		return a.unsnap(ctx, at.name)
	case "microsoft.compute/restorepointcollections":
		x, err := a.sets.Get(ctx, at.group, at.name, nil)
		if ok, err := ours(x.Tags, err); err != nil || !ok {
			return err
		}
		return a.unrestoreAll(ctx, at.name)
	case "microsoft.network/networkinterfaces":
		x, err := a.nics.Get(ctx, at.group, at.name, nil)
		if ok, err := ours(x.Tags, err); err != nil || !ok {
			return err
		}
		return a.dropCard(ctx, at)
	case "microsoft.network/publicipaddresses":
		return a.dropAddress(ctx, id, at)
	case "microsoft.network/networksecuritygroups":
		return a.dropGuard(ctx, id, at)
	}
	return nil
}

func unique(ids []string) []string {
	seen := map[string]bool{}
	var list []string
	for _, id := range ids {
		if !seen[keyOf(id)] {
			seen[keyOf(id)] = true
			list = append(list, id)
		}
	}
	return list
}

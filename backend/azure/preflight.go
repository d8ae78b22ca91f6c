package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Preflight implements backend.Preflighter.
func (a *Azure) Preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	m, err := a.find(ctx, id)
	if err != nil {
		return nil, fail("preflight", id, "", -1, err)
	}
	found := m.problems(a.opts.Location)
	locks, err := a.locksOn(ctx, m.at.group)
	return append(found, locks...), fail("preflight", id, "", -1, err)
}

// problems are those that the machine and its disks show. location is where this
// library works.
func (m *machine) problems(location string) []backend.Problem {
	var found []backend.Problem
	add := func(blocker bool, code string, disk dr.DiskID, remedy, format string, args ...any) {
		found = append(found, backend.Problem{Code: code, Disk: disk, Text: fmt.Sprintf(format, args...), Remedy: remedy, Blocker: blocker})
	}
	if m.vm != nil && m.vm.Location != nil && !strings.EqualFold(strings.ReplaceAll(*m.vm.Location, " ", ""), location) {
		add(true, "region", "", "open a backend for that region", "the machine is in %s, and this backend works in %s: snapshots are made where the disk is", *m.vm.Location, location)
	}
	if m.unmanaged() {
		add(true, "disk-unmanaged", "", "convert them to managed disks", "the machine has disks that are page blobs of a storage account")
	}
	for _, d := range m.disks {
		p := d.disk.Properties
		disk := diskID(d.disk)
		switch sku := d.disk.SKU; {
		case deref(p.MaxShares) > 1:
			add(true, "disk-shared", disk, "replicate what is on it with the cluster's own means", "disk %s is shared by several machines", deref(d.disk.Name))
		case sku != nil && (deref(sku.Name) == armcompute.DiskStorageAccountTypesUltraSSDLRS || deref(sku.Name) == armcompute.DiskStorageAccountTypesPremiumV2LRS):
			add(false, "disk-slow-snapshots", disk, "", "disk %s is of kind %s, whose snapshots are copied in the background before they can be read", deref(d.disk.Name), deref(sku.Name))
		}
		if deref(p.NetworkAccessPolicy) == armcompute.NetworkAccessPolicyDenyAll || deref(p.PublicNetworkAccess) == armcompute.PublicNetworkAccessDisabled {
			add(true, "disk-no-export", disk, "allow export over the network, or through a private endpoint that this program reaches", "disk %s allows no export", deref(d.disk.Name))
		}
		if e := p.Encryption; e != nil && strings.Contains(strings.ToLower(string(deref(e.Type))), "customerkey") {
			add(false, "disk-customer-key", disk, "see that the replica's site has keys of its own", "disk %s is encrypted with a customer's key; what is copied of it is not", deref(d.disk.Name))
		}
	}
	if m.vm != nil {
		if s := m.vm.Properties.SecurityProfile; s != nil && s.UefiSettings != nil && deref(s.UefiSettings.VTpmEnabled) {
			add(false, "vtpm", "", "keep recovery keys of what is sealed to it", "the machine has a virtual TPM, whose content stays behind")
		}
		if sp := m.vm.Properties.StorageProfile; sp != nil && sp.OSDisk != nil && sp.OSDisk.DiffDiskSettings != nil {
			add(true, "disk-ephemeral", "", "give the machine an OS disk that lasts", "the OS disk is ephemeral: it is gone when the machine is deallocated")
		}
		if len(m.references()) > 1 {
			add(false, "several-disks", "", "", "the machine has several disks: while it writes, a point of one moment takes a restore point, which Azure makes once an hour")
		}
	}
	return found
}

// locksOn are a resource group's management locks, as far as one may see them.
func (a *Azure) locksOn(ctx context.Context, group string) (found []backend.Problem, err error) {
	for pages := a.locks.NewListAtResourceGroupLevelPager(group, nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if status, _ := codeOf(err); status == http.StatusForbidden {
			return nil, nil // to see them is a privilege of its own, and not needed
		}
		if err != nil {
			return nil, err
		}
		for _, l := range page.Value {
			if l.Properties != nil {
				found = append(found, backend.Problem{Code: "lock", Remedy: "remove the lock before machines are to be removed or come home",
					Text: fmt.Sprintf("resource group %s has the management lock %s (%s)", group, deref(l.Name), deref(l.Properties.Level))})
			}
		}
	}
	return found, nil
}

// Check implements backend.Checker. It asks for everything that a failover will
// need, and names what fails. Its codes: "machines", "sizes", "quotas",
// "network", "drill-network", "container-write" and "container-delete".
func (a *Azure) Check(ctx context.Context) ([]backend.Problem, error) {
	var failed []backend.Problem
	note := func(code, what string, err error) {
		if err == nil {
			return
		}
		p := backend.Problem{Code: code, Text: what + ": " + err.Error(), Blocker: true}
		var e *dr.Error
		if errors.As(fail(what, "", "", -1, err), &e) {
			p.Text, p.Remedy = e.Op+": "+e.Err.Error(), e.Remedy
		}
		failed = append(failed, p)
	}
	for _, err := range a.listed(ctx) {
		if err != nil {
			note("machines", "list machines", err)
			break
		}
	}
	_, err := a.sizes.all(ctx, a)
	note("sizes", "list sizes", err)
	_, err = a.usages(ctx)
	note("quotas", "read quotas", err)
	if a.opts.Network != "" {
		_, err := a.productionCard(ctx, dr.NIC{ID: "nic0", DHCP: true}, a.opts.Network)
		note("network", "find the network", err)
	}
	if a.opts.DrillNetwork != "" {
		_, err := a.drillCard(ctx, dr.NIC{ID: "nic0", DHCP: true}, "", false, PlacementOptions{})
		note("drill-network", "find the drill network", err)
	}
	_, err = a.claim(ctx, "check", "lifeboat-check")
	note("container-write", "write to the container", err)
	if err == nil {
		note("container-delete", "delete from the container", a.unclaim(ctx, "check", "lifeboat-check"))
	}
	return failed, ctx.Err()
}

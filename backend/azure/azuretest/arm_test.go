package azuretest_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armlocks"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

func TestRequestsAreChecked(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	base := w.URL() + "/subscriptions/" + w.Subscription() + "/resourceGroups/" + rg
	for _, c := range []struct {
		method, url, token string
		status             int
		code               string
	}{
		{"GET", base + "?api-version=1", "", 401, "AuthenticationFailed"},
		{"GET", base, "Bearer x", 400, "MissingApiVersionParameter"},
		{"GET", base + "?api-version=1", "Bearer x", 200, ""},
		{"GET", strings.ToUpper(base[len(w.URL()):]) + "?api-version=1", "Bearer x", 200, ""},
		{"GET", w.URL() + "/subscriptions/other/resourceGroups/x?api-version=1", "Bearer x", 404, "SubscriptionNotFound"},
		{"GET", base + "x/providers/Microsoft.Compute/disks/d?api-version=1", "Bearer x", 404, "ResourceGroupNotFound"},
		{"GET", base + "/providers/Microsoft.Compute/moons/d?api-version=1", "Bearer x", 404, "InvalidResourceType"},
		{"POST", base + "/providers/Microsoft.Compute/disks/d?api-version=1", "Bearer x", 405, "HttpMethodNotAllowed"},
	} {
		if strings.HasPrefix(c.url, "/") {
			c.url = w.URL() + c.url
		}
		r := must(http.NewRequestWithContext(t.Context(), c.method, c.url, nil))(t)
		r.Header.Set("Authorization", c.token)
		a := must(http.DefaultClient.Do(r))(t)
		a.Body.Close()
		require.Equal(t, c.status, a.StatusCode, "%v", c)
		require.Equal(t, c.code, a.Header.Get("x-ms-error-code"), "%v", c)
	}
	require.Equal(t, 8, w.Calls())
}

func TestLocksHold(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	w.machine("web")
	d := must(w.disks.Get(t.Context(), rg, "web-data", nil))(t)
	put := func(level armlocks.LockLevel) armlocks.ManagementLockObject {
		return armlocks.ManagementLockObject{Properties: &armlocks.ManagementLockProperties{Level: &level, Notes: ptr("mine")}}
	}
	must(w.locks.CreateOrUpdateByScope(t.Context(), *d.ID, "keep", put(armlocks.LockLevelCanNotDelete), nil))(t)
	_, err := w.disks.BeginDelete(t.Context(), rg, "WEB-data", nil)
	refused(t, err, 409, "ScopeLocked")
	must(w.tags.UpdateAtScope(t.Context(), *d.ID, armresources.TagsPatchResource{Operation: ptr(armresources.TagsPatchOperationMerge),
		Properties: &armresources.Tags{Tags: map[string]*string{"a": ptr("1")}}}, nil))(t)
	must(w.locks.DeleteByScope(t.Context(), *d.ID, "keep", nil))(t)

	must(w.locks.CreateOrUpdateAtResourceGroupLevel(t.Context(), rg, "freeze", put(armlocks.LockLevelReadOnly), nil))(t)
	refused(t, w.start("web"), 409, "ScopeLocked")
	_, err = w.disk("new", emptyDisk(1))
	refused(t, err, 409, "ScopeLocked")
	_, err = w.tags.UpdateAtScope(t.Context(), *d.ID, armresources.TagsPatchResource{Operation: ptr(armresources.TagsPatchOperationMerge)}, nil)
	refused(t, err, 409, "ScopeLocked")
	require.Equal(t, "running", w.power("web"))
	list := must(w.locks.NewListByScopePager(*d.ID, nil).NextPage(t.Context()))(t)
	require.Len(t, list.Value, 1)
	require.Equal(t, "freeze", *list.Value[0].Name)
	must(w.locks.DeleteAtResourceGroupLevel(t.Context(), rg, "freeze", nil))(t)

	// A disk that is locked outlives its machine.
	os := must(w.disks.Get(t.Context(), rg, "web-os", nil))(t)
	must(w.locks.CreateOrUpdateByScope(t.Context(), *os.ID, "keep", put(armlocks.LockLevelCanNotDelete), nil))(t)
	require.NoError(t, w.deleteVM("web"))
	os = must(w.disks.Get(t.Context(), rg, "web-os", nil))(t)
	require.Nil(t, os.ManagedBy)
}

func TestResourcesAreFoundByTheirTags(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	d := emptyDisk(1)
	d.Tags = map[string]*string{"dr-key": ptr("k1")}
	one := must(w.disk("one", d))(t)
	two := must(w.disk("two", emptyDisk(1)))(t)
	merge := func(id string, tags map[string]*string) map[string]*string {
		return must(w.tags.UpdateAtScope(t.Context(), id, armresources.TagsPatchResource{
			Operation: ptr(armresources.TagsPatchOperationMerge), Properties: &armresources.Tags{Tags: tags}}, nil))(t).Properties.Tags
	}
	require.Len(t, merge(*two.ID, map[string]*string{"DR-Key": ptr("k2"), "b": ptr("2")}), 2)
	require.Len(t, merge(*two.ID, map[string]*string{"c": ptr("3")}), 3)
	find := func(filter string) (ids []string) {
		pager := w.generic.NewListByResourceGroupPager(rg, &armresources.ClientListByResourceGroupOptions{Filter: &filter})
		for pager.More() {
			for _, r := range must(pager.NextPage(t.Context()))(t).Value {
				ids = append(ids, *r.Name)
			}
		}
		return ids
	}
	require.Equal(t, []string{*one.Name}, find("tagName eq 'dr-key' and tagValue eq 'k1'"))
	require.Equal(t, []string{*one.Name, *two.Name}, find("tagName eq 'dr-key'"))
	require.Empty(t, find("tagName eq 'dr-key' and tagValue eq 'K1'"))
	require.Equal(t, []string{"net"}, find("resourceType eq 'Microsoft.Network/virtualNetworks'"))
	_, err := w.generic.NewListByResourceGroupPager(rg, &armresources.ClientListByResourceGroupOptions{Filter: ptr("moon eq 'x'")}).NextPage(t.Context())
	refused(t, err, 400, "InvalidFilterInQueryString")
	require.Equal(t, rg, *must(w.groups.Get(t.Context(), strings.ToUpper(rg), nil))(t).Name)
	_, err = w.groups.Get(t.Context(), "none", nil)
	refused(t, err, 404, "ResourceGroupNotFound")
}

// Many orchestrators at once leave the books in order.
func TestManyClientsAtOnce(t *testing.T) {
	w := newWorld(t, azuretest.Options{Polls: 2, Limits: azuretest.Limits{Cores: -1, FamilyCores: map[string]int{"standardDSv5Family": -1}}})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			name := fmt.Sprint("vm", i)
			os, err := w.disk(name+"-os", emptyDisk(1))
			if err != nil {
				t.Error(err)
				return
			}
			n, err := w.nic(name+"-nic", nicModel(w.subnet("app"), ""))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err = w.vm(name, vmModel(*os.ID, *n.ID)); err != nil {
				t.Error(err)
				return
			}
			for j := range 3 {
				if err := w.Write(rg, name, -1, block(byte(j)), 0); err != nil {
					t.Error(err)
				}
				if _, err := w.snapshot(fmt.Sprint(name, "-s", j), *os.ID); err != nil {
					t.Error(err)
				}
				pager := w.vms.NewListPager(rg, nil)
				if _, err := pager.NextPage(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := w.deallocate(name); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := w.deleteVM(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	count := map[string]int{}
	for _, id := range w.Resources() {
		path := strings.Split(id, "/")
		count[path[len(path)-2]]++
	}
	require.Equal(t, 4, count["virtualmachines"])
	require.Equal(t, 4, count["disks"])
	require.Equal(t, 4, count["networkinterfaces"])
	require.Equal(t, 24, count["snapshots"])
}

func TestTwoClientsThatWantOneDisk(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	os := *must(w.disk("os", emptyDisk(1)))(t).ID
	var ids [2]string
	for i := range ids {
		ids[i] = *must(w.nic(fmt.Sprint("nic", i), nicModel(w.subnet("app"), "")))(t).ID
	}
	var all sync.WaitGroup
	var errs [2]error
	for i := range 2 {
		all.Go(func() { _, errs[i] = w.vm(fmt.Sprint("vm", i), vmModel(os, ids[i])) })
	}
	all.Wait()
	if errs[0] == nil {
		errs[0], errs[1] = errs[1], errs[0]
	}
	require.NoError(t, errs[1])
	refused(t, errs[0], 409, "ConflictingUserInput")
}

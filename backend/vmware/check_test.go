package vmware

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestCheck(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	problems, err := v.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, problems)

	v.client.ServiceContent.About.ApiVersion = "6.0"
	problems, err = v.Check(t.Context())
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Equal(t, "api-version", problems[0].Code)
	require.True(t, problems[0].Blocker)

	v.client.ServiceContent.About.ApiVersion = "8.0"
	sim.Fault(vmwaretest.Fault{Call: "HasPrivilegeOnEntities", Err: &types.NotSupported{}})
	problems, err = v.Check(t.Context())
	require.NoError(t, err)
	for _, p := range problems { // vcsim's role of administrators is older than some
		require.NotContains(t, p.Text, "CreateSnapshot", "it was asked for in the other way")
	}

	sim.Fault(vmwaretest.Fault{Call: "HasPrivilegeOnEntities", Err: &types.SystemError{}})
	_, err = v.Check(t.Context())
	require.Error(t, err)
}

// TestCheckHost runs against vcsim's ESXi, which has the other inventory.
func TestCheckHost(t *testing.T) {
	m := simulator.ESX()
	require.NoError(t, m.Create())
	t.Cleanup(m.Remove)
	m.Service.TLS = nil
	s := m.Service.NewServer()
	t.Cleanup(s.Close)
	v, err := Open(t.Context(), Options{URL: s.URL, Insecure: true})
	require.NoError(t, err)
	problems, err := v.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, problems)

	n := 0
	for m, err := range v.Machines(t.Context()) {
		require.NoError(t, err)
		require.NotEmpty(t, m.ID)
		n++
	}
	require.Equal(t, 2, n)
	inv, err := v.inventory(t.Context())
	require.NoError(t, err)
	require.Len(t, inv.hosts, 1)
	require.NotEmpty(t, inv.datastores)
	require.NotEmpty(t, inv.networks)
}

func TestOldAPI(t *testing.T) {
	for version, want := range map[string]bool{"5.5": true, "6.0": true, "6": true, "6.5": false, "6.7.3": false, "7.0.3.0": false, "8.0.2.0": false, "10.0": false, "": false, "x": false} {
		require.Equal(t, want, oldAPI(version), version)
	}
}

func TestSkew(t *testing.T) {
	at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	later := at.Add(10 * time.Second) // the call was slow
	require.Zero(t, skew(at, later, at.Add(5*time.Second)))
	require.Zero(t, skew(at, later, at.Add(-50*time.Second)))
	require.Equal(t, 90*time.Second, skew(at, later, at.Add(-90*time.Second)))
	require.Equal(t, 90*time.Second, skew(at, later, at.Add(100*time.Second)))
}

func TestReadOnlyLicence(t *testing.T) {
	for edition, want := range map[string]bool{"esxBasic": true, "esx.hypervisor.cpuPackageCoreLimited": true, "eval": false, "esx.enterprisePlus.cpuPackage": false, "": false} {
		require.Equal(t, want, readOnlyLicence(types.LicenseManagerLicenseInfo{EditionKey: edition}), edition)
	}
}

// denies answers HasPrivilegeOnEntities as an account would see it that holds
// privileges only on some types of objects.
type denies struct {
	next soap.RoundTripper
	held func(id, on string) bool
}

func (d denies) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	err := d.next.RoundTrip(ctx, req, res)
	if b, ok := res.(*methods.HasPrivilegeOnEntitiesBody); ok && b.Res != nil {
		for _, e := range b.Res.Returnval {
			for i := range e.PrivAvailability {
				e.PrivAvailability[i].IsGranted = d.held(e.PrivAvailability[i].PrivId, e.Entity.Type)
			}
		}
	}
	return err
}

func TestCheckPrivileges(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	addVM(t, sim, vmwaretest.VMSpec{Name: "web"})
	d := &denies{next: v.client.RoundTripper}
	v.client.RoundTripper = d
	check := func() map[string]bool { // code and privilege to blocker
		problems, err := v.Check(t.Context())
		require.NoError(t, err)
		found := map[string]bool{}
		for _, p := range problems {
			words := strings.Fields(p.Text)
			at := slices.Index(words, "privilege")
			require.NotEmpty(t, p.Remedy)
			found[p.Code+" "+words[at+1]] = p.Blocker
		}
		return found
	}

	d.held = func(id, on string) bool { return id != "VirtualMachine.State.CreateSnapshot" && id != "Network.Assign" }
	require.Equal(t, map[string]bool{"privilege-missing VirtualMachine.State.CreateSnapshot": true, "privilege-missing Network.Assign": false}, check())

	d.held = func(id, on string) bool {
		return id != "VirtualMachine.State.CreateSnapshot" && id != "Datastore.AllocateSpace" || on == "Datacenter" || on == "Datastore"
	}
	require.Equal(t, map[string]bool{"privilege-partial VirtualMachine.State.CreateSnapshot": false, "privilege-partial Datastore.AllocateSpace": false}, check())

	d.held = func(string, string) bool { return false }
	found := check()
	require.Len(t, found, len(privileges), "a read-only account")
	require.True(t, found["privilege-missing VirtualMachine.State.RemoveSnapshot"])
}

// The documentation is what people make the account's role by.
func TestPrivilegesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	text := strings.Join(strings.Fields(strings.ReplaceAll(string(doc), "//", "")), " ")
	for _, p := range privileges {
		require.Contains(t, text, p.id[strings.LastIndex(p.id, ".")+1:])
	}
}

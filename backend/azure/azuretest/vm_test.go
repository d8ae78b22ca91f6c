package azuretest_test

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

func TestAMachineLivesAndGoes(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	v := w.machine("web")
	require.Equal(t, "Succeeded", *v.Properties.ProvisioningState)
	require.NotEmpty(t, *v.Properties.VMID)
	require.Equal(t, "running", w.power("web"))
	d := must(w.disks.Get(t.Context(), rg, "web-os", nil))(t)
	require.Equal(t, armcompute.DiskStateAttached, *d.Properties.DiskState)
	require.Equal(t, *v.ID, *d.ManagedBy)

	require.NoError(t, w.Write(rg, "web", 0, []byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"), 0))
	require.NoError(t, w.deallocate("web"))
	require.Equal(t, "deallocated", w.power("web"))
	require.ErrorIs(t, w.Write(rg, "web", 0, make([]byte, 512), 0), azuretest.ErrNotRunning)
	url, err := w.sas("web-os", armcompute.AccessLevelRead)
	require.NoError(t, err)
	require.NotEmpty(t, url)
	refused(t, w.start("web"), 409, "OperationNotAllowed")
	require.NoError(t, w.revoke("web-os"))
	require.NoError(t, w.start("web"))
	require.Equal(t, "running", w.power("web"))

	s := must(w.snapshot("s1", *d.ID))(t)
	require.NotEmpty(t, *s.Properties.IncrementalSnapshotFamilyID)
	require.NoError(t, w.deleteVM("web"))
	_, err = w.vms.Get(t.Context(), rg, "web", nil)
	refused(t, err, 404, "ResourceNotFound")
	_, err = w.disks.Get(t.Context(), rg, "web-os", nil)
	refused(t, err, 404, "ResourceNotFound")
	_, err = w.nics.Get(t.Context(), rg, "web-nic", nil)
	refused(t, err, 404, "ResourceNotFound")
	d = must(w.disks.Get(t.Context(), rg, "web-data", nil))(t)
	require.Equal(t, armcompute.DiskStateUnattached, *d.Properties.DiskState)
}

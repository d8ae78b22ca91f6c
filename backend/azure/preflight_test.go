package azure_test

import (
	"context"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armlocks"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestPreflight(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	ctx := context.Background()
	one, err := r.add([]dr.Disk{{ID: "a", Size: 1 << 20}})
	require.NoError(t, err)
	found, err := r.a.Preflight(ctx, one)
	require.NoError(t, err)
	require.Empty(t, found)

	two, _ := r.running(t)
	found, err = r.a.Preflight(ctx, two)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "several-disks", found[0].Code)

	locks, err := armlocks.NewManagementLocksClient(r.cloud.Subscription(), r.cloud.Credential(), r.cloud.ClientOptions())
	require.NoError(t, err)
	_, err = locks.CreateOrUpdateAtResourceGroupLevel(ctx, sources, "keep", armlocks.ManagementLockObject{Properties: &armlocks.ManagementLockProperties{Level: to.Ptr(armlocks.LockLevelCanNotDelete)}}, nil)
	require.NoError(t, err)
	found, err = r.a.Preflight(ctx, one)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "lock", found[0].Code)
	require.Contains(t, found[0].Text, "keep (CanNotDelete)")

	// Who may not see locks is told the rest.
	deny := func(c azuretest.Call) *azuretest.Fault {
		if strings.Contains(c.Path, "Microsoft.Authorization/locks") {
			return &azuretest.Fault{Status: 403, Code: "AuthorizationFailed"}
		}
		return nil
	}
	r.cloud.OnCall(deny)
	found, err = r.a.Preflight(ctx, one)
	require.NoError(t, err)
	require.Empty(t, found)
	r.cloud.OnCall(nil)
	_, err = r.a.Preflight(ctx, "nobody")
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// Check names each thing that a failover would lack, in Azure's words.
func TestCheck(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, azuretest.Options{})
	before := r.everything(t)
	found, err := r.a.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.Equal(t, before, r.everything(t), "the check has left something")
	for _, c := range []struct {
		name   string
		change func(*azure.Options)
		fault  func(azuretest.Call) bool
		op     string
		say    string
	}{
		{"no group", func(o *azure.Options) { o.Sources = []string{"none"} }, nil, "list machines", "ResourceGroupNotFound"},
		{"no network", func(o *azure.Options) { o.Network = "none/default" }, nil, "find the network", "network none"},
		{"no drill network", func(o *azure.Options) { o.DrillNetwork = "none" }, nil, "find the drill network", "network none"},
		{"no sizes", nil, func(c azuretest.Call) bool { return strings.HasSuffix(c.Path, "/skus") }, "list sizes", "AuthorizationFailed"},
		{"no quotas", nil, func(c azuretest.Call) bool { return strings.HasSuffix(c.Path, "/usages") }, "read quotas", "AuthorizationFailed"},
		{"no container", nil, func(c azuretest.Call) bool { return c.Service == azuretest.ServiceBlob && c.Method == "PUT" }, "write to the container", "AuthorizationFailed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := r.opts
			if c.change != nil {
				c.change(&opts)
			}
			a, err := azure.Open(opts)
			require.NoError(t, err)
			if c.fault != nil {
				r.cloud.OnCall(func(x azuretest.Call) *azuretest.Fault {
					if c.fault(x) {
						return &azuretest.Fault{Status: 403, Code: "AuthorizationFailed"}
					}
					return nil
				})
				defer r.cloud.OnCall(nil)
			}
			failed, err := a.Check(ctx)
			require.NoError(t, err)
			require.Len(t, failed, 1)
			require.NotEmpty(t, failed[0].Code)
			require.True(t, failed[0].Blocker)
			require.Contains(t, failed[0].Text, c.op)
			require.Contains(t, failed[0].Text, c.say)
			require.NotEmpty(t, failed[0].Remedy)
		})
	}
}

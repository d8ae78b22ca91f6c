package azbucket

import (
	"maps"
	"slices"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault/buckettest"
)

// quick tries again at once.
func quick(o *container.ClientOptions) {
	o.Retry = policy.RetryOptions{RetryDelay: 1, MaxRetryDelay: 1}
}

func on(t testing.TB, o Options) *Bucket {
	t.Helper()
	return New(services["azurite"](t, quick), o)
}

// services are who the bucket must get along with: each makes a container.
var services = map[string]func(testing.TB, func(*container.ClientOptions)) *container.Client{
	"azurite": func(t testing.TB, options func(*container.ClientOptions)) *container.Client {
		return azurite.Start(t).Container(t, "", options)
	},
	"blobs": func(t testing.TB, options func(*container.ClientOptions)) *container.Client {
		b := azuretest.NewBlobs(azuretest.BlobOptions{})
		t.Cleanup(b.Close)
		_, err := b.Container(t.Context(), "account", "vault")
		require.NoError(t, err)
		url, key := b.Account("account")
		cred, err := azblob.NewSharedKeyCredential("account", key)
		require.NoError(t, err)
		var o container.ClientOptions
		options(&o)
		c, err := container.NewClientWithSharedKeyCredential(url+"/vault", cred, &o)
		require.NoError(t, err)
		return c
	},
}

// each runs a test on each service.
func each(t *testing.T, test func(t *testing.T, service string)) {
	for _, service := range slices.Sorted(maps.Keys(services)) {
		t.Run(service, func(t *testing.T) { test(t, service) })
	}
}

func TestContract(t *testing.T) { each(t, testContract) }

func testContract(t *testing.T, service string) {
	for name, o := range map[string]Options{
		"default":      {},
		"small blocks": {BlockSize: 8 << 10, Parallel: 3}, // so that most objects have several
		"odd blocks":   {BlockSize: 9999, Parallel: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if service == "azurite" && name == "odd blocks" || testing.Short() && name != "small blocks" {
				t.Skip("it is slow, and others show it")
			}
			buckettest.Run(t, func(t testing.TB) vault.Bucket { return New(services[service](t, quick), o) })
		})
	}
}

//go:build live

package azure_test

import (
	"os"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
)

// TestLive makes a round trip on a subscription of yours:
//
//	LIFEBOAT_AZURE_SUBSCRIPTION=... LIFEBOAT_AZURE_GROUP=lifeboat-test LIFEBOAT_AZURE_LOCATION=westeurope \
//	LIFEBOAT_AZURE_CONTAINER=https://ACCOUNT.blob.core.windows.net/lifeboat-test \
//	LIFEBOAT_AZURE_ACCOUNT=/subscriptions/.../storageAccounts/ACCOUNT \
//	LIFEBOAT_AZURE_DRILL_NETWORK=isolated LIFEBOAT_AZURE_YES=yes \
//	go test -tags live ./backend/azure -run TestLive$ -v -timeout 2h
//
// It logs in as azidentity's default credential does (az login, an environment
// variable, a managed identity). Group, container and network must be there: give
// it some of its own, and a network that reaches nothing. Without _YES=yes it only
// says what it would make, what that costs, and how to clean up. Also _SIZE.
func TestLive(t *testing.T) {
	env := func(name string) string { return os.Getenv("LIFEBOAT_AZURE_" + name) }
	if env("SUBSCRIPTION") == "" {
		t.Skip("LIFEBOAT_AZURE_SUBSCRIPTION is not set")
	}
	if env("YES") != "yes" {
		t.Logf(livePlan, env("GROUP"), env("SUBSCRIPTION"), env("LOCATION"), env("CONTAINER"), livePrefix, env("GROUP"), livePrefix)
		t.Fatal("LIFEBOAT_AZURE_YES=yes would agree to it")
	}
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	require.NoError(t, err)
	staging, err := container.NewClient(env("CONTAINER"), credential, nil)
	require.NoError(t, err)
	newLive(t, azure.Options{Subscription: env("SUBSCRIPTION"), Credential: credential, ResourceGroup: env("GROUP"), Location: env("LOCATION"),
		Staging: staging, StorageAccount: env("ACCOUNT"), DrillNetwork: env("DRILL_NETWORK")}).trip(azure.PlacementOptions{Size: env("SIZE")}, true)
}

//go:build live

package vmware

import (
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
)

// TestLive runs the whole suite on a vCenter of yours:
//
//	LIFEBOAT_VSPHERE_URL=https://vcenter.example/sdk \
//	LIFEBOAT_VSPHERE_USER=... LIFEBOAT_VSPHERE_PASSWORD=... \
//	LIFEBOAT_VSPHERE_VDDK=/opt/vmware-vix-disklib-distrib \
//	LIFEBOAT_VSPHERE_FOLDER=/DC/vm/lifeboat-test LIFEBOAT_VSPHERE_DATASTORE=scratch \
//	LIFEBOAT_VSPHERE_NETWORK=isolated \
//	go test -tags live ./backend/vmware -run TestLive -v -timeout 6h
//
// It makes small machines whose names begin with "lifeboat-live-", in that
// folder, and removes all of that name there, before and after: give it a folder
// of its own. It switches on nothing else, and reads nothing else. Also
// LIFEBOAT_VSPHERE_CA (a file of roots), _THUMBPRINT, _INSECURE=1, _DATACENTER,
// _CLUSTER, _HOST, _POOL.
func TestLive(t *testing.T) {
	env := func(name string) string { return os.Getenv("LIFEBOAT_VSPHERE_" + name) }
	if env("URL") == "" {
		t.Skip("LIFEBOAT_VSPHERE_URL is not set")
	}
	require.True(t, strings.HasPrefix(env("FOLDER"), "/"), "LIFEBOAT_VSPHERE_FOLDER must be the inventory path of a folder for these machines alone")
	u, err := url.Parse(env("URL"))
	require.NoError(t, err)
	o := Options{URL: u, User: env("USER"), Password: env("PASSWORD"), CAFile: env("CA"), Thumbprint: env("THUMBPRINT"), Insecure: env("INSECURE") == "1",
		Transports: []Transport{&VDDK{LibDir: env("VDDK")}}}
	backendtest.Run(t, liveHarness(t, o, PlaceOptions{Datacenter: env("DATACENTER"), Folder: env("FOLDER"), Cluster: env("CLUSTER"), Host: env("HOST"),
		ResourcePool: env("POOL"), Datastore: env("DATASTORE"), IsolatedNetwork: env("NETWORK")}))
}

package azure_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

// azureEnd is a subscription as a site. Restore points may be made as often as
// one likes, because the guest never rests.
func azureEnd(t *testing.T, name string) roundtriptest.End {
	limits := generous
	limits.CrashInterval, limits.ApplicationInterval = 1, 1
	r := newRig(t, azuretest.Options{Limits: limits})
	return roundtriptest.End{Harness: r.harness(t), Name: name, Clean: func(t *testing.T, _ dr.MachineID) {
		left, err := r.inventory(t)
		require.NoError(t, err)
		for _, x := range left {
			require.NotContains(t, x, "/snapshots/", "a snapshot is left that is no base")
			require.NotContains(t, x, "disks/lb-", "a blob of a replica is left")
		}
	}}
}

func memoryEnd(name string) roundtriptest.End {
	b := memory.New(memory.Options{Site: name})
	return roundtriptest.End{Harness: backendtest.Simulated(b, b), Name: name}
}

// The whole cycle, with Azure on either side and on both, and a guest that
// writes all the time. That between VMware and Azure is examples/vmware-to-azure.
func TestRoundTrip(t *testing.T) {
	for name, ends := range map[string]func(*testing.T) (home, far roundtriptest.End){
		"from Azure": func(t *testing.T) (roundtriptest.End, roundtriptest.End) {
			return azureEnd(t, "home"), memoryEnd("far")
		},
		"to Azure": func(t *testing.T) (roundtriptest.End, roundtriptest.End) {
			return memoryEnd("home"), azureEnd(t, "far")
		},
		"between subscriptions": func(t *testing.T) (roundtriptest.End, roundtriptest.End) {
			return azureEnd(t, "home"), azureEnd(t, "far")
		},
	} {
		t.Run(name, func(t *testing.T) {
			home, far := ends(t)
			roundtriptest.Run(t, home, far)
		})
	}
}

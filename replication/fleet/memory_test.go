package fleet_test

import (
	"testing"
	"time"

	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/fleet/fleettest"
)

func TestMemoryKeepsTheLeasesPromises(t *testing.T) {
	fleettest.Leases(t, fleettest.LeasesEnv{Open: func(fleettest.T) fleet.Leases { return &fleet.Memory{} }, TTL: 60 * time.Millisecond})
}

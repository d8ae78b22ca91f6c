package failover

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A machine that is gone doesn't run; of one at a site that this process
// doesn't know nobody can say so, though both are told as not found.
func TestStoppedOrUnknown(t *testing.T) {
	a := actions{&replication.Env{Sites: replication.Sites{"here": {Backend: memory.New(memory.Options{})}}}}
	at := dr.Place{Site: "here", Machine: "gone"}
	require.NoError(t, stopped(t.Context(), a.site(at).Backend, dr.TargetSide, at))
	at.Site = "elsewhere"
	require.ErrorIs(t, stopped(t.Context(), a.site(at).Backend, dr.TargetSide, at), dr.ErrNotFound)
}

// Whatever names protections and sites have, no two share a machine.
func TestKeysAreOfOneProtection(t *testing.T) {
	of := func(id dr.ProtectionID, site string) dr.Protection {
		return dr.Protection{ID: id, Standby: dr.Place{Site: site}, Version: 7}
	}
	keys := map[string]bool{}
	for _, p := range []dr.Protection{of("a", "b"), of("a/b", "c"), of("a", "b/c"), of("a", "b/7"), of("a%2Fb", "c")} {
		in := Input{To: p.Standby}
		in.Anew(p)
		for _, k := range []string{keyOf(p, p.Standby), in.Key} {
			require.False(t, keys[k], k)
			keys[k] = true
		}
	}
	require.NotEqual(t, testKey("a/b", "c"), testKey("a", "b/c"))
}

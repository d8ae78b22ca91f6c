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

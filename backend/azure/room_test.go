package azure_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Room says what Prepare would refuse, and makes nothing.
func TestRoom(t *testing.T) {
	r := newRig(t, azuretest.Options{Limits: azuretest.Limits{Cores: 3}})
	place := func(size string) backend.Placement {
		raw, err := json.Marshal(azure.PlacementOptions{Size: size})
		require.NoError(t, err)
		return backend.Placement{Key: "k", Machine: web(), Options: raw}
	}
	room := func(p backend.Placement) []backend.Problem {
		found, err := r.a.Room(t.Context(), p)
		require.NoError(t, err)
		return found
	}
	require.Empty(t, room(place("Standard_D2s_v5")))
	require.NoError(t, r.cloud.AddVM(sources, "busy", azuretest.VM{Size: "Standard_D2s_v5", Subnet: "prod/default"}))
	before := r.everything(t)
	found := room(place("Standard_D2s_v5"))
	require.Equal(t, before, r.everything(t))
	require.Len(t, found, 1)
	require.Equal(t, "quota", found[0].Code)
	require.True(t, found[0].Blocker)
	require.Contains(t, found[0].Text, "cores")
	require.NotEmpty(t, found[0].Remedy)
	for _, p := range []backend.Placement{place("Standard_None"), {Machine: web()}, {Key: "k", Options: json.RawMessage(`{"no-such":1}`)}} {
		found := room(p)
		require.Len(t, found, 1)
		require.Equal(t, "placement", found[0].Code)
	}
	_, err := r.a.Room(t.Context(), backend.Placement{Original: "gone"})
	require.ErrorIs(t, err, dr.ErrNotFound)
}

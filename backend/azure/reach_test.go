package azure_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// What the access actions do, Reach sees.
func TestReach(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id := r.started(t, "k", web())
	before := r.everything(t)
	got, err := r.a.Reach(t.Context(), id, "198.51.100.7", 22)
	require.NoError(t, err)
	require.Equal(t, before, r.everything(t))
	require.Equal(t, backend.Yes, got.Running.Answer)
	require.Equal(t, backend.No, got.PublicAddress.Answer)
	require.NotEmpty(t, got.Private)

	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id})
	require.NoError(t, err)
	got, err = r.a.Reach(t.Context(), id, "198.51.100.7", 22)
	require.NoError(t, err)
	require.Equal(t, backend.Yes, got.PublicAddress.Answer)
	require.NotEmpty(t, got.PublicAddress.Detail)
	require.Equal(t, backend.No, got.Allowed[22].Answer, "a Standard address without a group is closed")

	_, err = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "198.51.100.0/24"})
	require.NoError(t, err)
	got, err = r.a.Reach(t.Context(), id, "198.51.100.7", 22, 3389)
	require.NoError(t, err)
	require.Equal(t, backend.Yes, got.Allowed[22].Answer, "%+v", got)
	require.Equal(t, backend.No, got.Allowed[3389].Answer)

	_, err = r.a.Reach(t.Context(), id, "somewhere", 22)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

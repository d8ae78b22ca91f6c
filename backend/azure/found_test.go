package azure_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A replica that has its machine is found without being told again where its
// cards go, and in which zone it is: the commit of a failback asks for it as the
// machine is described, with the networks of this platform, which nothing maps,
// and without options.
func TestAMachineThatIsThereIsFoundWhateverItsNetworks(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	r.opts.Network = ""
	r.a = r.open(t)
	ctx := t.Context()
	p := backend.Placement{Key: "found", Networks: map[string]string{"home": "prod/default"}, Options: []byte(`{"zone": "1"}`),
		Machine: dr.Machine{ID: "m", Name: "m", Disks: []dr.Disk{{ID: "os", Size: 4 << 20, Boot: true}}, NICs: []dr.NIC{{ID: "a", Network: "home", DHCP: true}}}}
	made, err := r.a.Prepare(ctx, p)
	require.NoError(t, err)
	require.NoError(t, r.a.Start(ctx, made.ID))
	require.NoError(t, r.a.Stop(ctx, made.ID))
	m, err := r.a.Machine(ctx, made.ID)
	require.NoError(t, err)
	require.Equal(t, "prod/default", m.NICs[0].Network)

	found, err := r.a.Prepare(ctx, backend.Placement{Key: "found", Machine: m})
	require.NoError(t, err)
	require.Equal(t, made.ID, found.ID)
	was, err := r.a.PlacementOf(ctx, made.ID)
	require.NoError(t, err)
	require.JSONEq(t, string(p.Options), string(was.Options), "what it was made with is not forgotten")
	require.Equal(t, p.Networks, was.Networks)
	require.Equal(t, p.Machine.NICs, was.Machine.NICs)
}

package azure_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// generous lets the suites make what they want: quotas are tested elsewhere.
var generous = azuretest.Limits{Cores: -1, FamilyCores: map[string]int{"standardDSv5Family": 1 << 20}}

// The whole contract again where disks are uploaded to directly.
func TestContractWithDirectUpload(t *testing.T) {
	r := newRig(t, azuretest.Options{Limits: generous})
	h := r.harness(t)
	h.Place = func(p backend.Placement) backend.Placement {
		if p.Options == nil && p.Original == "" {
			p.Options = []byte(`{"upload":"direct"}`)
		}
		return p
	}
	h.Histories = 3
	backendtest.Run(t, h)
}

// A commit that took effect, though its answer was lost for good, is not undone
// by closing the draft: the uploaded disk is the machine's by then.
func TestCloseBehindACommitThatTookEffect(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	p := dr.Point{ID: "p", Time: time.Unix(1, 0).UTC(), Consistency: dr.CrashConsistent,
		Machine: dr.Machine{ID: "m", Name: "app", Disks: []dr.Disk{{ID: "d", Size: 1 << 20, Boot: true}}}}
	rep, err := r.a.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine, Options: []byte(`{"upload":"direct"}`)})
	require.NoError(t, err)
	d, err := r.a.Draft(t.Context(), rep.ID, p)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "d", []byte("kept"), 512)
	require.NoError(t, err)
	record := "/machines/" + string(rep.ID) + ".json"
	done := false
	r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if !strings.HasSuffix(c.Path, record) {
			return nil
		}
		if c.Method == "PUT" {
			done = true
			return &azuretest.Fault{Lost: true, Effect: true}
		}
		if done { // nor does it learn what became of it
			return &azuretest.Fault{Lost: true}
		}
		return nil
	})
	require.Error(t, d.Commit(t.Context(), p))
	r.cloud.OnCall(nil)
	require.NoError(t, d.Close())
	again, err := r.a.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: rep.ID, Holds: "p"}, again)
	got := make([]byte, 4)
	require.NoError(t, r.read(rep.ID, "d", got, 512))
	require.Equal(t, "kept", string(got))
}

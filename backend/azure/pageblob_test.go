package azure_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/azure/pageblob"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// The whole cycle with points on page blobs, which Azure makes machines of by
// itself.
func TestRoundTripOnPageBlobs(t *testing.T) {
	limits := generous
	limits.CrashInterval, limits.ApplicationInterval = 1, 1
	r := newRig(t, azuretest.Options{Limits: limits})
	points, err := r.cloud.Blobs().Container(t.Context(), "staging", "points")
	require.NoError(t, err)
	far := roundtriptest.End{Harness: r.harness(t), Name: "far", Points: pageblob.New(points, pageblob.Options{BytesPerSecond: -1, RequestsPerSecond: -1})}
	roundtriptest.Run(t, memoryEnd("home"), far)
}

// A point becomes a machine without a byte of a disk passing through us, and
// the machine has exactly its bytes.
func TestAPointOnPageBlobsIsAdopted(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	points, err := r.cloud.Blobs().Container(t.Context(), "staging", "points")
	require.NoError(t, err)
	store := pageblob.New(points, pageblob.Options{BytesPerSecond: -1, RequestsPerSecond: -1})
	at := replication.Site{Backend: r.a, Points: store}

	content := make([]byte, 3<<20+512)
	_, err = rand.NewChaCha8([32]byte{7}).Read(content)
	require.NoError(t, err)
	p := dr.Point{ID: "p", Time: time.Unix(1, 0).UTC(), Consistency: dr.CrashConsistent,
		Machine: dr.Machine{ID: "m", Name: "app", Disks: []dr.Disk{{ID: "d", Size: int64(len(content)), Boot: true}}}}
	d, err := store.Create(t.Context(), p)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "d", content, 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), p))
	require.NoError(t, d.Close())
	require.NoError(t, store.Process(t.Context(), "m"))

	rep, err := r.a.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	report, err := replication.Hydrate(t.Context(), at, rep, "m", "p", dr.Point{}, replication.CopyOptions{})
	require.NoError(t, err)
	require.True(t, report.Adopted)
	require.Zero(t, report.Written)
	require.NoError(t, r.a.Start(t.Context(), rep.ID))
	require.NoError(t, r.a.Stop(t.Context(), rep.ID))
	got := make([]byte, len(content))
	require.NoError(t, r.read(rep.ID, "d", got, 0))
	require.True(t, bytes.Equal(content, got))
}

// A copy that nobody waits for any more is ended: else its blob couldn't be
// deleted, and would be written to for as long as it takes.
func TestACopyThatIsGivenUpIsEnded(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	slow := azuretest.NewBlobs(azuretest.BlobOptions{CopyPolls: 1 << 30})
	t.Cleanup(slow.Close)
	var err error
	r.container, err = slow.Container(t.Context(), "staging", "lifeboat")
	require.NoError(t, err)
	r.opts.Staging = r.container
	r.a = r.open(t)
	points, err := slow.Container(t.Context(), "staging", "points")
	require.NoError(t, err)
	store := pageblob.New(points, pageblob.Options{})
	p := dr.Point{ID: "p", Time: time.Unix(1, 0).UTC(), Consistency: dr.CrashConsistent,
		Machine: dr.Machine{ID: "m", Name: "app", Disks: []dr.Disk{{ID: "d", Size: 1 << 20, Boot: true}}}}
	d, err := store.Create(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), p))
	require.NoError(t, store.Process(t.Context(), "m"))
	img, err := store.Open(t.Context(), "m", "p")
	require.NoError(t, err)
	rep, err := r.a.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	draft, err := r.a.Draft(t.Context(), rep.ID, p)
	require.NoError(t, err)
	a, ok := dr.As[dr.Adopter](draft)
	require.True(t, ok)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = a.Adopt(ctx, img)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	left, err := r.inventory(t)
	require.NoError(t, err)
	for _, name := range left {
		require.NotContains(t, name, ".vhd")
	}
}

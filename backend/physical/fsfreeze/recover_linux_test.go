package fsfreeze_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// sites are a machine that runs here, and the place where its points are
// recovered.
type sites struct {
	host, away *physical.Host
	root       string // of away
}

func newSites(t testing.TB, cfg physical.Config) *sites {
	t.Helper()
	s := &sites{root: t.TempDir()}
	cfg.Root = t.TempDir()
	var err error
	s.host, err = physical.Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.host.Close()) })
	s.away, err = physical.Open(physical.Config{Root: s.root})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.away.Close()) })
	return s
}

// recover captures the machine, as it runs, and returns the copy of its disk
// "d": an image file.
func (s *sites) recover(t testing.TB, name dr.PointID, want dr.Consistency) (dr.Point, string) {
	t.Helper()
	img, err := s.host.Capture(t.Context(), "m", name, want)
	require.NoError(t, err)
	r, err := s.away.Prepare(t.Context(), backend.Placement{Key: string(name), Machine: img.Point().Machine})
	require.NoError(t, err)
	draft, err := s.away.Draft(t.Context(), r.ID, img.Point())
	require.NoError(t, err)
	report, err := replication.Copy(t.Context(), draft, img, replication.CopyOptions{})
	require.NoError(t, err)
	require.NoError(t, draft.Close())
	p := img.Point()
	frozen, _ := dr.As[physical.Freezes](img)
	require.NoError(t, img.Close())
	_, err = s.host.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.NoError(t, s.host.Release(t.Context(), "m", name))
	t.Logf("%s: %v, frozen for %v, copied in %v", name, p.Consistency, frozen.Frozen(), report.Took)
	require.Positive(t, frozen.Frozen())
	return p, filepath.Join(s.root, string(r.ID), "d.img")
}

package replication_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// An attack that nobody looks at for long must not cost the last clean points.
func TestRetentionLeavesWhatIsFromBeforeSuspicion(t *testing.T) {
	begin := time.Date(2026, 5, 6, 7, 0, 0, 0, time.UTC)
	s := memstore.New(memstore.Options{})
	parent := dr.PointID("")
	for i := range 8 {
		p := dr.Point{ID: dr.PointID(fmt.Sprint(i)), Parent: parent, Time: begin.Add(time.Duration(i) * time.Hour), Machine: dr.Machine{ID: "vm", Disks: []dr.Disk{{ID: "d", Size: 512}}}}
		p.Changes = dr.ChangeStats{Complete: true, Blocks: 1000, Known: 1000, Over: 1000}
		if i == 3 {
			p.Changes.Turned, p.Changes.Grown = 900, 1<<24
		}
		d, err := s.Create(t.Context(), p)
		require.NoError(t, err)
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
		parent = p.ID
	}
	r := &record{replication.New("p", dr.Place{Site: "home", Machine: "vm"}, "away")}
	r.p.State = dr.Protected
	env := &replication.Env{Records: r, Now: func() time.Time { return begin.AddDate(1, 0, 0) }, Sites: replication.Sites{
		"home": {Backend: memory.New(memory.Options{}), Points: memstore.New(memstore.Options{})},
		"away": {Backend: memory.New(memory.Options{}), Points: s},
	}}
	policy := recoverypoint.Policy{Keep: 30 * time.Minute}
	for range 2 {
		_, err := env.Expire(t.Context(), "p", policy)
		require.NoError(t, err)
		var left []dr.PointID
		for p, err := range s.List(t.Context(), "vm") {
			require.NoError(t, err)
			left = append(left, p.ID)
		}
		require.Equal(t, []dr.PointID{"0", "1", "2", "3", "7"}, left)
	}
	r.p.Expiring = []dr.PointID{"long gone"} // by a process that died before it could say so
	_, err := env.Expire(t.Context(), "p", policy)
	require.NoError(t, err)
	require.Empty(t, r.p.Expiring)
	r.p.Accept("3", "someone")
	gone, err := env.Expire(t.Context(), "p", policy)
	require.NoError(t, err)
	require.Equal(t, []dr.PointID{"0", "1", "2", "3"}, gone, "accepted: retention goes on")
	require.Empty(t, r.p.Accepted, "and forgets what it has deleted")
}

// A process whose clock is ahead, or a platform whose clock is behind, must not cost all
// recovery points but one.
func TestRetentionByAWrongClock(t *testing.T) {
	begin := time.Date(2026, 5, 6, 7, 0, 0, 0, time.UTC)
	s := memstore.New(memstore.Options{})
	for i := range 100 {
		p := dr.Point{ID: dr.PointID(fmt.Sprintf("%02d", i)), Time: begin.Add(time.Duration(i) * time.Hour), Machine: dr.Machine{ID: "vm", Disks: []dr.Disk{{ID: "d", Size: 512}}}}
		d, err := s.Create(t.Context(), p)
		require.NoError(t, err)
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
	}
	r := &record{replication.New("p", dr.Place{Site: "home", Machine: "vm"}, "away")}
	r.p.State = dr.Protected
	now := begin.Add(99*time.Hour + time.Minute)
	env := &replication.Env{Records: r, Now: func() time.Time { return now }, Sites: replication.Sites{"away": {Points: s}}}
	for _, wrong := range []time.Duration{0, 30 * 24 * time.Hour, -48 * time.Hour} {
		now = begin.Add(99*time.Hour + time.Minute + wrong)
		_, err := env.Expire(t.Context(), "p", recoverypoint.Policy{Keep: 72 * time.Hour})
		require.NoError(t, err)
		n := 0
		for _, err := range s.List(t.Context(), "vm") {
			require.NoError(t, err)
			n++
		}
		require.Equal(t, 73, n, "%v", wrong)
	}
}

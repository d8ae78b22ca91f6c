package replication_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// record is one protection's.
type record struct{ p dr.Protection }

func (r *record) Load(context.Context, dr.ProtectionID) (dr.Protection, error) { return r.p, nil }
func (r *record) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	p.Version++
	r.p = p
	return p, nil
}

// The record tells the newest point, whatever the source's clock says.
func TestReplicateRecordsTheLastPointWhenClocksGoBack(t *testing.T) {
	now := time.Date(2026, 3, 29, 2, 59, 0, 0, time.UTC)
	w := newWorld(t, memory.Options{Now: func() time.Time { return now }}, memory.Options{}, memstore.Options{})
	r := &record{replication.New("p", dr.Place{Site: "home", Machine: "vm"}, "away")}
	r.p.State = dr.Protected
	env := &replication.Env{Records: r, Now: func() time.Time { return now }, Sites: replication.Sites{
		"home": {Backend: w.home, Points: memstore.New(memstore.Options{})},
		"away": {Backend: w.away, Points: w.store},
	}}
	for _, step := range []time.Duration{time.Minute, -time.Hour, time.Minute, -time.Minute} {
		now = now.Add(step)
		rep, err := env.Replicate(t.Context(), "p", dr.CrashConsistent, nil)
		require.NoError(t, err)
		require.Equal(t, rep.Point.ID, r.p.Last.ID, "after a step of %v", step)
	}
}

// A machine whose protection has a name that agents refuse is not protected in
// the first place.
func TestProtectionThatNoAgentWouldTake(t *testing.T) {
	for id, ok := range map[dr.ProtectionID]bool{"web": true, "mv1/app1": true, "": false, "\xff": false,
		dr.ProtectionID(strings.Repeat("x", dr.MaxProtectionID)): true, dr.ProtectionID(strings.Repeat("x", dr.MaxProtectionID+1)): false} {
		_, err := replication.Protect(replication.New(id, dr.Place{Site: "berlin", Machine: "web"}, "bonn"))
		if ok {
			require.NoError(t, err, "%q", id)
		} else {
			require.ErrorIs(t, err, dr.ErrInvalid, "%q", id)
		}
	}
}

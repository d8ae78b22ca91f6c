package enginetest

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ability finds an ability, or skips the promise.
func ability[A any](t T, v any) A {
	a, ok := dr.As[A](v)
	if !ok {
		t.Skipf("%T hasn't this ability", v)
	}
	return a
}

// claimAbilities are the promises of those claims that can be listed, raised
// and seized.
var claimAbilities = []claimPromise{
	{"all that was ever claimed is listed, by resource", func(t T, c dr.Claims) {
		l := ability[dr.ClaimLister](t, c)
		for _, m := range []string{"m/b", "m/c", "M/a", "m/ä"} {
			_, err := c.Acquire(t.Context(), m, "of "+m)
			require.NoError(t, err)
		}
		require.NoError(t, c.Release(t.Context(), "m/b", "of m/b"))
		want := []dr.Claim{{Resource: "M/a", Owner: "of M/a", Epoch: 1}, {Resource: "m/b", Epoch: 1}, {Resource: "m/c", Owner: "of m/c", Epoch: 1}, {Resource: "m/ä", Owner: "of m/ä", Epoch: 1}}
		for i := range want {
			if want[i].Owner == "" {
				continue
			}
			epoch, err := c.Acquire(t.Context(), want[i].Resource, want[i].Owner)
			require.NoError(t, err)
			want[i].Epoch = epoch
		}
		var got []dr.Claim
		for claim, err := range l.Claims(t.Context()) {
			require.NoError(t, err)
			require.NotZero(t, claim.Epoch)
			if claim.Owner == "" {
				claim.Epoch = 1
			}
			got = append(got, dr.Claim{Resource: claim.Resource, Owner: claim.Owner, Epoch: claim.Epoch})
		}
		require.Equal(t, want, got)
	}},
	{"epochs that are raised stay so, and none is lowered", func(t T, c dr.Claims) {
		r := ability[dr.EpochRaiser](t, c)
		require.NoError(t, r.Raise(t.Context(), "m", 41))
		require.NoError(t, r.Raise(t.Context(), "m", 41))
		require.NoError(t, r.Raise(t.Context(), "m", 7))
		epoch, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.Greater(t, epoch, uint64(41))
	}},
	{"a holder's epoch is not raised under it", func(t T, c dr.Claims) {
		r := ability[dr.EpochRaiser](t, c)
		epoch, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.NoError(t, r.Raise(t.Context(), "m", epoch), "that raises nothing")
		err = r.Raise(t.Context(), "m", epoch+1)
		require.ErrorIs(t, err, dr.ErrBusy)
		require.ErrorContains(t, err, "alice")
		again, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.Equal(t, epoch, again)
	}},
	{"only what was seen is seized, under the next epoch", func(t T, c dr.Claims) {
		s := ability[dr.ClaimSeizer](t, c)
		_, err := s.Seize(t.Context(), "m", "alice", "carol")
		require.ErrorIs(t, err, dr.ErrConflict, "nobody holds it")
		epoch, err := c.Acquire(t.Context(), "m", "bob")
		require.NoError(t, err)
		_, err = s.Seize(t.Context(), "m", "alice", "carol")
		require.ErrorIs(t, err, dr.ErrConflict)
		require.ErrorContains(t, err, "bob")
		_, err = s.Seize(t.Context(), "m", "", "carol")
		require.ErrorIs(t, err, dr.ErrInvalid)
		seized, err := s.Seize(t.Context(), "m", "bob", "carol")
		require.NoError(t, err)
		require.Greater(t, seized, epoch)
		again, err := c.Acquire(t.Context(), "m", "carol")
		require.NoError(t, err)
		require.Equal(t, seized, again)
		require.NoError(t, c.Release(t.Context(), "m", "bob"))
		_, err = c.Acquire(t.Context(), "m", "bob")
		require.ErrorIs(t, err, dr.ErrBusy)
	}},
	{"what is seized for nobody is free, and its epoch is used", func(t T, c dr.Claims) {
		s := ability[dr.ClaimSeizer](t, c)
		epoch, err := c.Acquire(t.Context(), "m", "bob")
		require.NoError(t, err)
		seized, err := s.Seize(t.Context(), "m", "bob", "")
		require.NoError(t, err)
		require.Greater(t, seized, epoch)
		next, err := c.Acquire(t.Context(), "m", "bob")
		require.NoError(t, err)
		require.Greater(t, next, seized)
	}},
}

// recordAbilities are the promises of those records that can be imported.
var recordAbilities = []recordPromise{
	{"an imported record is as it was, its version too", func(t T, r dr.Records) {
		i := ability[dr.RecordImporter](t, r)
		p := full()
		p.Version = 41
		require.NoError(t, i.Import(t.Context(), p))
		require.NoError(t, i.Import(t.Context(), p), "again it is the same")
		loaded, err := r.Load(t.Context(), p.ID)
		require.NoError(t, err)
		require.Equal(t, p, loaded)
		saved, err := r.Save(t.Context(), loaded)
		require.NoError(t, err)
		require.Greater(t, saved.Version, uint64(41))
	}},
	{"an import raises versions and epochs, and lowers neither", func(t T, r dr.Records) {
		i := ability[dr.RecordImporter](t, r)
		p := dr.Protection{ID: "p", Version: 5, Epoch: 7, Name: "old"}
		require.NoError(t, i.Import(t.Context(), p))
		p.Version, p.Name = 6, "new"
		require.NoError(t, i.Import(t.Context(), p))
		q := p
		q.Name = "another"
		require.ErrorIs(t, i.Import(t.Context(), q), dr.ErrConflict)
		q.Version = 5
		require.ErrorIs(t, i.Import(t.Context(), q), dr.ErrConflict)
		q.Version, q.Epoch = 9, 6
		require.ErrorIs(t, i.Import(t.Context(), q), dr.ErrFenced)
		loaded, err := r.Load(t.Context(), "p")
		require.NoError(t, err)
		require.Equal(t, p, loaded)
		require.ErrorIs(t, i.Import(t.Context(), dr.Protection{ID: "q"}), dr.ErrInvalid, "it was never saved")
		require.ErrorIs(t, i.Import(t.Context(), dr.Protection{Version: 1}), dr.ErrInvalid)
	}},
	{"who has loaded before an import saves no more", func(t T, r dr.Records) {
		i := ability[dr.RecordImporter](t, r)
		mine, err := r.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
		require.NoError(t, i.Import(t.Context(), dr.Protection{ID: "p", Version: mine.Version + 3}))
		_, err = r.Save(t.Context(), mine)
		require.ErrorIs(t, err, dr.ErrConflict)
	}},
}

package enginetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Records tests that records keep their promises. open returns records that
// are empty. Abilities that they have are tested, too.
func Records(t *testing.T, open func(t T) dr.Records) {
	for _, p := range slices.Concat(recordPromises, recordAbilities) {
		t.Run(p.name, func(t *testing.T) { p.check(t, open(t)) })
	}
}

type recordPromise struct {
	name  string
	check func(T, dr.Records)
}

var recordPromises = []recordPromise{
	{"what is not there is not found", func(t T, r dr.Records) {
		_, err := r.Load(t.Context(), "p")
		require.ErrorIs(t, err, dr.ErrNotFound)
	}},
	{"what was saved is loaded", func(t T, r dr.Records) {
		p := full()
		saved, err := r.Save(t.Context(), p)
		require.NoError(t, err)
		require.NotEqual(t, p.Version, saved.Version)
		p.Version = saved.Version
		require.Equal(t, p, saved)
		loaded, err := r.Load(t.Context(), p.ID)
		require.NoError(t, err)
		require.Equal(t, p, loaded)
	}},
	{"the record shares nothing with its callers", func(t T, r dr.Records) {
		p := full()
		saved, err := r.Save(t.Context(), p)
		require.NoError(t, err)
		p.Pins["p1"], saved.Pins["p1"] = "me", "me"
		loaded, err := r.Load(t.Context(), p.ID)
		require.NoError(t, err)
		loaded.Pins["p1"] = "me"
		loaded, err = r.Load(t.Context(), p.ID)
		require.NoError(t, err)
		require.Equal(t, full().Pins, loaded.Pins)
	}},
	{"a save over somebody else's is a conflict", func(t T, r dr.Records) {
		mine, err := r.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
		theirs, err := r.Save(t.Context(), mine)
		require.NoError(t, err)
		require.NotEqual(t, mine.Version, theirs.Version)
		mine.Name = "lost"
		_, err = r.Save(t.Context(), mine)
		require.ErrorIs(t, err, dr.ErrConflict)
		loaded, err := r.Load(t.Context(), "p")
		require.NoError(t, err)
		require.Equal(t, theirs, loaded)
	}},
	{"version 0 says that there is none yet, others that there is", func(t T, r dr.Records) {
		_, err := r.Save(t.Context(), dr.Protection{ID: "p", Version: 1})
		require.ErrorIs(t, err, dr.ErrConflict)
		_, err = r.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
		_, err = r.Save(t.Context(), dr.Protection{ID: "p"})
		require.ErrorIs(t, err, dr.ErrConflict)
	}},
	{"an older epoch is fenced", func(t T, r dr.Records) {
		p, err := r.Save(t.Context(), dr.Protection{ID: "p", Epoch: 7})
		require.NoError(t, err)
		p.Epoch = 6
		_, err = r.Save(t.Context(), p)
		require.ErrorIs(t, err, dr.ErrFenced)
		p.Epoch = 8
		_, err = r.Save(t.Context(), p)
		require.NoError(t, err)
	}},
	{"of many who save at once one does", func(t T, r dr.Records) {
		p, err := r.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
		ctx := context.WithoutCancel(t.Context())
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = r.Save(ctx, p) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				require.True(t, errors.Is(err, dr.ErrConflict), "%v", err)
			}
		}
		require.Equal(t, 1, won)
	}},
	{"all are listed, by ID", func(t T, r dr.Records) {
		l, ok := dr.As[dr.RecordLister](r)
		if !ok {
			t.Skipf("it can't list records")
		}
		for _, id := range []dr.ProtectionID{"b", "c", "a"} {
			_, err := r.Save(t.Context(), dr.Protection{ID: id, Name: "n" + string(id)})
			require.NoError(t, err)
		}
		var ids []dr.ProtectionID
		for p, err := range l.Protections(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, "n"+string(p.ID), p.Name)
			ids = append(ids, p.ID)
		}
		require.Equal(t, []dr.ProtectionID{"a", "b", "c"}, ids)
	}},
}

// full is a record with something in every field.
func full() dr.Protection {
	at := time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)
	pt := dr.Point{ID: "p1", Machine: dr.Machine{ID: "m1", Disks: []dr.Disk{{ID: "d0", Size: 1 << 40}}}, Time: at,
		Consistency: dr.CrashConsistent}
	return dr.Protection{ID: "p", Name: "büro/1", Home: "berlin", Active: dr.Place{Site: "berlin", Machine: "m1"},
		Standby: dr.Place{Site: "bonn", Machine: "m2"}, State: dr.FailedOver, Replication: dr.ReplicationPaused,
		Test:     &dr.TestFailover{Run: "t", State: dr.TestRunning, Place: dr.Place{Site: "bonn"}, Point: "p1", Started: at},
		Failover: &dr.Failover{Run: "f", Kind: "planned-failover", From: dr.Protected, Point: pt, At: at, Loss: dr.Loss{Age: time.Minute, Unreplicated: -1}, Stopped: true},
		Last:     pt, Common: pt, Pins: map[dr.PointID]string{"p1": "f"}, Accepted: map[dr.PointID]string{"p0": "someone"}, Applied: "f/step", Epoch: 3,
		Upkeep: dr.Upkeep{Failures: 2, Tried: at, Until: at, Err: "gone", Permanent: true, Asked: at}}
}

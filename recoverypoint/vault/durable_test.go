package vault_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// What one operation failed to do may be seen all the same, and be gone after a
// power cut: nothing that is told to be there may rest on it.
func TestPowerCutAfterAnErrorAtEveryOperation(t *testing.T) {
	seed := newSeed(t)
	steps := story(seed)
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		disk.Inject(crashfs.Fault{N: n, Err: syscall.EIO, Torn: true})
		var v *vault.Store
		for done := 0; done < len(steps); {
			var err error
			if v == nil {
				v, err = vault.Open(t.Context(), vault.NewDir(disk, "/v"), smallVault)
			}
			if err == nil {
				var more int
				more, err = play(t.Context(), v, steps[done:])
				done += more
			}
			if err != nil {
				require.ErrorIs(t, err, syscall.EIO, "error at %d", n)
			}
		}
		if disk.Fired() == 0 {
			break
		}
		found := disk.Restart()
		check(t, open(t, found, "/v", smallVault), steps, len(steps))
		if t.Failed() {
			t.Fatalf("error at %d", n)
		}
	}
}

// A process is killed, another goes on with what it sees, and then the power
// is cut: what the first had not made durable the second must have.
func TestPowerCutAfterAKillAtEveryOperation(t *testing.T) {
	seed := newSeed(t)
	steps := story(seed)
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		first := crashfs.NewProcess(disk, n, seed+uint64(n))
		done := 0
		v, err := vault.Open(t.Context(), vault.NewDir(first, "/v"), smallVault)
		if err == nil {
			done, err = play(t.Context(), v, steps)
		}
		if !first.Dead() {
			require.NoError(t, err)
			break
		}
		v = open(t, disk, "/v", smallVault)
		check(t, v, steps, done)
		_, err = play(t.Context(), v, steps[done:])
		require.NoError(t, err, "killed at %d", n)
		check(t, open(t, disk.Restart(), "/v", smallVault), steps, len(steps))
		if t.Failed() {
			t.Fatalf("killed at %d", n)
		}
	}
}

// What was done, but could not be made durable, is so when it is seen or done
// again without an error.
func TestFolderBucketMakesDurableWhatAnErrorLeft(t *testing.T) {
	for seed := range uint64(20) {
		disk := crashfs.New(seed)
		b := vault.NewDir(disk, "/v")
		ctx := t.Context()
		failing := func(do func() error) {
			disk.Inject(crashfs.Fault{Match: func(o crashfs.Op) bool { return o.Kind == crashfs.SyncDir }, Err: syscall.EIO})
			require.ErrorIs(t, do(), syscall.EIO)
		}
		require.NoError(t, putObject(ctx, b, "a/gone", "x"))
		require.NoError(t, putObject(ctx, b, "b/first", "x"))
		v, err := b.SwapHead(ctx, "head/m", "", []byte("1"))
		require.NoError(t, err)

		failing(func() error { return b.Delete(ctx, "a/gone") })
		require.NoError(t, b.Delete(ctx, "a/gone"))
		failing(func() error { return putObject(ctx, b, "b/seen", "x") })
		require.NoError(t, b.(vault.Syncer).Sync(ctx, "b/see"))
		failing(func() error { _, err := b.SwapHead(ctx, "head/m", v, []byte("2")); return err })
		data, _, err := b.ReadHead(ctx, "head/m")
		require.NoError(t, err)
		require.Equal(t, "2", string(data))

		found := vault.NewDir(disk.Restart(), "/v")
		var names []string
		for o, err := range found.List(ctx, "") {
			require.NoError(t, err)
			names = append(names, o.Name)
		}
		require.Equal(t, []string{"b/first", "b/seen", "head/m"}, names, "seed %d", seed)
		data, _, err = found.ReadHead(ctx, "head/m")
		require.NoError(t, err)
		require.Equal(t, "2", string(data), "seed %d", seed)
	}
}

func putObject(ctx context.Context, b vault.Bucket, name, data string) error {
	w, err := b.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.WriteAt([]byte(data), 0); err != nil {
		return err
	}
	return w.Commit(ctx)
}

// tale is a random life: points over any earlier one, of disks that come, go,
// grow and shrink to any byte, deletions and prunes.
func tale(seed uint64) []step {
	rng := rand.New(rand.NewPCG(seed, 4))
	var steps []step
	there := map[dr.PointID]content{}
	var ids []dr.PointID
	size := func(most int64) int64 {
		return max(1, rng.Int64N(most)*chunk+[]int64{0, 0, 1, -1, 512, -512, 1000}[rng.IntN(7)])
	}
	for n := range 7 {
		if len(ids) > 1 && rng.IntN(3) == 0 {
			id := ids[rng.IntN(len(ids))]
			ids = without(ids, id)
			steps = append(steps, step{"delete " + string(id), func(ctx context.Context, v *vault.Store) error { return v.Delete(ctx, "m", id) },
				func(all map[dr.PointID]content) { delete(all, id) }})
		}
		if rng.IntN(3) == 0 {
			steps = append(steps, step{"prune", func(ctx context.Context, v *vault.Store) error { _, err := v.Prune(ctx); return err }, func(map[dr.PointID]content) {}})
		}
		var parent dr.PointID
		if len(ids) > 0 && rng.IntN(6) > 0 {
			parent = ids[len(ids)-1-rng.IntN(min(2, len(ids)))]
		}
		sizes := map[dr.DiskID]int64{"a": size(9)}
		if rng.IntN(3) > 0 {
			sizes["b"] = size(4)
		}
		if rng.IntN(3) == 0 {
			sizes["c"] = 510*chunk + size(4) // about a leaf's end
		}
		p := planPoint(rng, dr.PointID(fmt.Sprint(n)), parent, there[parent], sizes, 1+rng.IntN(5))
		ids = append(ids, p.point.ID)
		there[p.point.ID] = p.want
		steps = append(steps, step{"commit " + string(p.point.ID), p.apply, func(all map[dr.PointID]content) { all[p.point.ID] = p.want }})
	}
	return steps
}

// TestManyDeaths kills the process at any change, again and again, lets its disk
// fail it, and cuts the power every now and then: what was done stays done, and what was begun goes
// on or begins anew.
func TestManyDeaths(t *testing.T) {
	seed := newSeed(t)
	for run := range lives() {
		rng := rand.New(rand.NewPCG(seed+run, 5))
		steps := tale(seed + run)
		disk := crashfs.New(seed + run)
		o := smallVault
		if rng.IntN(3) == 0 {
			o.Keys = fastKey{}
		}
		said := ""
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("-seed=%d: %s", seed+run, said)
			}
		})
		for done := 0; done < len(steps); {
			p := crashfs.NewProcess(disk, 1+rng.IntN([]int{10, 40, 120, 500}[rng.IntN(4)]), rng.Uint64())
			var alive atomic.Bool
			alive.Store(true)
			for range rng.IntN(3) {
				disk.Inject(crashfs.Fault{N: 1 + rng.IntN(300), Match: func(crashfs.Op) bool { return alive.Load() }, Err: syscall.EIO, Torn: true})
			}
			v, err := vault.Open(t.Context(), vault.NewDir(p, "/v"), o)
			for err == nil {
				var more int
				more, err = play(t.Context(), v, steps[done:])
				if done += more; err == nil {
					break
				}
				said += fmt.Sprintf("after step %d: %v; ", done, err)
				if errors.Is(err, syscall.EIO) && !p.Dead() {
					err = nil // it tries again
				}
			}
			alive.Store(false)
			require.True(t, err == nil || p.Dead() || errors.Is(err, syscall.EIO), "%v", err)
			if rng.IntN(3) == 0 {
				said += "power cut; "
				disk = disk.Restart()
			}
			if rng.IntN(3) == 0 {
				if _, err := vault.NewDir(disk, "/v").ReadAt(t.Context(), "vault", make([]byte, 1), 0); err == nil {
					check(t, open(t, disk, "/v", o), steps, done)
				}
			}
		}
		disk = disk.Restart()
		v := open(t, disk, "/v", o)
		check(t, v, steps, len(steps))
		// With the last point the last byte goes.
		for id := range after(steps, len(steps)) {
			require.NoError(t, v.Delete(t.Context(), "m", id))
		}
		_, err := v.Prune(t.Context())
		require.NoError(t, err)
		for d, err := range v.Scrub(t.Context()) {
			require.NoError(t, err)
			require.Fail(t, "damage", "%+v", d)
		}
		for o, err := range vault.NewDir(disk, "/v").List(t.Context(), "") {
			require.NoError(t, err)
			require.Contains(t, []string{"vault", "head/m"}, o.Name)
		}
	}
}

var deaths = flag.Int("deaths", 25, "how many histories TestManyDeaths lives through")

// lives is how many that are, less where tests are to be short.
func lives() uint64 {
	if testing.Short() {
		return uint64(min(*deaths, 5))
	}
	return uint64(*deaths)
}

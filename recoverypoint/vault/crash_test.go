package vault_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

var seedFlag = flag.Uint64("seed", 0, "repeat the random tests of this seed; 0: a new one")

func newSeed(t testing.TB) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	return seed
}

// step is one thing that a user of the vault does.
type step struct {
	name   string
	do     func(ctx context.Context, v *vault.Store) error
	effect func(points map[dr.PointID]content)
}

// story is a life of a vault: points that grow, shrink and lose disks, deleted
// and pruned so that segments die and are rewritten.
func story(seed uint64) []step {
	rng := rand.New(rand.NewPCG(seed, 1))
	var steps []step
	add := func(p plan) content {
		steps = append(steps, step{"commit " + string(p.point.ID), p.apply, func(all map[dr.PointID]content) { all[p.point.ID] = p.want }})
		return p.want
	}
	remove := func(id dr.PointID) {
		steps = append(steps, step{"delete " + string(id), func(ctx context.Context, v *vault.Store) error { return v.Delete(ctx, "m", id) },
			func(all map[dr.PointID]content) { delete(all, id) }})
	}
	prune := func() {
		steps = append(steps, step{"prune", func(ctx context.Context, v *vault.Store) error { _, err := v.Prune(ctx); return err }, func(map[dr.PointID]content) {}})
	}
	one := add(planPoint(rng, "1", "", nil, map[dr.DiskID]int64{"a": 7*chunk + 1000, "b": 600 * chunk}, 6))
	two := add(planPoint(rng, "2", "1", one, map[dr.DiskID]int64{"a": 9*chunk + 512, "b": 500*chunk + 1}, 4))
	remove("1")
	prune()
	add(planPoint(rng, "3", "2", two, map[dr.DiskID]int64{"a": 5 * chunk, "c": 3 * chunk}, 4))
	remove("2")
	prune()
	return steps
}

var smallVault = vault.Options{Keys: nil}.SmallSegments(512 << 10)

// play runs steps until one fails, and returns how many succeeded.
func play(ctx context.Context, v *vault.Store, steps []step) (int, error) {
	for i, s := range steps {
		if err := s.do(ctx, v); err != nil {
			return i, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return len(steps), nil
}

// after is what must be there after so many steps.
func after(steps []step, n int) map[dr.PointID]content {
	points := map[dr.PointID]content{}
	for _, s := range steps[:n] {
		s.effect(points)
	}
	return points
}

// check compares the vault with what it must hold after done steps, or one
// more, and scrubs it.
func check(t *testing.T, v *vault.Store, steps []step, done int) {
	t.Helper()
	ctx := t.Context()
	var got []dr.PointID
	for p, err := range v.List(ctx, "m") {
		require.NoError(t, err)
		got = append(got, p.ID)
	}
	slices.Sort(got)
	fits := false
	for n := done; n <= min(done+1, len(steps)); n++ {
		want := after(steps, n)
		ids := make([]dr.PointID, 0)
		for id := range want {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		if !slices.Equal(got, ids) {
			continue
		}
		fits = true
		for id, c := range want {
			require.NoError(t, verify(ctx, v, id, c))
		}
	}
	require.True(t, fits, "points %q after %d steps", got, done)
	for d, err := range v.Scrub(ctx) {
		require.NoError(t, err)
		require.Fail(t, "damage", "%+v: %v", d, d.Err)
	}
}

func TestPowerCutAtEveryOperation(t *testing.T) {
	seed := newSeed(t)
	steps := story(seed)
	cuts := 0
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true})
		done := 0
		v, err := vault.Open(t.Context(), vault.NewDir(disk, "/v"), smallVault)
		if err == nil {
			done, err = play(t.Context(), v, steps)
		}
		if disk.Fired() == 0 {
			require.NoError(t, err)
			require.Greater(t, cuts, 150)
			break
		}
		if done == len(steps) {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, crashfs.ErrPowerLost, "cut at %d", n)
		}
		cuts++
		for range 2 { // two states that the same cut may leave
			found := disk.Restart()
			v, err := vault.Open(t.Context(), vault.NewDir(found, "/v"), smallVault)
			require.NoError(t, err, "cut at %d", n)
			check(t, v, steps, done)
			// It goes on as if nothing had happened.
			more, err := play(t.Context(), v, steps[done:])
			require.NoError(t, err, "cut at %d, after %d more", n, more)
			check(t, v, steps, len(steps))
		}
		if t.Failed() {
			t.Fatalf("cut at %d", n)
		}
	}
	t.Logf("%d cuts", cuts)
}

func TestDiskFullAtEveryWrite(t *testing.T) {
	seed := newSeed(t)
	steps := story(seed)
	writing := func(o crashfs.Op) bool {
		return o.Kind == crashfs.Write || o.Kind == crashfs.Create || o.Kind == crashfs.Sync || o.Kind == crashfs.Link || o.Kind == crashfs.Mkdir
	}
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		disk.Inject(crashfs.Fault{N: n, Match: writing, Err: &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, Torn: true})
		done := 0
		v, err := vault.Open(t.Context(), vault.NewDir(disk, "/v"), smallVault)
		if err == nil {
			done, err = play(t.Context(), v, steps)
		}
		if disk.Fired() == 0 {
			require.NoError(t, err)
			break
		}
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC, "write %d", n)
			var known *dr.Error
			require.True(t, errors.As(err, &known), "write %d: %v", n, err)
		}
		// The same process goes on, once there is room again.
		if v == nil {
			v, err = vault.Open(t.Context(), vault.NewDir(disk, "/v"), smallVault)
			require.NoError(t, err)
		}
		check(t, v, steps, done)
		_, err = play(t.Context(), v, steps[done:])
		require.NoError(t, err, "write %d", n)
		check(t, v, steps, len(steps))
	}
}

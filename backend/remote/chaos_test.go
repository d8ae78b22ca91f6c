package remote

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// trouble makes the line bad in some way, for a while or once. size is how much is
// to be carried in direction d.
func trouble(rnd *rand.Rand, line *faultyline.Line, d faultyline.Direction, size int64) (what string, end func()) {
	good := faultyline.Weather{Rate: 64 << 20, Delay: time.Millisecond}
	later := func(f func()) func() {
		timer := time.AfterFunc(time.Duration(rnd.IntN(200))*time.Millisecond, f)
		return func() { timer.Stop() }
	}
	line.Set(good)
	switch rnd.IntN(7) {
	case 0:
		n := 1 + rnd.Int64N(size)
		line.CutAfter(d, n)
		return fmt.Sprint("cut after ", n), func() { line.CutAfter(d, 0) }
	case 1:
		n := 1 + rnd.Int64N(20<<10)
		line.CutAfter(1-d, n)
		return fmt.Sprint("cut the other way after ", n), func() { line.CutAfter(1-d, 0) }
	case 2:
		bad := good
		bad.Flips = 0.002
		line.Set(bad)
		return "bits turned over", func() { line.Set(good) }
	case 3:
		return "half open", later(line.HalfOpen)
	case 4:
		stop := later(func() { line.Stall(); time.Sleep(1200 * time.Millisecond); line.Resume() })
		return "partition", stop
	case 5:
		stop := later(func() { line.Stall(); time.Sleep(20 * time.Millisecond); line.Resume() })
		return "a short silence", stop
	}
	return "nothing", func() {}
}

// A replica is written through an agent over a line that breaks in every way, again
// and again: at last it holds what the image did, and each attempt cost no more than
// what it moved anew. LIFEBOAT_LONG=1 goes on for longer.
func TestAReplicaIsWrittenInAnyWeather(t *testing.T) {
	t.Parallel()
	rounds := 4
	if os.Getenv("LIFEBOAT_LONG") != "" {
		rounds = 400
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const size = 12<<20 + 512
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.img")
	here, err := physical.Open(physical.Config{Root: filepath.Join(dir, "here"),
		Machines: []physical.Machine{{ID: "m", Power: dr.Off, Disks: []physical.Disk{{ID: "a", Path: disk, Boot: true}}}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, here.Close()) })
	there, err := physical.Open(physical.Config{Root: filepath.Join(dir, "there")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, there.Close()) })
	a := serve(t, there, ServeOptions{KeepAlive: 200 * time.Millisecond})
	t.Cleanup(a.stop)
	line, c := behind(t, a, DialOptions{Patience: time.Second})

	for round := range rounds {
		want := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(round), byte(round >> 8)}).Read(want[:size*3/4])
		require.NoError(t, os.WriteFile(disk, want, 0o600))
		name := dr.PointID(fmt.Sprint("p", round))
		img, err := here.Capture(t.Context(), "m", name, dr.CrashConsistent)
		require.NoError(t, err)
		key := fmt.Sprint("k", round)
		up := line.Bytes(faultyline.Up)
		attempts := 0
		var id dr.MachineID
		for done := false; !done; attempts++ {
			require.Less(t, attempts, 30, "seed %d", seed)
			what, end := trouble(rnd, line, faultyline.Up, size)
			if attempts > 20 {
				end()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			begun := time.Now()
			err := func() error {
				r, err := c.Prepare(ctx, backend.Placement{Key: key, Machine: img.Point().Machine})
				if err != nil {
					return err
				}
				id = r.ID
				d, err := c.Draft(ctx, r.ID, img.Point())
				if err != nil {
					return err
				}
				defer d.Close()
				_, err = replication.Copy(ctx, d, img, replication.CopyOptions{})
				return err
			}()
			require.NoError(t, ctx.Err(), "it hangs: seed %d, round %d, %s, %v", seed, round, what, err)
			cancel()
			t.Logf("round %d: %s: %v, %v", round, what, time.Since(begun).Round(time.Millisecond), err)
			end()
			done = err == nil
		}
		line.Resume()
		up = line.Bytes(faultyline.Up) - up
		require.NoError(t, img.Close())
		require.NoError(t, here.Release(t.Context(), "m", name))
		got, err := there.Capture(t.Context(), id, "check", dr.CrashConsistent)
		require.NoError(t, err)
		p := make([]byte, size)
		_, err = got.ReadAt(t.Context(), "a", p, 0)
		require.NoError(t, err)
		require.NoError(t, got.Close())
		require.True(t, bytes.Equal(want, p), "seed %d, round %d", seed, round)
		require.Less(t, up, int64(size+attempts*(inFlight+256<<10)), "seed %d, round %d, %d attempts", seed, round, attempts)
		require.NoError(t, c.Remove(t.Context(), id))
	}
}

// The same for reading: an image that can be opened again is read on whatever
// happens to the line, in one copy.
func TestAnImageIsReadInAnyWeather(t *testing.T) {
	t.Parallel()
	rounds := 4
	if os.Getenv("LIFEBOAT_LONG") != "" {
		rounds = 400
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	const size = 12<<20 + 512
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.img")
	want := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	require.NoError(t, os.WriteFile(disk, want, 0o600))
	h, err := physical.Open(physical.Config{Root: filepath.Join(dir, "root"),
		Machines: []physical.Machine{{ID: "m", Power: dr.Off, Disks: []physical.Disk{{ID: "a", Path: disk, Boot: true}}}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	a := serve(t, h, ServeOptions{KeepAlive: 200 * time.Millisecond})
	t.Cleanup(a.stop)
	line, c := behind(t, a, DialOptions{Patience: 10 * time.Second})
	for round := range rounds {
		img, err := c.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		down := line.Bytes(faultyline.Down)
		what, end := trouble(rnd, line, faultyline.Down, size)
		repaired := time.AfterFunc(1500*time.Millisecond, end)
		d := &kept{b: make([]byte, size)}
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, err = replication.Copy(ctx, d, img, replication.CopyOptions{Have: replication.History{Blank: true}})
		cancel()
		t.Logf("round %d: %s: %v", round, what, time.Since(begun).Round(time.Millisecond))
		require.NoError(t, err, "seed %d, round %d, %s", seed, round, what)
		require.True(t, bytes.Equal(want, d.b), "seed %d, round %d, %s", seed, round, what)
		if what != "bits turned over" { // it breaks as often as it likes
			require.Less(t, line.Bytes(faultyline.Down)-down, int64(size+inFlight+256<<10), "%s", what)
		}
		repaired.Stop()
		end()
		line.Resume()
		require.NoError(t, img.Close())
	}
}

// kept is a draft in memory.
type kept struct{ b []byte }

func (k *kept) WriteAt(_ context.Context, _ dr.DiskID, p []byte, off int64) (int, error) {
	return copy(k.b[off:], p), nil
}
func (*kept) Commit(context.Context, dr.Point) error { return nil }
func (*kept) Close() error                           { return nil }

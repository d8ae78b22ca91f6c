package physical

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// The tracker against a model that remembers every write.
func TestBitmapTrackerAgainstAModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const block, blocks = 512, 3 * pageBits
	tr := NewBitmapTracker(block)
	type epochModel struct {
		mark  dr.Cursor
		dirty map[int64]bool
	}
	var live []*epochModel
	for range 2000 {
		switch rng.IntN(6) {
		case 0:
			mark, err := tr.Cut(t.Context(), "m")
			require.NoError(t, err)
			live = append(live, &epochModel{mark, map[int64]bool{}})
		case 1:
			if rng.IntN(4) > 0 {
				continue
			}
			live = slices.DeleteFunc(live, func(*epochModel) bool { return rng.IntN(3) == 0 })
			var keep []dr.Cursor
			for _, e := range live {
				keep = append(keep, e.mark)
			}
			rng.Shuffle(len(keep), func(i, j int) { keep[i], keep[j] = keep[j], keep[i] })
			require.NoError(t, tr.Keep(t.Context(), "m", keep))
		default:
			off, n := rng.Int64N(block*blocks), 1+rng.Int64N(5*block)
			tr.Mark("m", "d", off, n)
			tr.Mark("m", "other", 0, block*blocks)
			tr.Mark("other", "d", 0, block*blocks)
			for _, e := range live {
				for i := off / block; i <= (off+n-1)/block; i++ {
					e.dirty[i] = true
				}
			}
		}
		if len(live) == 0 {
			continue
		}
		e := live[rng.IntN(len(live))]
		got, end := map[int64]bool{}, int64(-1)
		for x, err := range tr.Since(t.Context(), "m", "d", e.mark) {
			require.NoError(t, err)
			require.Greater(t, x.Off, end, "ascending, and neighbours are one")
			require.Positive(t, x.Len)
			end = x.End()
			for i := x.Off / block; i < x.End()/block; i++ {
				got[i] = true
			}
		}
		require.Equal(t, e.dirty, got)
	}
	for _, mark := range []dr.Cursor{"", "foreign", live0(NewBitmapTracker(block))} {
		n := 0
		for _, err := range tr.Since(t.Context(), "m", "d", mark) {
			require.ErrorIs(t, err, dr.ErrChangesLost)
			n++
		}
		require.Equal(t, 1, n)
	}
}

// live0 is the first mark of another tracker, as after a restart.
func live0(tr *BitmapTracker) dr.Cursor {
	mark, _ := tr.Cut(context.Background(), "m")
	return mark
}

// Cycles succeed, fail after any pass, lose their point, and meet restarts of
// the host and of the tracker. What Changes says is all that a reader knows of
// a machine, and its copy is right after every cycle that succeeds.
func TestCyclesNeverLoseAChange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for history := range uint64(40) {
		cycles(t, rand.New(rand.NewPCG(seed, history)))
	}
}

func cycles(t *testing.T, rng *rand.Rand) {
	ctx := t.Context()
	var cfg Config
	tracker := NewBitmapTracker(0)
	h, mem := running(t, func(c *Config) {
		c.Tracker, c.LastPass = tracker, 128<<10
		if rng.IntN(2) == 0 {
			c.Hooks.Freeze = func(context.Context, Event) error { return nil }
			c.Hooks.Thaw = c.Hooks.Freeze
		} else {
			c.Passes = 50
		}
		cfg = *c
	})
	paths := map[dr.DiskID]string{"a": "/disks/a", "b": "/disks/b"}
	write := func() {
		for range rng.IntN(4) {
			disk := []dr.DiskID{"a", "b"}[rng.IntN(2)]
			p := make([]byte, 1+rng.IntN(100<<10))
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			off := rng.Int64N(1<<20 + 512)
			p = p[:min(int64(len(p)), 1<<20+512-off)]
			tracker.Mark("m", disk, off, int64(len(p)))
			writeDisk(t, mem, paths[disk], p, off)
			tracker.Mark("m", disk, off, int64(len(p)))
		}
	}
	reopen := func() {
		require.NoError(t, h.Close())
		var err error
		h, err = Open(cfg)
		require.NoError(t, err)
	}
	defer func() { h.Close() }()

	copies := map[dr.DiskID][]byte{"a": make([]byte, 1<<20+512), "b": make([]byte, 1<<20+512)}
	var last dr.Point // what copies hold
	fresh := true     // copies hold nothing
	for cycle := range 12 {
		write()
		switch rng.IntN(8) {
		case 0:
			reopen()
		case 1:
			tracker = NewBitmapTracker(0)
			cfg.Tracker = tracker
			reopen()
			write()
		case 2:
			require.NoError(t, h.Stop(ctx, "m"))
			if rng.IntN(2) == 0 {
				require.NoError(t, h.Start(ctx, "m"))
				write()
			}
		}
		off := h.machines["m"].record().Power == dr.Off
		id := dr.PointID(rune('A' + cycle))
		if rng.IntN(3) == 0 && cycle > 0 {
			id = dr.PointID(rune('A' + cycle - 1)) // a name that a failed cycle had may come again
			if id == last.ID {
				id += "x"
			}
		}
		img, err := h.Capture(ctx, "m", id, dr.CrashConsistent)
		require.NoError(t, err)
		next := map[dr.DiskID][]byte{}
		for d, b := range copies {
			next[d] = slices.Clone(b)
			read := func(e dr.Extent) { _, err = img.ReadAt(ctx, d, next[d][e.Off:e.End()], e.Off); require.NoError(t, err) }
			lost := fresh
			if !fresh {
				for e, err := range img.(dr.ChangeTracker).Changes(ctx, d, last) {
					if errors.Is(err, dr.ErrChangesLost) {
						lost = true
						break
					}
					require.NoError(t, err)
					read(e)
				}
			}
			if lost {
				read(dr.Extent{Len: 1<<20 + 512})
			}
		}
		failed := rng.IntN(3) == 0
		if !off {
			settled := false
			for pass := 0; !settled && !(failed && rng.IntN(2) == 0); pass++ {
				if l := img.(*liveImage); pass < 3 && l.final == nil {
					write()
				}
				more, err := img.(dr.Settler).Settle(ctx)
				require.NoError(t, err)
				settled = !more
				for d := range copies {
					for e, err := range img.(dr.ChangeTracker).Changes(ctx, d, dr.Point{}) {
						if settled {
							break
						}
						require.NoError(t, err)
						_, err = img.ReadAt(ctx, d, next[d][e.Off:e.End()], e.Off)
						require.NoError(t, err)
					}
				}
			}
			failed = failed || !settled
		}
		if !failed {
			// Nothing is written between the last pass and here.
			for d, path := range paths {
				require.True(t, string(readDisk(t, mem, path)) == string(next[d]), "cycle %d, disk %s", cycle, d)
			}
			copies, last, fresh = next, img.Point(), false
		}
		require.NoError(t, img.Close())
		if rng.IntN(2) == 0 {
			require.NoError(t, h.Release(ctx, "m", id))
		}
		if off {
			require.NoError(t, h.Start(ctx, "m"))
		}
	}
}

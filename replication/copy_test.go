package replication_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// scene is one copy: what both sides hold, and what is known of it.
type scene struct {
	kind    string // "blank", "exact", "diverged", "unknown"
	tracker string // "", "lost", "late" (lost after the first extent), "disorder", "good"
	theirs  string // the same, for diverged
	sums    bool
	zeroer  bool
	mapper  bool
	full    bool
	chunk   int
	grain   int64
	seed    uint64
}

func (s scene) String() string {
	return fmt.Sprintf("%s/tracker=%s/theirs=%s/sums=%t/zeroer=%t/mapper=%t/full=%t/chunk=%d/grain=%d/seed=%d",
		s.kind, s.tracker, s.theirs, s.sums, s.zeroer, s.mapper, s.full, s.chunk, s.grain, s.seed)
}

// damaged makes a tracker of the named quality out of a good one.
func damaged(quality string, good tracker) tracker {
	return func(id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
		switch quality {
		case "lost":
			return lost(fmt.Errorf("rebooted: %w", dr.ErrChangesLost))
		case "late":
			return func(yield func(dr.Extent, error) bool) {
				for e := range good(id, since) {
					if !yield(e, nil) {
						return
					}
					break
				}
				yield(dr.Extent{}, dr.ErrChangesLost)
			}
		case "disorder":
			return func(yield func(dr.Extent, error) bool) {
				var all []dr.Extent
				for e := range good(id, since) {
					all = append(all, e)
				}
				for i := len(all) - 1; i >= 0; i-- {
					if !yield(all[i], nil) {
						return
					}
				}
			}
		}
		return good(id, since)
	}
}

// noise has no zero block, and twice the length of the longest write.
var noise = func() []byte {
	b, r := make([]byte, 1<<19), rand.New(rand.NewPCG(5, 5))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}()

// scribble changes a model at random: data and zeros, at all alignments.
func scribble(r *rand.Rand, d disks, times int) {
	for _, m := range d.machine().Disks {
		b := d[m.ID]
		for range times {
			off := r.IntN(len(b))
			end := off + 1 + r.IntN(min(len(b)-off, 1<<(9+r.IntN(9))))
			if r.IntN(3) == 0 {
				clear(b[off:end])
				continue
			}
			copy(b[off:end], noise[r.IntN(len(noise)/2):])
		}
	}
}

// run copies the scene and checks everything that must hold of any copy.
func (s scene) run(t *testing.T) {
	ctx := t.Context()
	r := rand.New(rand.NewPCG(s.seed, 1))
	common := disks{"a": make([]byte, 9*blk+3*512), "b": make([]byte, 700), "c": make([]byte, 3*blk)}
	scribble(r, common, 6)
	src := common.clone()
	src["c"] = append(src["c"], make([]byte, blk+512)...) // grew
	src["d"] = make([]byte, 2*blk)                        // is new
	scribble(r, src, 4)
	was := common.clone() // what the draft holds
	for id, b := range src {
		was[id] = append(was[id], make([]byte, len(b)-len(was[id]))...)
	}
	o := replication.CopyOptions{Chunk: s.chunk, Full: s.full}
	switch s.kind {
	case "blank":
		for _, b := range was {
			clear(b)
		}
		o.Have.Blank = true
	case "exact":
		o.Have.Common = common.point("common")
		// Nobody says what a disk that the common point lacks holds.
		was["d"][9] = 9
	case "diverged":
		scribble(r, was, 4)
		was["d"][9] = 9
		o.Have.Common = common.point("common")
		var able []any
		if s.theirs != "" {
			able = append(able, damaged(s.theirs, diff(was.clone(), common, s.grain)))
		}
		o.Have.Theirs = imageWith(newImage("theirs", was.clone()), able...)
	case "unknown":
		scribble(r, was, 10)
	}
	d := newDraft(t, was)
	var srcAble, dstAble []any
	if s.tracker != "" {
		srcAble = append(srcAble, damaged(s.tracker, diff(src, common, s.grain)))
	}
	if s.mapper {
		srcAble = append(srcAble, mapOf(src, s.grain))
	}
	if s.sums {
		srcAble = append(srcAble, sumsOf(src, nil))
		dstAble = append(dstAble, sumsOf(was, d.enter))
	}
	if s.zeroer {
		dstAble = append(dstAble, zeroer(d.Zero))
	}
	seen := map[dr.DiskID]dr.Progress{}
	o.Progress = func(p dr.Progress) { // by one goroutine at a time: the race detector looks on
		if p.Done < seen[p.Disk].Done && s.tracker != "late" && s.tracker != "disorder" && s.theirs != "late" && s.theirs != "disorder" {
			t.Errorf("progress went back from %v to %v", seen[p.Disk], p)
		}
		seen[p.Disk] = p
	}
	rep, err := replication.Copy(ctx, draftWith(d, dstAble...), imageWith(newImage("now", src), srcAble...), o)
	require.NoError(t, err)
	requireEqual(t, src, d.data)
	require.NotNil(t, d.committed)
	require.Equal(t, dr.PointID("now"), rep.Point.ID)
	require.Equal(t, 1, rep.Passes)
	require.Equal(t, rep.Changed, rep.Written+rep.Zeroed+rep.Equal+rep.Resumed, "%+v", rep)
	require.Equal(t, rep.Written, d.written)
	for _, m := range src.machine().Disks {
		require.Equal(t, m.Size, seen[m.ID].Done, "disk %s", m.ID)
		require.Equal(t, m.Size, seen[m.ID].Total)
	}
	known := s.tracker == "good" && (s.kind == "exact" || s.kind == "diverged" && s.theirs == "good")
	switch {
	case s.kind == "blank" && !s.full, s.kind == "blank":
		require.Empty(t, rep.Full)
	case s.full:
		require.Len(t, rep.Full, 4)
	case known:
		require.Empty(t, rep.Full)
	case s.tracker == "" || s.tracker == "lost" || s.kind == "unknown":
		require.Contains(t, rep.Full, dr.DiskID("a"))
	}
	if s.sums && !s.full && s.kind != "blank" && !known && s.tracker != "late" && s.tracker != "disorder" && s.theirs != "late" && s.theirs != "disorder" {
		requireOnlyDifferent(t, rep, src)
	}
}

// requireOnlyDifferent: a comparison doesn't send what is equal.
func requireOnlyDifferent(t *testing.T, rep replication.Report, src disks) {
	var total int64
	for _, b := range src {
		total += int64(len(b))
	}
	require.LessOrEqual(t, rep.Written, total-rep.Equal-rep.Zeroed)
	require.LessOrEqual(t, rep.Read, total-rep.Equal)
}

// TestHistories goes through all that may be known, and all that backends may
// be able to do.
func TestHistories(t *testing.T) {
	bools := []bool{false, true}
	n := 0
	for _, kind := range []string{"blank", "exact", "diverged", "unknown"} {
		for _, tr := range []string{"", "lost", "late", "disorder", "good"} {
			theirs := []string{""}
			if kind == "diverged" {
				theirs = []string{"", "lost", "late", "disorder", "good"}
			}
			for _, th := range theirs {
				for _, sums := range bools {
					for _, zero := range bools {
						for _, maps := range bools {
							for _, full := range bools {
								n++
								chunk := []int{0, 2*blk + 7, 1000}[n%3]
								s := scene{kind, tr, th, sums, zero, maps, full, chunk, 4096 << (n % 5), uint64(n)}
								if !t.Run(s.String(), s.run) {
									return
								}
							}
						}
					}
				}
			}
		}
	}
}

// TestRandomHistories runs scenes at random.
func TestRandomHistories(t *testing.T) {
	pick := func(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }
	n := 400
	if testing.Short() {
		n = 50
	}
	first := rand.Uint64()
	for i := range n {
		seed := first + uint64(i)
		r := rand.New(rand.NewPCG(seed, 2))
		s := scene{
			kind:    pick(r, "blank", "exact", "diverged", "unknown"),
			tracker: pick(r, "", "lost", "late", "disorder", "good", "good"),
			theirs:  pick(r, "", "lost", "late", "disorder", "good", "good"),
			sums:    r.IntN(2) == 0, zeroer: r.IntN(2) == 0, mapper: r.IntN(2) == 0, full: r.IntN(8) == 0,
			chunk: r.IntN(5 * blk), grain: 1 + r.Int64N(2*blk), seed: seed,
		}
		if s.grain < 512 {
			s.grain = 512
		}
		if !t.Run(s.String(), s.run) {
			return
		}
	}
}

// TestGrowthUnsaid: a tracker should yield what a disk grew by. Where it does
// not, and where the draft's own disk was shorter than the common point's, the
// rest is copied all the same.
func TestGrowthUnsaid(t *testing.T) {
	silent := tracker(func(dr.DiskID, dr.Point) iter.Seq2[dr.Extent, error] { return list() })
	for _, c := range []struct{ common, theirs, now int }{
		{2 * blk, 2 * blk, 3*blk + 512}, {3 * blk, blk, 3 * blk}, {3 * blk, 5 * blk, 4 * blk}, {3 * blk, 3 * blk, blk},
	} {
		src := disks{"a": noise[:c.now]}
		was := disks{"a": make([]byte, c.now)}
		copy(was["a"], noise[:min(c.common, c.theirs)])
		_, err := replication.Copy(t.Context(), newDraft(t, was), imageWith(newImage("now", src), silent), replication.CopyOptions{Have: replication.History{
			Common: disks{"a": make([]byte, c.common)}.point("common"),
			Theirs: imageWith(newImage("theirs", disks{"a": make([]byte, c.theirs)}), silent),
		}})
		require.NoError(t, err)
		requireEqual(t, src, was)
	}
}

func TestAdopt(t *testing.T) {
	src := disks{"a": []byte("bytes")}
	for _, takes := range []bool{true, false} {
		d := newDraft(t, disks{"a": make([]byte, 5)})
		rep, err := replication.Copy(t.Context(), draftWith(d, adopter(func(dr.Image) (bool, error) { return takes, nil })), newImage("now", src), replication.CopyOptions{})
		require.NoError(t, err)
		require.Equal(t, takes, rep.Adopted)
		require.Equal(t, dr.PointID("now"), d.committed.ID)
		require.Equal(t, takes, rep.Read == 0)
	}
	d := newDraft(t, disks{"a": make([]byte, 5)})
	_, err := replication.Copy(t.Context(), draftWith(d, adopter(func(dr.Image) (bool, error) { return false, errFault })), newImage("now", src), replication.CopyOptions{})
	require.ErrorIs(t, err, errFault)
	require.Nil(t, d.committed)
}

// TestSettle copies a disk that is written while it is copied: each pass
// takes what was written during the one before, and the point is that of the
// end.
func TestSettle(t *testing.T) {
	for _, quality := range []string{"good", "lost", ""} {
		for _, sums := range []bool{false, true} {
			t.Run(fmt.Sprintf("tracker=%s/sums=%t", quality, sums), func(t *testing.T) {
				r := rand.New(rand.NewPCG(7, 7))
				src := disks{"a": make([]byte, 5*blk+512)}
				scribble(r, src, 8)
				before := disks{"a": make([]byte, len(src["a"]))} // at the last pass's start
				img := newImage("now", src)
				d := newDraft(t, disks{"a": make([]byte, len(src["a"]))})
				passes := 0
				able := []any{settler(func(context.Context) (bool, error) {
					passes++
					if passes == 4 {
						img.point.Consistency = dr.CrashConsistent
						return false, nil
					}
					before = src.clone()
					scribble(r, src, 2) // zeros among it
					return true, nil
				})}
				if quality != "" {
					able = append(able, tracker(func(id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
						return damaged(quality, diff(src, before, 512))(id, since)
					}))
				}
				dst := []any{
					zeroer(d.Zero),
					// A live disk has gone on since: this must not be believed.
					resumer(func(dr.DiskID) iter.Seq2[dr.Extent, error] { return list(dr.Extent{Len: 3 * blk}) }),
				}
				if sums {
					able = append(able, sumsOf(src, nil))
					dst = append(dst, sumsOf(d.data, d.enter))
				}
				rep, err := replication.Copy(t.Context(), draftWith(d, dst...), imageWith(img, able...), replication.CopyOptions{Have: replication.History{Blank: true}})
				require.NoError(t, err)
				requireEqual(t, src, d.data)
				require.Equal(t, 4, rep.Passes)
				require.Equal(t, dr.CrashConsistent, d.committed.Consistency)
				require.Equal(t, quality != "good", len(rep.Full) == 1)
				require.Zero(t, rep.Resumed)
			})
		}
	}
}

// TestWholeBlocks: a draft that keeps sums, and so blocks, is not given pieces
// of them, however fine the map or the tracker; another one gets no byte more
// than there is.
func TestWholeBlocks(t *testing.T) {
	const grain = 4 << 10
	was := disks{"a": make([]byte, 20*dr.SumBlock+512)}
	now := was.clone()
	for _, at := range []int{0, 3, 17, 18, 100, 319, 320} { // of grains; the last is short
		b := now["a"][at*grain:]
		for i := range b[:min(grain, len(b))] {
			b[i] = byte(i) | 1
		}
	}
	for name, have := range map[string]replication.History{
		"by its map": {Blank: true}, "by its changes": {Common: was.point("was")},
	} {
		for _, sums := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, sums %v", name, sums), func(t *testing.T) {
				src := imageWith(newImage("now", now), diff(now, was, grain), mapOf(now, grain))
				d := newDraft(t, was.clone())
				var dst dr.Draft = d
				if sums {
					dst = draftWith(d, sumsOf(d.data, d.enter))
					d.onWrite = func(_ dr.DiskID, off int64, n int) error {
						if end := off + int64(n); off%dr.SumBlock != 0 || end%dr.SumBlock != 0 && end != int64(len(was["a"])) {
							return fmt.Errorf("a piece: [%d, %d)", off, end)
						}
						return nil
					}
				}
				r, err := replication.Copy(t.Context(), dst, src, replication.CopyOptions{Have: have})
				require.NoError(t, err)
				requireEqual(t, now, d.data)
				if sums {
					require.EqualValues(t, 4*dr.SumBlock+512, r.Written)
				} else {
					require.EqualValues(t, 6*grain+512, r.Written)
				}
			})
		}
	}
}

package replication_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// trial is a copy whose every call to either side can be made to fail.
type trial struct {
	t        *testing.T
	src, was disks
	common   disks
	theirs   disks
	kind     string
	zero     bool
	step     func() error // called before everything

	mu      sync.Mutex
	durable map[dr.DiskID][]dr.Extent // what the draft holds for good
}

func newTrial(t *testing.T, kind string, zero bool) *trial {
	r := rand.New(rand.NewPCG(11, 4))
	common := disks{"a": make([]byte, 7*blk+512), "b": make([]byte, 2*blk)}
	scribble(r, common, 4)
	src := common.clone()
	scribble(r, src, 3)
	was := common.clone()
	switch kind {
	case "blank":
		clear(was["a"])
		clear(was["b"])
	case "diverged", "unknown":
		scribble(r, was, 2)
	}
	return &trial{t: t, src: src, was: was, common: common, theirs: was.clone(), kind: kind, zero: zero,
		durable: map[dr.DiskID][]dr.Extent{}}
}

// copy runs one attempt. What one has made durable the next is told of, and
// must not write again.
func (b *trial) copy(ctx context.Context) (replication.Report, *draft, error) {
	img := newImage("now", b.src)
	img.onRead = func(dr.DiskID, int64, int) error { return b.step() }
	d := newDraft(b.t, b.was)
	before := map[dr.DiskID][]dr.Extent{}
	for id, es := range b.durable {
		before[id] = slices.SortedFunc(slices.Values(es), func(x, y dr.Extent) int { return int(x.Off - y.Off) })
	}
	d.onWrite = func(id dr.DiskID, off int64, n int) error {
		for _, e := range before[id] {
			if n > 0 && off < e.End() && e.Off < off+int64(n) {
				b.t.Errorf("disk %s: [%d, +%d) is written again, [%d, %d) was durable", id, off, n, e.Off, e.End())
			}
		}
		if err := b.step(); err != nil {
			for i := range b.was[id][off : off+int64(n/2)] { // half of it, and wrong
				b.was[id][off+int64(i)] ^= 0x55
			}
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if n > 0 {
			b.durable[id] = append(b.durable[id], dr.Extent{Off: off, Len: int64(n)})
		}
		return nil
	}
	d.onCommit = b.step
	failing := func(seq iter.Seq2[dr.Extent, error]) iter.Seq2[dr.Extent, error] {
		return func(yield func(dr.Extent, error) bool) {
			for e, err := range seq {
				if fault := b.step(); fault != nil {
					err = fault
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
	srcSums, dstSums := sumsOf(b.src, nil), sumsOf(b.was, d.enter)
	o := replication.CopyOptions{Chunk: 2 * blk, Readers: 3}
	switch b.kind {
	case "blank":
		o.Have.Blank = true
	case "exact":
		o.Have.Common = b.common.point("common")
	case "diverged":
		o.Have.Common = b.common.point("common")
		o.Have.Theirs = imageWith(newImage("theirs", b.theirs), tracker(func(id dr.DiskID, p dr.Point) iter.Seq2[dr.Extent, error] {
			return failing(diff(b.theirs, b.common, blk)(id, p))
		}))
	}
	able := []any{
		tracker(func(id dr.DiskID, p dr.Point) iter.Seq2[dr.Extent, error] {
			return failing(diff(b.src, b.common, blk)(id, p))
		}),
		mapper(func(id dr.DiskID) iter.Seq2[dr.Extent, error] { return failing(mapOf(b.src, blk)(id)) }),
		summer(func(id dr.DiskID, off int64, s []dr.Sum) error { return errors.Join(b.step(), srcSums(id, off, s)) }),
	}
	dst := []any{
		resumer(func(id dr.DiskID) iter.Seq2[dr.Extent, error] { return failing(list(before[id]...)) }),
		summer(func(id dr.DiskID, off int64, s []dr.Sum) error { return errors.Join(b.step(), dstSums(id, off, s)) }),
	}
	if b.zero {
		dst = append(dst, zeroer(d.Zero))
	}
	rep, err := replication.Copy(ctx, draftWith(d, dst...), imageWith(img, able...), o)
	return rep, d, err
}

// each runs the test for every history, with and without Zero.
func each(t *testing.T, f func(t *testing.T, kind string, zero bool)) {
	for _, kind := range []string{"blank", "exact", "diverged", "unknown"} {
		for _, zero := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/zeroer=%t", kind, zero), func(t *testing.T) { f(t, kind, zero) })
		}
	}
}

// TestFaults fails the first call, then the second, until none fails, and
// after each lets the copy go on.
func TestFaults(t *testing.T) {
	each(t, func(t *testing.T, kind string, zero bool) {
		cuts := 0
		for n := int64(1); ; n++ {
			b := newTrial(t, kind, zero)
			var calls atomic.Int64
			b.step = func() error {
				if calls.Add(1) == n {
					return fmt.Errorf("call %d: %w", n, errFault)
				}
				return nil
			}
			rep, d, err := b.copy(t.Context())
			if err == nil {
				require.Less(t, calls.Load(), n, "a fault was swallowed")
				break
			}
			cuts++
			require.ErrorIs(t, err, errFault)
			var e *dr.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Op)
			require.NotEmpty(t, e.Side)
			require.Nil(t, d.committed, "committed in spite of %v", err)
			b.step = func() error { return nil }
			again, d, err := b.copy(t.Context())
			require.NoError(t, err)
			requireEqual(t, b.src, d.data)
			require.Equal(t, rep.Written, again.Resumed, "written before, and there")
			if t.Failed() {
				t.Fatalf("after call %d had failed", n)
			}
		}
		require.Greater(t, cuts, 5)
	})
}

// TestCancel cancels at the first call, then at the second, until the copy is
// faster. Leaving the bubble fails if a goroutine is left.
func TestCancel(t *testing.T) {
	why := errors.New("somebody stopped it")
	each(t, func(t *testing.T, kind string, zero bool) {
		for n := int64(1); ; n++ {
			done := false
			synctest.Test(t, func(t *testing.T) {
				b := newTrial(t, kind, zero)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				var calls atomic.Int64
				b.step = func() error {
					if calls.Add(1) >= n {
						cancel(why)
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				}
				_, d, err := b.copy(ctx)
				if err == nil {
					require.Less(t, calls.Load(), n)
					done = true
					return
				}
				require.True(t, errors.Is(err, context.Canceled) || errors.Is(err, why), "%v", err)
				require.Nil(t, d.committed)
			})
			if done || t.Failed() {
				return
			}
		}
	})
}

// TestBrokenContracts: what a backend gets wrong is named, never committed.
func TestBrokenContracts(t *testing.T) {
	src := disks{"a": slices.Repeat([]byte{1}, 3*blk)}
	for _, c := range []struct {
		name string
		img  func(dr.Image) dr.Image
		dst  func(dr.Draft) dr.Draft
		want error
		side dr.Side
		op   string
	}{
		{"short read without error", func(i dr.Image) dr.Image { return shortImage{i, nil} }, nil, io.ErrUnexpectedEOF, dr.SourceSide, "read"},
		{"disk shorter than told", func(i dr.Image) dr.Image { return shortImage{i, io.EOF} }, nil, io.ErrUnexpectedEOF, dr.SourceSide, "read"},
		{"short write without error", nil, func(d dr.Draft) dr.Draft { return shortDraft{d} }, io.ErrShortWrite, dr.TargetSide, "write"},
		{"map out of order", func(i dr.Image) dr.Image {
			return imageWith(i, mapper(func(dr.DiskID) iter.Seq2[dr.Extent, error] {
				return list(dr.Extent{Off: blk, Len: blk, Zero: true}, dr.Extent{Len: blk})
			}))
		}, nil, dr.ErrInvalid, dr.SourceSide, "extents"},
		{"zeros that are data too", func(i dr.Image) dr.Image {
			return imageWith(i, mapper(func(dr.DiskID) iter.Seq2[dr.Extent, error] {
				return list(dr.Extent{Len: 2 * blk, Zero: true}, dr.Extent{Off: blk, Len: blk})
			}))
		}, nil, dr.ErrInvalid, dr.SourceSide, "extents"},
		{"negative extent", func(i dr.Image) dr.Image {
			return imageWith(i, mapper(func(dr.DiskID) iter.Seq2[dr.Extent, error] { return list(dr.Extent{Off: 5, Len: -3}) }))
		}, nil, dr.ErrInvalid, dr.SourceSide, "extents"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDraft(t, disks{"a": make([]byte, 3*blk)})
			var dst dr.Draft = d
			var img dr.Image = newImage("now", src)
			if c.img != nil {
				img = c.img(img)
			}
			if c.dst != nil {
				dst = c.dst(d)
			}
			_, err := replication.Copy(t.Context(), dst, img, replication.CopyOptions{Readers: 1})
			require.ErrorIs(t, err, c.want)
			var e *dr.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.side, e.Side)
			require.Equal(t, c.op, e.Op)
			require.Equal(t, dr.DiskID("a"), e.Disk)
			require.Nil(t, d.committed)
		})
	}
	_, err := replication.Copy(t.Context(), newDraft(t, disks{}), newImage("now", src), replication.CopyOptions{Readers: -1})
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = replication.Copy(t.Context(), newDraft(t, disks{}), newImage("now", src), replication.CopyOptions{Limit: rate.NewLimiter(5, 0)})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

type shortImage struct {
	dr.Image
	err error
}

func (s shortImage) ReadAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	n, err := s.Image.ReadAt(ctx, id, p[:len(p)-1], off)
	if err == nil {
		err = s.err
	}
	return n, err
}

type shortDraft struct{ dr.Draft }

func (s shortDraft) WriteAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	return s.Draft.WriteAt(ctx, id, p[:len(p)-1], off)
}

// TestSmallDiskIsNotStarved: with one worker, a small disk behind a large one
// has its turn every other time.
func TestSmallDiskIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := disks{"a": slices.Repeat([]byte{1}, 100*blk), "b": slices.Repeat([]byte{1}, 3*blk)}
		img := newImage("now", src)
		var order []dr.DiskID
		img.onRead = func(id dr.DiskID, _ int64, _ int) error {
			synctest.Wait() // until every disk that has more to do offers it
			order = append(order, id)
			return nil
		}
		d := newDraft(t, disks{"a": make([]byte, 100*blk), "b": make([]byte, 3*blk)})
		_, err := replication.Copy(t.Context(), d, img, replication.CopyOptions{Readers: 1, Chunk: blk})
		require.NoError(t, err)
		last := 0
		for i, id := range order {
			if id == "b" {
				last = i
			}
		}
		require.Less(t, last, 8)
	})
}

// TestOneDiskUsesAllReaders.
func TestOneDiskUsesAllReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		img := newImage("now", disks{"a": slices.Repeat([]byte{1}, 100*blk)})
		release := make(chan struct{})
		var under atomic.Int64
		img.onRead = func(dr.DiskID, int64, int) error {
			under.Add(1)
			<-release
			return nil
		}
		ended := make(chan error)
		go func() {
			_, err := replication.Copy(t.Context(), newDraft(t, disks{"a": make([]byte, 100*blk)}), img, replication.CopyOptions{Readers: 5, Chunk: blk})
			ended <- err
		}()
		synctest.Wait()
		require.Equal(t, int64(5), under.Load())
		close(release)
		require.NoError(t, <-ended)
	})
}

// TestLimit: what travels takes its time, whatever the burst, and progress
// goes on meanwhile; zeros take none.
func TestLimit(t *testing.T) {
	for _, burst := range []int{1000, blk, 100 * blk} {
		synctest.Test(t, func(t *testing.T) {
			src := disks{"a": append(slices.Repeat([]byte{1}, 10*blk), make([]byte, 50*blk)...)}
			d := newDraft(t, disks{"a": make([]byte, 60*blk)})
			told := 0
			var rate1 float64
			start := time.Now()
			_, err := replication.Copy(t.Context(), draftWith(d, zeroer(d.Zero)), newImage("now", src), replication.CopyOptions{
				Limit: rate.NewLimiter(blk, burst), Progress: func(p dr.Progress) { told++; rate1 = max(rate1, p.Rate) },
			})
			require.NoError(t, err)
			want := time.Duration(max(0, 10*blk-burst)) * time.Second / blk
			require.InDelta(t, want.Seconds(), time.Since(start).Seconds(), 1)
			if burst < blk {
				require.Greater(t, told, 20, "it looks dead")
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // waiting ends with the context
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := replication.Copy(ctx, newDraft(t, disks{"a": make([]byte, blk)}), newImage("now", disks{"a": slices.Repeat([]byte{1}, blk)}), replication.CopyOptions{
			Limit: rate.NewLimiter(1, 1),
		})
		require.ErrorIs(t, err, context.Canceled)
	})
}

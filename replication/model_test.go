package replication_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// The model: disks are byte slices, and every promise of the contracts that
// Copy relies on is either kept or broken on purpose.

const blk = dr.SumBlock

// disks is the content of a machine.
type disks map[dr.DiskID][]byte

func (d disks) clone() disks {
	c := disks{}
	for id, b := range d {
		c[id] = bytes.Clone(b)
	}
	return c
}

func (d disks) machine() dr.Machine {
	m := dr.Machine{ID: "m"}
	for id, b := range d {
		m.Disks = append(m.Disks, dr.Disk{ID: id, Size: int64(len(b))})
	}
	slices.SortFunc(m.Disks, func(a, b dr.Disk) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return m
}

func (d disks) point(id dr.PointID) dr.Point { return dr.Point{ID: id, Machine: d.machine()} }

// image is a dr.Image of a model. Its abilities are put on by with.
type image struct {
	point  dr.Point
	data   disks
	onRead func(disk dr.DiskID, off int64, n int) error
}

func newImage(id dr.PointID, d disks) *image { return &image{point: d.point(id), data: d} }

func (i *image) Point() dr.Point { return i.point }
func (i *image) Close() error    { return nil }
func (i *image) ReadAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	if i.onRead != nil {
		if err := i.onRead(id, off, len(p)); err != nil {
			return 0, err
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return bytes.NewReader(i.data[id]).ReadAt(p, off)
}

func list(es ...dr.Extent) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func lost(err error) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) { yield(dr.Extent{}, err) }
}

// tracker, mapper, summer and the like are abilities that tests put on
// images and drafts by with.
type tracker func(disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error]

func (t tracker) Changes(_ context.Context, d dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return t(d, since)
}

type mapper func(disk dr.DiskID) iter.Seq2[dr.Extent, error]

func (m mapper) Extents(_ context.Context, d dr.DiskID) iter.Seq2[dr.Extent, error] { return m(d) }

type summer func(disk dr.DiskID, off int64, sums []dr.Sum) error

func (s summer) Sums(_ context.Context, d dr.DiskID, off int64, sums []dr.Sum) error {
	return s(d, off, sums)
}

type zeroer func(disk dr.DiskID, off, n int64) error

func (z zeroer) Zero(_ context.Context, d dr.DiskID, off, n int64) error { return z(d, off, n) }

type resumer func(disk dr.DiskID) iter.Seq2[dr.Extent, error]

func (r resumer) Durable(_ context.Context, d dr.DiskID) iter.Seq2[dr.Extent, error] { return r(d) }

type adopter func(dr.Image) (bool, error)

func (a adopter) Adopt(_ context.Context, i dr.Image) (bool, error) { return a(i) }

type settler func(context.Context) (bool, error)

func (s settler) Settle(ctx context.Context) (bool, error) { return s(ctx) }

// chain shows one ability and what is behind it, as wrappers do.
type (
	withTracker struct {
		tracker
		next any
	}
	withMapper struct {
		mapper
		next any
	}
	withSummer struct {
		summer
		next any
	}
	withZeroer struct {
		zeroer
		next any
	}
	withResumer struct {
		resumer
		next any
	}
	withAdopter struct {
		adopter
		next any
	}
	withSettler struct {
		settler
		next any
	}
)

func (w withTracker) Unwrap() any { return w.next }
func (w withMapper) Unwrap() any  { return w.next }
func (w withSummer) Unwrap() any  { return w.next }
func (w withZeroer) Unwrap() any  { return w.next }
func (w withResumer) Unwrap() any { return w.next }
func (w withAdopter) Unwrap() any { return w.next }
func (w withSettler) Unwrap() any { return w.next }

func chain(abilities []any) (next any) {
	for _, a := range abilities {
		switch a := a.(type) {
		case tracker:
			next = withTracker{a, next}
		case mapper:
			next = withMapper{a, next}
		case summer:
			next = withSummer{a, next}
		case zeroer:
			next = withZeroer{a, next}
		case resumer:
			next = withResumer{a, next}
		case adopter:
			next = withAdopter{a, next}
		case settler:
			next = withSettler{a, next}
		default:
			panic(fmt.Sprintf("ability %T", a))
		}
	}
	return next
}

type ableImage struct {
	dr.Image
	abilities any
}

func (i ableImage) Unwrap() any { return i.abilities }

type ableDraft struct {
	dr.Draft
	abilities any
}

func (d ableDraft) Unwrap() any { return d.abilities }

func imageWith(i dr.Image, abilities ...any) dr.Image { return ableImage{i, chain(abilities)} }
func draftWith(d dr.Draft, abilities ...any) dr.Draft { return ableDraft{d, chain(abilities)} }

// draft is a dr.Draft of a model. It fails the test where Copy breaks what
// drafts are promised: overlapping calls, writes past the end, use during
// Commit.
type draft struct {
	t    testing.TB
	mu   sync.Mutex
	data disks
	busy map[dr.DiskID][]dr.Extent // calls under way

	onWrite   func(disk dr.DiskID, off int64, n int) error // before any byte is written
	onCommit  func() error
	written   int64
	committed *dr.Point
}

func newDraft(t testing.TB, d disks) *draft {
	return &draft{t: t, data: d, busy: map[dr.DiskID][]dr.Extent{}}
}

// enter marks a range as in use.
func (d *draft) enter(id dr.DiskID, off, n int64) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off+n > int64(len(d.data[id])) {
		d.t.Errorf("disk %s: [%d, %d) is beyond its %d bytes", id, off, off+n, len(d.data[id]))
	}
	if d.committed != nil {
		d.t.Errorf("disk %s is written after the commit", id)
	}
	e := dr.Extent{Off: off, Len: n}
	for _, o := range d.busy[id] {
		if o.Off < e.End() && e.Off < o.End() {
			d.t.Errorf("disk %s: [%d, %d) while [%d, %d) is under way", id, off, off+n, o.Off, o.End())
		}
	}
	d.busy[id] = append(d.busy[id], e)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		i := slices.Index(d.busy[id], e)
		d.busy[id] = slices.Delete(d.busy[id], i, i+1)
	}
}

func (d *draft) WriteAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	defer d.enter(id, off, int64(len(p)))()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if d.onWrite != nil {
		if err := d.onWrite(id, off, len(p)); err != nil {
			return 0, err
		}
	}
	n := copy(d.data[id][off:], p)
	d.mu.Lock()
	d.written += int64(n)
	d.mu.Unlock()
	return n, nil
}

func (d *draft) Zero(id dr.DiskID, off, n int64) error {
	defer d.enter(id, off, n)()
	if d.onWrite != nil {
		if err := d.onWrite(id, off, 0); err != nil {
			return err
		}
	}
	clear(d.data[id][off : off+n])
	return nil
}

func (d *draft) Commit(_ context.Context, p dr.Point) error {
	if d.onCommit != nil {
		if err := d.onCommit(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, b := range d.busy {
		if len(b) > 0 {
			d.t.Errorf("commit while disk %s is being written", id)
		}
	}
	d.committed = &p
	return nil
}

func (d *draft) Close() error { return nil }

// sumsOf sums a model; enter may be nil.
func sumsOf(data disks, enter func(dr.DiskID, int64, int64) func()) summer {
	return func(id dr.DiskID, off int64, sums []dr.Sum) error {
		b := data[id]
		end := min(off+int64(len(sums))*blk, int64(len(b)))
		if off%blk != 0 || off+int64(len(sums)-1)*blk >= int64(len(b)) {
			return fmt.Errorf("%w: sums at %d", dr.ErrInvalid, off)
		}
		if enter != nil {
			defer enter(id, off, end-off)()
		}
		for i := range sums {
			from := off + int64(i)*blk
			sums[i] = blocksum.Sum(b[from:min(from+blk, int64(len(b)))])
		}
		return nil
	}
}

// diff yields what differs between two models, in grains, with zeros marked.
func diff(now, was disks, grain int64) tracker {
	return func(id dr.DiskID, _ dr.Point) iter.Seq2[dr.Extent, error] {
		return func(yield func(dr.Extent, error) bool) {
			b, old := now[id], was[id]
			for off := int64(0); off < int64(len(b)); off += grain {
				end := min(off+grain, int64(len(b)))
				if end <= int64(len(old)) && bytes.Equal(b[off:end], old[off:end]) {
					continue
				}
				if !yield(dr.Extent{Off: off, Len: end - off, Zero: blocksum.Zero(b[off:end])}, nil) {
					return
				}
			}
		}
	}
}

// mapOf yields the whole of a model's disk in grains, zeros marked.
func mapOf(d disks, grain int64) mapper {
	return func(id dr.DiskID) iter.Seq2[dr.Extent, error] {
		return diff(d, disks{}, grain)(id, dr.Point{})
	}
}

func requireEqual(t testing.TB, want, got disks) {
	t.Helper()
	for id := range want {
		if !bytes.Equal(want[id], got[id]) {
			for i := range want[id] {
				if want[id][i] != got[id][i] {
					require.Failf(t, "disks differ", "disk %s at %d: want %d, got %d", id, i, want[id][i], got[id][i])
				}
			}
			require.Failf(t, "disks differ", "disk %s: want %d bytes, got %d", id, len(want[id]), len(got[id]))
		}
	}
}

var errFault = errors.New("fault")

package pointstoretest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

const block = dr.SumBlock

// epoch is when the suite's points begin.
var epoch = time.Date(2024, 2, 29, 23, 59, 58, 123456789, time.UTC)

// disks is the content that a point should have.
type disks map[dr.DiskID][]byte

func (d disks) clone() disks {
	c := disks{}
	for id, b := range d {
		c[id] = slices.Clone(b)
	}
	return c
}

// kit is a store under test, and the short words in which the promises are
// written. Its methods end the test when the store refuses.
type kit struct {
	testing.TB
	h   Harness
	ctx context.Context
	s   recoverypoint.PointStore
}

func newKit(t testing.TB, h Harness) *kit {
	return &kit{t, h, t.Context(), h.Open(t)}
}

// fill returns bytes, none of them zero, that depend on the name only.
func fill(name string, n int) []byte {
	h := fnv.New64a()
	io.WriteString(h, name)
	var seed [32]byte
	h.Sum(seed[:0])
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b)
	for i := range b {
		b[i] |= 1
	}
	return b
}

// point describes the id-th moment of a machine with disks like these.
func point(m dr.MachineID, id, parent dr.PointID, like disks) dr.Point {
	p := dr.Point{
		ID: id, Parent: parent, Time: epoch, Consistency: dr.CrashConsistent,
		Machine: dr.Machine{ID: m, Name: "name of " + string(m)},
		Cursors: map[dr.DiskID]dr.Cursor{},
	}
	for _, d := range slices.Sorted(maps.Keys(like)) {
		p.Machine.Disks = append(p.Machine.Disks, dr.Disk{ID: d, Size: int64(len(like[d]))})
		p.Cursors[d] = dr.Cursor("cursor of " + string(d) + " at " + string(id))
	}
	return p
}

func (k *kit) create(p dr.Point) dr.Draft {
	k.Helper()
	d, err := k.s.Create(k.ctx, p)
	require.NoError(k, err, "create %s", p.ID)
	return d
}

func (k *kit) write(d dr.Draft, id dr.DiskID, b []byte, off int64) {
	k.Helper()
	n, err := d.WriteAt(k.ctx, id, b, off)
	require.NoError(k, err, "write %d bytes to %q at %d", len(b), id, off)
	require.Equal(k, len(b), n, "bytes written to %q at %d", id, off)
}

// writeAll writes the whole content, in pieces that fit no block.
func (k *kit) writeAll(d dr.Draft, content disks) {
	k.Helper()
	for id, b := range content {
		for off := 0; off < len(b); off += 100_003 {
			k.write(d, id, b[off:min(len(b), off+100_003)], int64(off))
		}
	}
}

func (k *kit) zero(d dr.Draft, id dr.DiskID, off, n int64) {
	k.Helper()
	z, ok := dr.As[dr.Zeroer](d)
	require.True(k, ok, "drafts of stores are dr.Zeroer")
	require.NoError(k, z.Zero(k.ctx, id, off, n), "zero %d bytes of %q at %d", n, id, off)
}

// commit makes the draft a point, and the point visible.
func (k *kit) commit(d dr.Draft, p dr.Point) {
	k.Helper()
	require.NoError(k, d.Commit(k.ctx, p), "commit %s", p.ID)
	require.NoError(k, d.Close(), "close after commit of %s", p.ID)
	k.process(p.Machine.ID)
}

func (k *kit) process(m dr.MachineID) {
	k.Helper()
	if p, ok := dr.As[recoverypoint.Processor](k.s); ok {
		require.NoError(k, p.Process(k.ctx, m))
	}
}

// put stores a point of that content.
func (k *kit) put(m dr.MachineID, id, parent dr.PointID, content disks) dr.Point {
	k.Helper()
	p := point(m, id, parent, content)
	d := k.create(p)
	k.writeAll(d, content)
	k.commit(d, p)
	return p
}

func (k *kit) open(m dr.MachineID, id dr.PointID) dr.Image {
	k.Helper()
	img, err := k.s.Open(k.ctx, m, id)
	require.NoError(k, err, "open %s of %s", id, m)
	return img
}

func (k *kit) close(c io.Closer) {
	k.Helper()
	require.NoError(k, c.Close())
	require.NoError(k, c.Close(), "a second Close is a no-op")
}

// reads requires that the image reads as the content, to the last byte.
func (k *kit) reads(img dr.Image, want disks) {
	k.Helper()
	for id, w := range want {
		got := make([]byte, len(w))
		n, err := img.ReadAt(k.ctx, id, got, 0)
		if !errors.Is(err, io.EOF) {
			require.NoError(k, err, "read disk %q", id)
		}
		require.Equal(k, len(w), n, "bytes read from %q", id)
		k.same(img, id, got, w)
	}
	require.Len(k, img.Point().Machine.Disks, len(want), "disks of the point")
}

func (k *kit) same(img dr.Image, id dr.DiskID, got, want []byte) {
	k.Helper()
	for i := range want {
		if got[i] != want[i] {
			require.FailNow(k, "content differs", "point %s, disk %q of %d bytes: byte %d is %#x, want %#x",
				img.Point().ID, id, len(want), i, got[i], want[i])
		}
	}
}

// holds requires that the stored point reads as the content.
func (k *kit) holds(m dr.MachineID, id dr.PointID, want disks) {
	k.Helper()
	img := k.open(m, id)
	k.reads(img, want)
	k.close(img)
}

func (k *kit) list(m dr.MachineID) []dr.Point {
	k.Helper()
	return collect(k, k.s.List(k.ctx, m))
}

func (k *kit) listed(m dr.MachineID, want ...dr.PointID) {
	k.Helper()
	got := []dr.PointID{}
	for _, p := range k.list(m) {
		got = append(got, p.ID)
	}
	require.Equal(k, append([]dr.PointID{}, want...), got, "points of %s, oldest first", m)
}

func (k *kit) absent(m dr.MachineID, id dr.PointID) {
	k.Helper()
	for _, p := range k.list(m) {
		require.NotEqual(k, id, p.ID, "a point that should not be visible is listed")
	}
	img, err := k.s.Open(k.ctx, m, id)
	if err == nil {
		img.Close()
	}
	require.ErrorIs(k, err, dr.ErrNotFound, "open %s, which should not be visible", id)
}

func (k *kit) prune() {
	k.Helper()
	if p, ok := dr.As[recoverypoint.Pruner](k.s); ok {
		_, err := p.Prune(k.ctx)
		require.NoError(k, err, "prune")
	}
}

// reopen plays a crash. It returns false if the harness can't.
func (k *kit) reopen() bool {
	k.Helper()
	if k.h.Reopen == nil {
		return false
	}
	k.s = k.h.Reopen(k.TB, k.s)
	return true
}

// durable returns what the draft says is there already, checked for form.
func (k *kit) durable(d dr.Draft, id dr.DiskID, size int64) []dr.Extent {
	k.Helper()
	r, ok := dr.As[dr.Resumer](d)
	require.True(k, ok, "drafts of stores are dr.Resumer")
	return wellFormed(k, collect(k, r.Durable(k.ctx, id)), size)
}

// wellFormed requires ascending extents that don't overlap, within the disk.
func wellFormed(k *kit, extents []dr.Extent, size int64) []dr.Extent {
	k.Helper()
	at := int64(0)
	for _, e := range extents {
		require.Positive(k, e.Len, "length of extent %+v", e)
		require.GreaterOrEqual(k, e.Off, at, "extents ascend and don't overlap: %+v", extents)
		require.LessOrEqual(k, e.End(), size, "extent %+v is within the disk", e)
		at = e.End()
	}
	return extents
}

func collect[T any](k *kit, seq iter.Seq2[T, error]) []T {
	k.Helper()
	var all []T
	for v, err := range seq {
		require.NoError(k, err)
		all = append(all, v)
	}
	return all
}

func numbered(n int) dr.PointID { return dr.PointID(fmt.Sprintf("p%03d", n)) }

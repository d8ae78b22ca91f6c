package pageblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// sketch is a disk's content: what was written over zeros, in this order.
type sketch struct {
	size   int64
	layers []layer
}

type layer struct {
	off int64
	b   []byte
}

func (s sketch) with(off int64, b []byte) sketch {
	return sketch{s.size, append(slices.Clip(s.layers), layer{off, b})}
}

func (s sketch) resized(size int64) sketch {
	r := sketch{size: size}
	for _, l := range s.layers {
		if l.off < size {
			r.layers = append(r.layers, layer{l.off, l.b[:min(int64(len(l.b)), size-l.off)]})
		}
	}
	return r
}

func (s sketch) read(off, n int64) []byte {
	p := make([]byte, n)
	for _, l := range s.layers {
		from, to := max(off, l.off), min(off+n, l.off+int64(len(l.b)))
		if from < to {
			copy(p[from-off:to-off], l.b[from-l.off:])
		}
	}
	return p
}

// noise returns bytes that depend on the seed, none of them zero.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x) | 1
	}
	return b
}

// planned is a point and what it is to hold.
type planned struct {
	dr.Point
	disks map[dr.DiskID]sketch
	over  map[dr.DiskID]sketch // its parent's
}

func plan(id dr.PointID, parent planned, disks map[dr.DiskID]sketch) planned {
	p := dr.Point{ID: id, Parent: parent.ID, Time: time.Unix(1_700_000_000, 5).UTC(), Machine: dr.Machine{ID: "m"}}
	for _, d := range []dr.DiskID{"a", "b", "c"} {
		if s, ok := disks[d]; ok {
			p.Machine.Disks = append(p.Machine.Disks, dr.Disk{ID: d, Size: s.size})
		}
	}
	return planned{p, disks, parent.disks}
}

// put stores a point as a copy does that may have been interrupted before.
func put(ctx context.Context, s *Store, p planned) error {
	d, err := s.Create(ctx, p.Point)
	if err != nil {
		return err
	}
	if err := fill(ctx, d, p); err != nil {
		return errors.Join(err, d.Close())
	}
	if err := d.Commit(ctx, p.Point); err != nil {
		return errors.Join(err, d.Close())
	}
	return d.Close()
}

// fill writes what differs from the parent and is not durable. The whole of a
// layer is written, so that what was written before it doesn't matter.
func fill(ctx context.Context, d dr.Draft, p planned) error {
	for _, disk := range p.Machine.Disks {
		s := p.disks[disk.ID]
		durable := pieces{}
		for e, err := range d.(dr.Resumer).Durable(ctx, disk.ID) {
			if err != nil {
				return err
			}
			durable.put(piece{off: e.Off, n: e.Len, seg: noSegment})
		}
		was := p.over[disk.ID]
		for _, l := range append(slices.Clone(s.layers), was.layers...) {
			end := min(l.off+int64(len(l.b)), s.size)
			if l.off >= end || bytes.Equal(s.read(l.off, end-l.off), was.read(l.off, end-l.off)) && end <= was.size {
				continue
			}
			for q, known := range durable.within(l.off, end) {
				if known {
					continue
				}
				if _, err := d.WriteAt(ctx, disk.ID, s.read(q.off, q.n), q.off); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// holds requires that the stored point reads as planned where anything was ever
// written, and that its map calls the rest zeros.
func holds(t testing.TB, s *Store, p planned) {
	t.Helper()
	img, err := s.Open(t.Context(), "m", p.ID)
	require.NoError(t, err, "open %s", p.ID)
	defer img.Close()
	require.Equal(t, p.Point.Machine, img.Point().Machine)
	reads(t, img, p)
}

func reads(t testing.TB, img dr.Image, p planned) {
	t.Helper()
	for id, s := range p.disks {
		for e, err := range img.(dr.Mapper).Extents(t.Context(), id) {
			require.NoError(t, err)
			if e.Zero {
				for _, l := range s.layers {
					from, to := max(e.Off, l.off), min(e.End(), l.off+int64(len(l.b)))
					if from < to {
						require.Equal(t, make([]byte, to-from), s.read(from, to-from), "%s: %q at %d is called zeros", p.ID, id, from)
					}
				}
				continue
			}
			for off := e.Off; off < e.End(); off += 4 << 20 {
				got := make([]byte, min(4<<20, e.End()-off))
				_, err := img.ReadAt(t.Context(), id, got, off)
				if !errors.Is(err, io.EOF) {
					require.NoError(t, err)
				}
				want := s.read(off, int64(len(got)))
				if !bytes.Equal(want, got) {
					for i := range got {
						require.Equal(t, want[i], got[i], "%s: byte %d of %q", p.ID, off+int64(i), id)
					}
				}
			}
		}
	}
}

// covers requires that what lies outside the changes is equal in both points.
func covers(t testing.TB, s *Store, now, was planned) {
	t.Helper()
	img, err := s.Open(t.Context(), "m", now.ID)
	require.NoError(t, err)
	defer img.Close()
	for id, disk := range now.disks {
		told := pieces{}
		for e, err := range img.(dr.ChangeTracker).Changes(t.Context(), id, was.Point) {
			require.NoError(t, err)
			told.put(piece{off: e.Off, n: e.Len, seg: noSegment})
			if e.Zero {
				for _, l := range disk.layers {
					from, to := max(e.Off, l.off), min(e.End(), l.off+int64(len(l.b)))
					if from < to {
						require.Equal(t, make([]byte, to-from), disk.read(from, to-from), "told to be zeros")
					}
				}
			}
		}
		for _, l := range append(slices.Clone(disk.layers), was.disks[id].layers...) {
			for q, known := range told.within(l.off, min(l.off+int64(len(l.b)), disk.size)) {
				if !known {
					require.Equal(t, was.disks[id].read(q.off, q.n), disk.read(q.off, q.n), "%s since %s: %q at %d changed and was not told", now.ID, was.ID, id, q.off)
				}
			}
		}
	}
}

func listed(t testing.TB, s *Store) (ids []dr.PointID) {
	t.Helper()
	for p, err := range s.List(t.Context(), "m") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	return ids
}

// onlyNeeded requires that the container has nothing but what the head names.
func onlyNeeded(t testing.TB, s *Store) {
	t.Helper()
	h, _, err := s.readHead(t.Context(), "m")
	require.NoError(t, err)
	need := map[string]bool{"m/m/" + headName: true}
	for _, b := range h.Blobs {
		need["m/m/"+b.Name] = true
	}
	for _, e := range h.Points {
		need["m/m/"+e.Manifest] = true
		if mf, err := s.readManifest(t.Context(), "m", e); err == nil && !e.Received && !e.Bare {
			for _, d := range mf.Disks {
				need["m/m/"+d.Blob+"?"+d.Snapshot] = true
			}
		}
	}
	staged := h.staged()
	var has []string
	for o, err := range s.list(t.Context(), "", true) {
		require.NoError(t, err)
		name := o.name
		if rest, ok := strings.CutPrefix(name, "m/m/"+stageDir); ok && staged[rest[:16]] {
			continue
		}
		if o.snapshot != "" {
			name += "?" + o.snapshot
		}
		if !need[name] {
			has = append(has, name)
		}
		delete(need, name)
	}
	require.Empty(t, has, "left over")
	require.Empty(t, need, "missing")
}

// gone requires that all of the store's content can be deleted.
func gone(t testing.TB, s *Store) {
	t.Helper()
	for _, id := range listed(t, s) {
		require.NoError(t, s.Delete(t.Context(), "m", id))
	}
	for p, err := range s.Pending(t.Context(), "m") {
		require.NoError(t, err)
		require.NoError(t, s.Delete(t.Context(), "m", p.ID))
	}
	_, err := s.Prune(t.Context())
	require.NoError(t, err)
	var left []string
	for o, err := range s.list(t.Context(), "", true) {
		require.NoError(t, err)
		left = append(left, fmt.Sprint(o.name, " ", o.snapshot))
	}
	require.Equal(t, []string{"m/m/head "}, left)
}

func sound(t testing.TB, s *Store) {
	t.Helper()
	for d, err := range s.Scrub(t.Context()) {
		require.NoError(t, err)
		require.Fail(t, "damage", "%+v: %v", d, d.Err)
	}
}

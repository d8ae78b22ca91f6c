package pageblob

import (
	"context"
	"fmt"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// version is a point in the tree of all points of a machine. Number 0, without
// a manifest, are the zeros that lines of points begin with.
type version struct {
	seq, parent uint64
	mf          *manifest
}

// changes returns what of a disk may differ in the point to from the point
// from, by the records of what each point changed in its parent: those on the
// way from the last point that both descend from. Zero extents read as zeros in
// to.
func (s *Store) changes(ctx context.Context, m dr.MachineID, h *head, disk dr.DiskID, from, to version) ([]dr.Extent, error) {
	size := to.mf.size(disk)
	up, down, known := path(h, from, to)
	var l pieces
	lay := func(p piece, zero bool) {
		p.seg, p.at = noSegment, 0
		if zero {
			p.at = isZero
		}
		l.put(p)
	}
	if !known {
		lay(piece{n: size}, false)
		return l.extents(), nil
	}
	delta := func(seq uint64) (pieces, error) {
		mf := to.mf
		switch seq {
		case to.seq:
		case from.seq:
			mf = from.mf
		default:
			var err error
			if mf, err = s.readManifest(ctx, m, *h.bySeq(seq)); err != nil {
				return nil, err
			}
		}
		i, ok := mf.disk(disk)
		if !ok {
			return nil, nil
		}
		return mf.delta[i], nil
	}
	for _, seq := range up {
		d, err := delta(seq)
		if err != nil {
			return nil, err
		}
		for _, p := range d {
			lay(p, false)
		}
	}
	was := int64(0)
	if from.mf != nil {
		was = from.mf.size(disk)
	}
	lay(piece{off: was, n: size - was}, false)
	for _, seq := range slices.Backward(down) {
		d, err := delta(seq)
		if err != nil {
			return nil, err
		}
		for _, p := range d {
			lay(p, p.at == isZero)
		}
	}
	return l.clipped(0, size).extents(), nil
}

// path lists the points between from and the last one that it has in common
// with to, from from on, and the same from to on. known is false if the head
// doesn't say what they have in common.
func path(h *head, from, to version) (up, down []uint64, known bool) {
	parent := func(seq uint64) (uint64, bool) {
		switch {
		case seq == 0:
			return 0, false
		case seq == from.seq:
			return from.parent, true
		case seq == to.seq:
			return to.parent, true
		}
		if e := h.bySeq(seq); e != nil {
			return e.Parent, true
		}
		return 0, false
	}
	a, b := from.seq, to.seq
	for a != b {
		// Parents have lower numbers than their children, so whoever has the
		// higher one is not what both descend from.
		var ok bool
		if a > b {
			up = append(up, a)
			a, ok = parent(a)
		} else {
			down = append(down, b)
			b, ok = parent(b)
		}
		if !ok {
			return nil, nil, false
		}
	}
	return up, down, true
}

// version returns the point of that number as the head knows it.
func (s *Store) version(ctx context.Context, m dr.MachineID, h *head, seq uint64) (version, error) {
	if seq == 0 {
		return version{}, nil
	}
	e := h.bySeq(seq)
	if e == nil {
		return version{}, fmt.Errorf("%w: point number %d", dr.ErrNotFound, seq)
	}
	mf, err := s.readManifest(ctx, m, *e)
	return version{e.Seq, e.Parent, mf}, err
}

package ntfs

import (
	"slices"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// run is a stretch of clusters.
type run struct {
	vcn, count int64 // within the stream
	lcn        int64 // on the volume; -1: sparse
}

// stream is the bytes of an attribute.
type stream struct {
	f                 *FS
	size, initialized int64
	value             []byte // if resident
	runs              []run  // in order, from cluster 0 on without gaps
}

// stream puts the parts of one attribute together.
func (f *FS) stream(parts []attribute) (stream, error) {
	if len(parts) == 0 {
		return stream{}, guestfs.Corrupt("no such attribute")
	}
	a := parts[0]
	if a.resident {
		return stream{f: f, value: a.value, size: int64(len(a.value)), initialized: int64(len(a.value))}, nil
	}
	slices.SortStableFunc(parts, func(a, b attribute) int { return int(min(max(a.first-b.first, -1), 1)) })
	a = parts[0]
	if a.flags&0x00ff != 0 {
		return stream{}, guestfs.Unsupported("a compressed file")
	}
	if a.flags&0x4000 != 0 {
		return stream{}, guestfs.Unsupported("an encrypted file")
	}
	s := stream{f: f, size: int64(le.Uint64(a.raw[48:])), initialized: int64(le.Uint64(a.raw[56:]))}
	if s.size < 0 || s.initialized < 0 || a.first != 0 {
		return stream{}, guestfs.Corrupt("an attribute of %d bytes, %d of them written", s.size, s.initialized)
	}
	next := int64(0)
	for _, p := range parts {
		if p.resident || p.first != next {
			return stream{}, guestfs.Corrupt("an attribute whose clusters from %d on are missing", next)
		}
		more, end, err := f.runs(p)
		if err != nil {
			return stream{}, err
		}
		s.runs, next = append(s.runs, more...), end
	}
	return s, nil
}

// runs decodes an attribute's list: of each run a length, and how far it is
// from the one before.
func (f *FS) runs(a attribute) ([]run, int64, error) {
	at := int(le.Uint16(a.raw[32:]))
	if at > len(a.raw) {
		return nil, 0, guestfs.Corrupt("runs beyond their attribute")
	}
	var list []run
	vcn, lcn := a.first, int64(0)
	for b := a.raw[at:]; len(b) > 0 && b[0] != 0; {
		n, m := int(b[0]&15), int(b[0]>>4)
		if n == 0 || n > 8 || m > 8 || 1+n+m > len(b) {
			return nil, 0, guestfs.Corrupt("a run of %d and %d bytes", n, m)
		}
		count := number(b[1 : 1+n])
		r := run{vcn: vcn, count: count, lcn: -1}
		if m > 0 {
			lcn += number(b[1+n : 1+n+m])
			r.lcn = lcn
		}
		clusters := f.size / f.cluster
		if count <= 0 || count > 1<<50 || vcn > 1<<50 || m > 0 && (lcn < 0 || lcn >= clusters || count > clusters-lcn) {
			return nil, 0, guestfs.Corrupt("%d clusters from %d on", count, lcn)
		}
		list = append(list, r)
		vcn += count
		b = b[1+n+m:]
	}
	return list, vcn, nil
}

// number is a signed one of up to eight bytes.
func number(b []byte) int64 {
	v := int64(0)
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | int64(b[i])
	}
	shift := 64 - 8*uint(len(b))
	return v << shift >> shift
}

// ReadAt reads as io.ReaderAt does. What was never written reads as zeros.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	return guestfs.ReadPieces(p, off, s.size, s.piece)
}

func (s *stream) piece(p []byte, off int64) (int, error) {
	if s.value != nil {
		return copy(p, s.value[off:]), nil
	}
	if off >= s.initialized {
		clear(p)
		return len(p), nil
	}
	p = p[:min(int64(len(p)), s.initialized-off)]
	vcn := off / s.f.cluster
	i, ok := slices.BinarySearchFunc(s.runs, vcn, func(r run, v int64) int {
		switch {
		case v < r.vcn:
			return 1
		case v >= r.vcn+r.count:
			return -1
		}
		return 0
	})
	if !ok {
		return 0, guestfs.Corrupt("cluster %d of a file is nowhere", vcn)
	}
	r := s.runs[i]
	in := off - r.vcn*s.f.cluster
	p = p[:min(int64(len(p)), r.count*s.f.cluster-in)]
	if r.lcn < 0 {
		clear(p)
		return len(p), nil
	}
	n, err := s.f.r.ReadAt(p, r.lcn*s.f.cluster+in)
	if n == len(p) {
		err = nil
	}
	return n, err
}

package pageblob

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// manifest describes a committed point. An object that holds one never changes.
//
// It is the magic, the length of the JSON, the JSON, the pieces of each disk,
// and the BLAKE3 sum of all before. Numbers are little-endian, those of pieces
// variable-length (encoding/binary). A disk's pieces are their number, then
// each one's distance from the end of the one before, its length, and its kind:
// 0 for zeros, 1 for bytes that are in no segment, else 2 plus the segment's
// number, followed by where in its data the bytes begin.
type manifest struct {
	Point dr.Point `json:"point"`
	Draft string   `json:"draft"`
	Disks []stored `json:"disks"` // those of Point, in its order
	// Segments are the names of those that the pieces are in, if the point is
	// received only.
	Segments []string `json:"segments,omitempty"`

	// delta is what the point may differ in from its parent, a disk each, in
	// the order of Disks.
	delta []pieces
}

// stored is a disk of a processed point.
type stored struct {
	ID       dr.DiskID `json:"id"`
	Size     int64     `json:"size"`
	Blob     string    `json:"blob,omitempty"` // within the machine's folder
	Snapshot string    `json:"snapshot,omitempty"`
}

const manifestMagic = "LBpoint\x01"

func (m *manifest) disk(id dr.DiskID) (int, bool) {
	for i := range m.Disks {
		if m.Disks[i].ID == id {
			return i, true
		}
	}
	return 0, false
}

// size is that of a disk, and 0 for one that the point lacks.
func (m *manifest) size(id dr.DiskID) int64 {
	if i, ok := m.disk(id); ok {
		return m.Disks[i].Size
	}
	return 0
}

func (m *manifest) bytes() []byte {
	var j bytes.Buffer
	enc := json.NewEncoder(&j)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		panic(err) // nothing in it that JSON can't say
	}
	b := append([]byte(manifestMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[8:], uint32(j.Len()))
	b = append(b, j.Bytes()...)
	for _, l := range m.delta {
		b = binary.AppendUvarint(b, uint64(len(l)))
		at := int64(0)
		for _, p := range l {
			b = binary.AppendUvarint(b, uint64(p.off-at))
			b = binary.AppendUvarint(b, uint64(p.n))
			switch {
			case p.at == isZero:
				b = binary.AppendUvarint(b, 0)
			case p.seg == noSegment:
				b = binary.AppendUvarint(b, 1)
			default:
				b = binary.AppendUvarint(b, uint64(p.seg)+2)
				b = binary.AppendUvarint(b, uint64(p.at))
			}
			at = p.end()
		}
	}
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// parseManifest reads and checks one.
func parseManifest(b []byte) (*manifest, error) {
	bad := func(format string, args ...any) (*manifest, error) {
		return nil, fmt.Errorf("%w: manifest: %s", dr.ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if len(b) < len(manifestMagic)+4+32 || string(b[:len(manifestMagic)]) != manifestMagic {
		return bad("no magic")
	}
	sum := blake3.Sum256(b[:len(b)-32])
	if !bytes.Equal(sum[:], b[len(b)-32:]) {
		return bad("the checksum does not match")
	}
	b = b[len(manifestMagic) : len(b)-32]
	n := int64(binary.LittleEndian.Uint32(b))
	if b = b[4:]; n > int64(len(b)) {
		return bad("cut off")
	}
	m := &manifest{}
	if err := json.Unmarshal(b[:n], m); err != nil {
		return bad("%v", err)
	}
	if err := m.check(); err != nil {
		return bad("%v", err)
	}
	r := numbers{b: b[n:]}
	for _, d := range m.Disks {
		l, ok := r.pieces(d.Size, len(m.Segments))
		if !ok {
			return bad("pieces of disk %q", d.ID)
		}
		m.delta = append(m.delta, l)
	}
	if len(r.b) != 0 {
		return bad("%d bytes too many", len(r.b))
	}
	return m, nil
}

func (m *manifest) check() error {
	if err := check(m.Point); err != nil {
		return err
	}
	if !isNonce(m.Draft) || len(m.Disks) != len(m.Point.Machine.Disks) {
		return fmt.Errorf("draft %q, %d disks", m.Draft, len(m.Disks))
	}
	for i, d := range m.Disks {
		if p := m.Point.Machine.Disks[i]; p.ID != d.ID || p.Size != d.Size {
			return fmt.Errorf("disk %q", d.ID)
		}
		if d.Blob != "" && (!isBlobName(d.Blob) || d.Snapshot == "") {
			return fmt.Errorf("blob %q", d.Blob)
		}
	}
	for _, name := range m.Segments {
		if !isSegmentName(name) {
			return fmt.Errorf("segment %q", name)
		}
	}
	return nil
}

// numbers reads variable-length ones.
type numbers struct {
	b   []byte
	bad bool
}

func (r *numbers) next(most int64) int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > uint64(most) {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

func (r *numbers) pieces(size int64, segments int) (pieces, bool) {
	count := r.next(math.MaxInt32)
	if count > int64(len(r.b)/3) { // a piece has three numbers at least
		return nil, false
	}
	l := make(pieces, 0, count)
	at := int64(0)
	for range count {
		p := piece{off: at + r.next(size-at), seg: noSegment}
		p.n = r.next(size - p.off)
		switch kind := r.next(int64(segments) + 1); kind {
		case 0:
			p.at = isZero
		case 1:
		default:
			p.seg = int32(kind - 2)
			p.at = int32(r.next(maxSegment))
			if int64(p.at)+p.n > maxSegment {
				return nil, false
			}
		}
		if r.bad || p.n == 0 {
			return nil, false
		}
		l = append(l, p)
		at = p.end()
	}
	return l, !r.bad
}

// readManifest reads that of a point in the head.
func (s *Store) readManifest(ctx context.Context, m dr.MachineID, e entry) (*manifest, error) {
	name := machineDir(m) + e.Manifest
	b, _, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	mf, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	if mf.Point.ID != e.ID || mf.Point.Machine.ID != m || mf.Draft != e.Draft {
		return nil, fmt.Errorf("object %s: %w: it is of point %s of machine %s", name, dr.ErrCorrupt, mf.Point.ID, mf.Point.Machine.ID)
	}
	s.points.put(name, mf.Point)
	return mf, nil
}

// pointOf returns what a point was committed as.
func (s *Store) pointOf(ctx context.Context, m dr.MachineID, e entry) (dr.Point, error) {
	if p, ok := s.points.get(machineDir(m) + e.Manifest); ok {
		return p, ended(ctx)
	}
	mf, err := s.readManifest(ctx, m, e)
	if err != nil {
		return dr.Point{}, err
	}
	return mf.Point, nil
}

// pointCache keeps descriptions of points that were listed, which never
// change. It forgets them all when there are too many.
type pointCache struct {
	mu sync.Mutex
	m  map[string]dr.Point
}

const cachedPoints = 4096

func newPointCache() *pointCache { return &pointCache{m: map[string]dr.Point{}} }

func (c *pointCache) get(name string) (dr.Point, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.m[name]
	return p, ok
}

func (c *pointCache) put(name string, p dr.Point) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= cachedPoints {
		clear(c.m)
	}
	c.m[name] = p
}

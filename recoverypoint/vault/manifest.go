package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// manifest is a point: what it is of, and where the maps of its disks begin.
type manifest struct {
	Version int            `json:"version"`
	Seq     uint64         `json:"seq"`
	Point   dr.Point       `json:"point"`
	Disks   []manifestDisk `json:"disks"`
}

type manifestDisk struct {
	ID   dr.DiskID    `json:"id"`
	Size int64        `json:"size"`
	Root *manifestRef `json:"root,omitempty"` // absent: all zeros

	root ref
}

// manifestRef is a ref to a page as JSON.
type manifestRef struct {
	Segment string `json:"segment"`
	Offset  uint32 `json:"offset"`
	Length  int    `json:"length"`
	Sum     string `json:"sum"`
}

// maxDisk is the largest disk that the format can describe, in bytes: four
// levels of pages.
const maxDisk = int64(chunkSize) << (4 * pageBits)

func pointPrefix(m dr.MachineID) string { return "point/" + string(m) + "/" }

func manifestName(m dr.MachineID, seq uint64, id dr.PointID) string {
	return fmt.Sprintf("%s%016x-%s", pointPrefix(m), seq, id)
}

// parseManifestName is the inverse of manifestName.
func parseManifestName(name string) (m dr.MachineID, seq uint64, id dr.PointID, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || len(parts[2]) < 18 {
		return "", 0, "", false
	}
	seq, err := strconv.ParseUint(parts[2][:16], 16, 64)
	m, id = dr.MachineID(parts[1]), dr.PointID(parts[2][17:])
	return m, seq, id, err == nil && manifestName(m, seq, id) == name
}

func (m *manifest) disk(id dr.DiskID) (*manifestDisk, bool) {
	for i := range m.Disks {
		if m.Disks[i].ID == id {
			return &m.Disks[i], true
		}
	}
	return nil, false
}

func encodeManifest(m *manifest) ([]byte, error) {
	for i := range m.Disks {
		d := &m.Disks[i]
		d.Root = nil
		if r := d.root; !r.isZero() {
			d.Root = &manifestRef{Segment: hex.EncodeToString(r.seg[:]), Offset: r.off, Length: r.len.stored(), Sum: r.sum.String()}
		}
	}
	return json.Marshal(m)
}

func parseManifest(b []byte) (*manifest, error) {
	bad := func(what any) error { return fmt.Errorf("%w: manifest: %v", dr.ErrCorrupt, what) }
	m := &manifest{}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(m); err != nil {
		return nil, bad(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, bad("bytes behind its end")
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("%w: manifest version %d", dr.ErrUnsupported, m.Version)
	}
	if m.Point.ID.Validate() != nil || m.Point.Machine.ID.Validate() != nil {
		return nil, bad("names")
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		if d.Size < 0 || d.Size > maxDisk {
			return nil, bad("disk size")
		}
		if d.Root == nil {
			continue
		}
		r := d.Root
		seg, err1 := hex.DecodeString(r.Segment)
		sum, err2 := hex.DecodeString(r.Sum)
		if err1 != nil || err2 != nil || len(seg) != 16 || len(sum) != 16 || dr.Sum(sum).IsZero() || d.Size == 0 ||
			r.Length <= 0 || r.Length > maxBlob || r.Offset < segmentHead || int64(r.Offset)+int64(r.Length) > maxSegment {
			return nil, bad("root")
		}
		d.root = ref{seg: segID(seg), off: r.Offset, len: makeCodecLen(Raw, r.Length), sum: dr.Sum(sum)}
	}
	return m, nil
}

func (s *Store) readManifest(ctx context.Context, m dr.MachineID, e headEntry) (*manifest, error) {
	name := manifestName(m, e.seq, e.id)
	b, err := s.readObject(ctx, kindPoint, name)
	if err != nil {
		return nil, err
	}
	man, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	if man.Seq != e.seq || man.Point.ID != e.id || man.Point.Machine.ID != m {
		return nil, fmt.Errorf("%w: object %s: it is of another point", dr.ErrCorrupt, name)
	}
	return man, nil
}

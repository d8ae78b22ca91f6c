package vault

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// Layout of a segment; see FORMAT.md.
const (
	segmentHead    = 64
	segmentTrailer = 64
	segmentAlign   = 4096
	maxSegment     = 32 << 20
	maxBlob        = chunkSize + tagLen // chunks and pages, sealed
	entrySize      = 48
	footerSalt     = 20 // in the trailer
	footerSaltLen  = 12
	maxEntries     = 8192
	entryWhole     = 1 // the draft had written the whole chunk
	entryZero      = 2 // no blob: the chunk turned to zeros again
)

// owner says whose a segment's blobs are, so that maps can be rebuilt.
type owner struct {
	machine dr.MachineID
	point   dr.PointID
	disks   []dr.Disk // ID and size only
}

// entry is a footer's line about one blob.
type entry struct {
	chunk int64 // the chunk, or the first chunk below the page
	disk  int   // in owner.disks
	level int   // -1: a chunk
	flags byte
	phys  uint32 // where it is; ref.off is where it was in generation 0
	crc   uint32 // CRC-32C of the stored bytes
	ref   ref
}

// footer is what a segment says of itself.
type footer struct {
	owner
	entries []entry
}

func segmentName(id segID, gen uint32) string {
	return fmt.Sprintf("%s%s.%d", segmentPrefix(id.session()), hex.EncodeToString(id[12:]), gen)
}

// segmentPrefix is what the names of a session's segments begin with.
func segmentPrefix(id sessionID) string {
	h := id.String()
	return "seg/" + h[:2] + "/" + h
}

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (id segID, gen uint32, ok bool) {
	base, g, ok := strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ".")
	if !ok || len(base) != 32 {
		return id, 0, false
	}
	if _, err := hex.Decode(id[:], []byte(base)); err != nil {
		return id, 0, false
	}
	n, err := strconv.ParseUint(g, 10, 32)
	return id, uint32(n), err == nil && segmentName(id, uint32(n)) == name
}

func (k *keyring) cipherByte() byte {
	if k == nil {
		return cipherNone
	}
	return cipherGCM
}

func (k *keyring) overhead() int {
	if k == nil {
		return 0
	}
	return tagLen
}

func (k *keyring) segmentHeader(id segID, gen uint32) []byte {
	b := make([]byte, segmentHead)
	copy(b, magic)
	b[8], b[9] = byte(kindSegment), k.cipherByte()
	copy(b[16:], id[:])
	binary.LittleEndian.PutUint32(b[32:], gen)
	sum := blocksum.Sum(b[:48])
	copy(b[48:], sum[:])
	return b
}

func (k *keyring) checkSegmentHeader(b []byte, id segID, gen uint32) error {
	if len(b) < segmentHead || !bytes.Equal(b[:segmentHead], k.segmentHeader(id, gen)) {
		return fmt.Errorf("%w: segment header", dr.ErrCorrupt)
	}
	return nil
}

// appendFooter encodes footer and trailer behind end bytes of a segment, so
// that the segment's size becomes a multiple of segmentAlign. b may have spare
// capacity.
func (k *keyring) appendFooter(b []byte, id segID, end int, f *footer) []byte {
	body := appendFooterBody(nil, f)
	stored := len(body) + k.overhead()
	pad := -(end + stored + segmentTrailer) & (segmentAlign - 1)
	start := len(b)
	b = append(b, make([]byte, pad)...)
	t := make([]byte, segmentTrailer-sumLen)
	if k == nil {
		b = append(b, body...)
	} else {
		// A key of its own each time: what a prune that was killed left of a
		// generation may have had other entries.
		rand.Read(t[footerSalt:][:footerSaltLen])
		b = k.footerAEAD(id, t[footerSalt:][:footerSaltLen]).Seal(b, nonce(0), body, nil)
	}
	copy(t, magic)
	binary.LittleEndian.PutUint32(t[8:], uint32(end))
	binary.LittleEndian.PutUint32(t[12:], uint32(end+pad))
	binary.LittleEndian.PutUint32(t[16:], uint32(stored))
	copy(t[32:], id[:])
	b = append(b, t...)
	sum := blocksum.Sum(b[start:])
	return append(b, sum[:]...)
}

func (k *keyring) footerAEAD(id segID, salt []byte) cipher.AEAD {
	return k.aead("footer", slices.Concat(id[:], salt))
}

func appendFooterBody(b []byte, f *footer) []byte {
	str := func(s string) {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	str(string(f.machine))
	str(string(f.point))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(f.disks)))
	for _, d := range f.disks {
		str(string(d.ID))
		b = binary.LittleEndian.AppendUint64(b, uint64(d.Size))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.entries)))
	for i := range f.entries {
		e := &f.entries[i]
		b = binary.LittleEndian.AppendUint64(b, uint64(e.chunk))
		b = binary.LittleEndian.AppendUint16(b, uint16(e.disk))
		b = append(b, byte(e.level+1), e.flags)
		b = binary.LittleEndian.AppendUint32(b, e.ref.off)
		b = binary.LittleEndian.AppendUint32(b, e.phys)
		b = binary.LittleEndian.AppendUint32(b, uint32(e.ref.len))
		b = binary.LittleEndian.AppendUint32(b, e.crc)
		b = append(b, 0, 0, 0, 0)
		b = append(b, e.ref.sum[:]...)
	}
	return b
}

// trailer is the end of a segment: where its footer is.
type trailer struct{ end, footer, stored int }

func parseTrailer(b []byte, id segID, size int64) (trailer, error) {
	bad := fmt.Errorf("%w: segment trailer", dr.ErrCorrupt)
	if len(b) != segmentTrailer || size > maxSegment || string(b[:8]) != magic || segID(b[32:48]) != id {
		return trailer{}, bad
	}
	t := trailer{
		end:    int(binary.LittleEndian.Uint32(b[8:])),
		footer: int(binary.LittleEndian.Uint32(b[12:])),
		stored: int(binary.LittleEndian.Uint32(b[16:])),
	}
	if t.end < segmentHead || t.footer < t.end || t.footer-t.end >= segmentAlign || int64(t.footer)+int64(t.stored)+segmentTrailer != size {
		return trailer{}, bad
	}
	return t, nil
}

// parseFooter decodes what lies behind the blobs: padding, footer and trailer.
func (k *keyring) parseFooter(b []byte, id segID, t trailer) (*footer, error) {
	bad := func(what string) error { return fmt.Errorf("%w: segment footer: %s", dr.ErrCorrupt, what) }
	if len(b) != t.footer-t.end+t.stored+segmentTrailer {
		return nil, bad("length")
	}
	if sum := blocksum.Sum(b[:len(b)-sumLen]); !bytes.Equal(sum[:], b[len(b)-sumLen:]) {
		return nil, bad("its sum doesn't match")
	}
	if !blocksum.Zero(b[:t.footer-t.end]) {
		return nil, bad("padding")
	}
	body := b[t.footer-t.end : len(b)-segmentTrailer]
	if k != nil {
		var err error
		if body, err = k.footerAEAD(id, b[len(b)-segmentTrailer+footerSalt:][:footerSaltLen]).Open(nil, nonce(0), body, nil); err != nil {
			return nil, bad("not sealed by this vault's key")
		}
	}
	return parseFooterBody(body, id, t)
}

func parseFooterBody(b []byte, id segID, t trailer) (*footer, error) {
	bad := func(what string) error { return fmt.Errorf("%w: segment footer: %s", dr.ErrCorrupt, what) }
	var f footer
	str := func() (string, bool) {
		if len(b) < 2 {
			return "", false
		}
		n := int(binary.LittleEndian.Uint16(b))
		if len(b) < 2+n {
			return "", false
		}
		s := string(b[2 : 2+n])
		b = b[2+n:]
		return s, true
	}
	machine, ok1 := str()
	point, ok2 := str()
	if !ok1 || !ok2 || len(b) < 2 {
		return nil, bad("owner")
	}
	f.machine, f.point = dr.MachineID(machine), dr.PointID(point)
	n := int(binary.LittleEndian.Uint16(b))
	b = b[2:]
	for range n {
		s, ok := str()
		if !ok || len(b) < 8 {
			return nil, bad("disks")
		}
		f.disks = append(f.disks, dr.Disk{ID: dr.DiskID(s), Size: int64(binary.LittleEndian.Uint64(b))})
		b = b[8:]
	}
	if len(b) < 4 {
		return nil, bad("cut off")
	}
	n = int(binary.LittleEndian.Uint32(b))
	b = b[4:]
	if n > maxEntries || len(b) != n*entrySize {
		return nil, bad("number of entries")
	}
	f.entries = make([]entry, n)
	for i := range f.entries {
		e := &f.entries[i]
		e.chunk = int64(binary.LittleEndian.Uint64(b))
		e.disk = int(binary.LittleEndian.Uint16(b[8:]))
		e.level = int(b[10]) - 1
		e.flags = b[11]
		e.phys = binary.LittleEndian.Uint32(b[16:])
		e.crc = binary.LittleEndian.Uint32(b[24:])
		e.ref = ref{seg: id, off: binary.LittleEndian.Uint32(b[12:]), len: codecLen(binary.LittleEndian.Uint32(b[20:])), sum: dr.Sum(b[32:48])}
		b = b[entrySize:]
		if e.disk >= len(f.disks) || e.level > 3 || e.chunk < 0 || e.chunk >= max(1, chunks(f.disks[e.disk].Size)) {
			return nil, bad("entry's place on its disk")
		}
		if e.flags&entryZero != 0 {
			continue
		}
		n := e.ref.len.stored()
		if n == 0 || n > maxBlob || e.ref.len.codec() > lastCodec || int64(e.phys) < segmentHead || int64(e.phys)+int64(n) > int64(t.end) || e.ref.isZero() {
			return nil, bad("entry's place in the segment")
		}
	}
	return &f, nil
}

package vmdk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrFormat says that a stream isn't a streamOptimized VMDK, or a broken one.
var ErrFormat = errors.New("not a valid streamOptimized VMDK")

// Limits of what is read and written.
const (
	// MaxCapacity is more than vSphere's largest disk of 62 TiB.
	MaxCapacity = 64 << 40
	// MaxGrain bounds the reader's buffers. All known producers have grains of
	// 64 KiB; the format allows any power of two.
	MaxGrain = 1 << 20

	minGrain = 4 << 10
)

const (
	sector     = 512
	grainBytes = 64 << 10 // of what is written

	tableEntries   = 512
	tableBytes     = tableEntries * 4
	directoryAtEnd = 1<<64 - 1

	magic         = 0x564d444b // "KDMV"
	deflate       = 1
	grainHeader   = 12 // lba and size, before the compressed bytes
	maxDescriptor = 128
)

// Flags of a header.
const (
	flagNewlines   = 1 << 0
	flagCompressed = 1 << 16
	flagMarkers    = 1 << 17
)

// Types of markers: sectors that are not grains.
const (
	markEnd       = 0
	markTable     = 1
	markDirectory = 2
	markFooter    = 3
	markProgress  = 4
)

// newlines are damaged by transfers that take an image for text.
var newlines = [4]byte{'\n', ' ', '\r', '\n'}

// header is the first sector of an image, and its footer. Its units are sectors.
type header struct {
	version, flags                   uint32
	capacity, grain                  uint64
	descriptorAt, descriptorSize     uint64
	tableEntries                     uint32
	redundantAt, directoryAt, before uint64 // before the first grain: the "overhead"
	compression                      uint16
}

func (h header) append(b []byte) []byte {
	start := len(b)
	le := binary.LittleEndian
	b = le.AppendUint32(b, magic)
	b = le.AppendUint32(b, h.version)
	b = le.AppendUint32(b, h.flags)
	for _, v := range []uint64{h.capacity, h.grain, h.descriptorAt, h.descriptorSize} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, h.tableEntries)
	for _, v := range []uint64{h.redundantAt, h.directoryAt, h.before} {
		b = le.AppendUint64(b, v)
	}
	b = append(b, 0) // closed cleanly
	b = append(b, newlines[:]...)
	b = le.AppendUint16(b, h.compression)
	return append(b, make([]byte, start+sector-len(b))...)
}

// parseHeader refuses what this package can't read.
func parseHeader(b *[sector]byte) (header, error) {
	le := binary.LittleEndian
	if le.Uint32(b[:]) != magic {
		return header{}, fmt.Errorf("%w: it begins with %q", ErrFormat, b[:4])
	}
	h := header{
		version: le.Uint32(b[4:]), flags: le.Uint32(b[8:]),
		capacity: le.Uint64(b[12:]), grain: le.Uint64(b[20:]),
		descriptorAt: le.Uint64(b[28:]), descriptorSize: le.Uint64(b[36:]), tableEntries: le.Uint32(b[44:]),
		redundantAt: le.Uint64(b[48:]), directoryAt: le.Uint64(b[56:]), before: le.Uint64(b[64:]),
		compression: le.Uint16(b[77:]),
	}
	const needed = flagCompressed | flagMarkers
	switch {
	case h.version < 1 || h.version > 3:
		return h, fmt.Errorf("%w: version %d", ErrFormat, h.version)
	case h.flags&needed != needed || h.compression != deflate:
		return h, fmt.Errorf("%w: flags %#x, compression %d: another kind of VMDK", ErrFormat, h.flags, h.compression)
	case h.flags&flagNewlines != 0 && [4]byte(b[73:77]) != newlines:
		return h, fmt.Errorf("%w: line ends were changed to %q: was it transferred as text?", ErrFormat, b[73:77])
	case h.capacity > MaxCapacity/sector:
		return h, fmt.Errorf("%w: capacity of %d sectors", ErrFormat, h.capacity)
	case h.grain < minGrain/sector || h.grain > MaxGrain/sector || h.grain&(h.grain-1) != 0:
		return h, fmt.Errorf("%w: grains of %d sectors", ErrFormat, h.grain)
	case h.tableEntries != tableEntries:
		return h, fmt.Errorf("%w: tables of %d entries", ErrFormat, h.tableEntries)
	case h.before < 1 || h.before > 1<<32:
		return h, fmt.Errorf("%w: the first grain is at sector %d", ErrFormat, h.before)
	case h.descriptorSize > maxDescriptor:
		return h, fmt.Errorf("%w: descriptor of %d sectors", ErrFormat, h.descriptorSize)
	case h.descriptorSize > 0 && (h.descriptorAt < 1 || h.before < h.descriptorSize || h.descriptorAt > h.before-h.descriptorSize):
		return h, fmt.Errorf("%w: descriptor of %d sectors at sector %d", ErrFormat, h.descriptorSize, h.descriptorAt)
	}
	return h, nil
}

// tables that a directory of this image has room for.
func (h header) tables() int64 {
	return int64((h.capacity + h.grain*tableEntries - 1) / (h.grain * tableEntries))
}

// directorySectors is the length of a directory.
func (h header) directorySectors() int64 { return sectors(h.tables() * 4) }

// sectors that n bytes fill.
func sectors(n int64) int64 { return (n + sector - 1) / sector }

package vhdx

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

// What stands in front of the first MiB. Each header and each region table has
// 64 KiB to itself.
const (
	fileSignature = "vhdxfile"
	creatorUnits  = 256 // of UTF-16

	headerAt0, headerAt1 = 64 * kib, 128 * kib
	regionAt0, regionAt1 = 192 * kib, 256 * kib
	headerSize           = 4 * kib
	headerArea           = mib

	creator = "lifeboat"
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// seal puts the checksum into a structure that has it at byte 4.
func seal(b []byte) {
	clear(b[4:8])
	le.PutUint32(b[4:], crc32.Checksum(b, castagnoli))
}

func sealed(b []byte) bool {
	sum := crc32.Update(0, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, b[8:]) == le.Uint32(b[4:])
}

// identifier is the file's first 64 KiB.
func identifier() []byte {
	b := make([]byte, 64*kib)
	copy(b, fileSignature)
	for i, u := range utf16.Encode([]rune(creator)) {
		le.PutUint16(b[8+2*i:], u)
	}
	return b
}

// header is what changes with each session of writing. Of the two in the file
// the valid one with the higher sequence counts.
type header struct {
	sequence  uint64
	fileWrite GUID // the file's content, all of it
	dataWrite GUID // what the virtual disk shows
	logGUID   GUID // null: the log is empty
	logSize   int64
	logAt     int64
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, "head")
	le.PutUint64(b[8:], h.sequence)
	copy(b[16:], h.fileWrite[:])
	copy(b[32:], h.dataWrite[:])
	copy(b[48:], h.logGUID[:])
	le.PutUint16(b[64:], 0) // the log's version
	le.PutUint16(b[66:], 1) // the file's
	le.PutUint32(b[68:], uint32(h.logSize))
	le.PutUint64(b[72:], uint64(h.logAt))
	seal(b)
	return b
}

// readHeader finds the header that counts, and which of the two it is.
func readHeader(f File) (h header, slot int, err error) {
	var sign [8]byte
	size, err := f.Size()
	if err != nil {
		return h, 0, err
	}
	if size < headerArea {
		return h, 0, formatError("a file of %d bytes", size)
	}
	if size > maxFile {
		return h, 0, unsupported("a file of %d bytes", size)
	}
	if err := readFull(f, sign[:], 0); err != nil {
		return h, 0, err
	}
	if string(sign[:]) != fileSignature {
		return h, 0, formatError("no signature")
	}
	slot = -1
	var best [headerSize]byte
	for i, off := range []int64{headerAt0, headerAt1} {
		var b [headerSize]byte
		if err := readFull(f, b[:], off); err != nil {
			return h, 0, err
		}
		if string(b[:4]) != "head" || !sealed(b[:]) {
			continue
		}
		if slot >= 0 {
			this, other := le.Uint64(b[8:]), le.Uint64(best[8:])
			if this == other && b != best {
				return h, 0, corrupt(off, "two headers with the sequence %d", this)
			}
			if this <= other {
				continue
			}
		}
		slot, best = i, b
	}
	if slot < 0 {
		return h, 0, formatError("no valid header")
	}
	h, err = parseHeader(best[:], int64(headerAt0+slot*(headerAt1-headerAt0)), size)
	return h, slot, err
}

func parseHeader(b []byte, at, fileSize int64) (header, error) {
	h := header{
		sequence:  le.Uint64(b[8:]),
		fileWrite: GUID(b[16:32]),
		dataWrite: GUID(b[32:48]),
		logGUID:   GUID(b[48:64]),
		logSize:   int64(le.Uint32(b[68:])),
		logAt:     int64(le.Uint64(b[72:])),
	}
	if v := le.Uint16(b[66:]); v != 1 {
		return h, unsupported("format version %d", v)
	}
	if v := le.Uint16(b[64:]); v != 0 && h.logGUID != (GUID{}) {
		return h, unsupported("log version %d", v)
	}
	if h.logSize > maxLog {
		return h, unsupported("a log of %d bytes", h.logSize)
	}
	if h.logSize%mib != 0 || h.logSize == 0 || h.logAt%mib != 0 || h.logAt < headerArea || h.logAt > fileSize-h.logSize {
		return h, corrupt(at, "a log of %d bytes at %d in a file of %d", h.logSize, h.logAt, fileSize)
	}
	return h, nil
}

package vmwaretest

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The streamOptimized format: "VMware Virtual Disk Format 5.0", sections
// "Hosted sparse extents" and "Stream-optimized compressed sparse extents".
const (
	sector         = 512
	grainSectors   = blockSize / sector
	tableEntries   = 512
	streamMagic    = 0x564d444b // "KDMV"
	streamFlags    = 1 | 1<<16 | 1<<17
	streamOverhead = 128 // sectors before the first grain
	directoryAtEnd = 1<<64 - 1

	markerEnd       = 0
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
)

type streamHeader struct {
	Magic, Version, Flags                             uint32
	Capacity, GrainSize, DescriptorAt, DescriptorSize uint64
	TableEntries                                      uint32
	RedundantAt, DirectoryAt, Overhead                uint64
	Unclean                                           byte
	LineEnds                                          [4]byte
	Compression                                       uint16
	_                                                 [433]byte
}

type streamMarker struct {
	Sectors uint64
	Size    uint32 // 0: a marker; else the size of a compressed grain
	Type    uint32
	_       [496]byte
}

// streamWriter writes a VMDK from start to end.
type streamWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (s *streamWriter) write(p []byte) {
	if s.err == nil {
		var n int
		n, s.err = s.w.Write(p)
		s.n += int64(n)
	}
}

func (s *streamWriter) value(v any) {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil && s.err == nil {
		s.err = err
	}
	s.write(b.Bytes())
}

func (s *streamWriter) pad(to int64) {
	if rest := s.n % to; rest != 0 {
		s.write(make([]byte, to-rest))
	}
}

// writeStream writes c as a streamOptimized VMDK. Blocks of zeros are left out.
func writeStream(w io.Writer, c *content, name string) error {
	s := &streamWriter{w: w}
	size := c.Size()
	header := streamHeader{
		Magic: streamMagic, Version: 3, Flags: streamFlags,
		Capacity: uint64(size / sector), GrainSize: grainSectors,
		DescriptorAt: 1, DescriptorSize: 20, TableEntries: tableEntries,
		DirectoryAt: directoryAtEnd, Overhead: streamOverhead,
		LineEnds: [4]byte{'\n', ' ', '\r', '\n'}, Compression: 1,
	}
	s.value(&header)
	s.write([]byte(streamDescriptor(size, name)))
	s.pad(streamOverhead * sector)
	grains := (size + blockSize - 1) / blockSize
	directory := make([]uint32, (grains+tableEntries-1)/tableEntries)
	for i := range directory {
		directory[i] = s.table(c, int64(i))
		if s.err != nil {
			return s.err
		}
	}
	s.value(&streamMarker{Sectors: uint64(len(directory)*4+sector-1) / sector, Type: markerDirectory})
	header.DirectoryAt = uint64(s.n / sector)
	s.value(directory)
	s.pad(sector)
	s.value(&streamMarker{Sectors: 1, Type: markerFooter})
	s.value(&header)
	s.value(&streamMarker{Type: markerEnd})
	return s.err
}

// table writes the grains of one table and the table, and returns the table's
// sector; 0 if it has none.
func (s *streamWriter) table(c *content, index int64) uint32 {
	c.mu.RLock()
	pg := c.pages[index]
	var blocks [pageBlocks]block
	if pg != nil {
		blocks = pg.blocks
	}
	c.mu.RUnlock()
	var entries [tableEntries]uint32
	used := false
	for i, b := range blocks {
		off := (index*tableEntries + int64(i)) * blockSize
		if b.data == nil || off >= c.Size() {
			continue
		}
		var packed bytes.Buffer
		z, _ := zlib.NewWriterLevel(&packed, zlib.BestSpeed)
		z.Write(b.data)
		z.Close()
		entries[i], used = uint32(s.n/sector), true
		s.value(struct {
			At   uint64
			Size uint32
		}{uint64(off / sector), uint32(packed.Len())})
		s.write(packed.Bytes())
		s.pad(sector)
		if s.err != nil {
			return 0
		}
	}
	if !used {
		return 0
	}
	s.value(&streamMarker{Sectors: tableEntries * 4 / sector, Type: markerTable})
	at := uint32(s.n / sector)
	s.value(entries[:])
	return at
}

func streamDescriptor(size int64, name string) string {
	sectors := size / sector
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.adapterType = "lsilogic"
`, sectors, name, sectors/(255*63))
}

var errStream = errors.New("not a streamOptimized VMDK")

// readStream gives every stored grain to emit and returns the capacity. It
// needs memory for one grain.
func readStream(r io.Reader, emit func(off int64, p []byte) error) (int64, error) {
	var h streamHeader
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return 0, fmt.Errorf("%w: %w", errStream, err)
	}
	switch {
	case h.Magic != streamMagic || h.Flags&(1<<16|1<<17) != 1<<16|1<<17:
		return 0, errStream
	case h.GrainSize == 0 || h.GrainSize > 1<<12 || h.Overhead == 0 || h.Overhead > 1<<20 || h.Capacity > 1<<47:
		return 0, fmt.Errorf("%w: grains of %d sectors, overhead %d, capacity %d", errStream, h.GrainSize, h.Overhead, h.Capacity)
	}
	capacity := int64(h.Capacity) * sector
	if _, err := io.CopyN(io.Discard, r, int64(h.Overhead-1)*sector); err != nil {
		return capacity, fmt.Errorf("%w: %w", errStream, err)
	}
	grain := make([]byte, h.GrainSize*sector)
	head := make([]byte, sector)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return capacity, fmt.Errorf("%w: %w", errStream, err)
		}
		val, size := binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint32(head[8:])
		if size == 0 {
			kind := binary.LittleEndian.Uint32(head[12:])
			if kind == markerEnd {
				return capacity, nil
			}
			if kind > markerFooter || val > 1<<32 {
				return capacity, fmt.Errorf("%w: marker %d of %d sectors", errStream, kind, val)
			}
			if _, err := io.CopyN(io.Discard, r, int64(val)*sector); err != nil {
				return capacity, fmt.Errorf("%w: %w", errStream, err)
			}
			continue
		}
		if val >= h.Capacity || int(size) > 2*len(grain) {
			return capacity, fmt.Errorf("%w: grain of %d bytes at sector %d", errStream, size, val)
		}
		packed := make([]byte, (12+int(size)+sector-1)/sector*sector)
		copy(packed, head)
		if len(packed) > sector {
			if _, err := io.ReadFull(r, packed[sector:]); err != nil {
				return capacity, fmt.Errorf("%w: %w", errStream, err)
			}
		}
		z, err := zlib.NewReader(bytes.NewReader(packed[12 : 12+size]))
		if err != nil {
			return capacity, fmt.Errorf("%w: grain at sector %d: %w", errStream, val, err)
		}
		n, err := io.ReadFull(z, grain)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return capacity, fmt.Errorf("%w: grain at sector %d: %w", errStream, val, err)
		}
		off := int64(val) * sector
		if err := emit(off, grain[:min(int64(n), capacity-off)]); err != nil {
			return capacity, err
		}
	}
}

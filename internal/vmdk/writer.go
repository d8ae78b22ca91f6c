package vmdk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Options of a [Writer].
type Options struct {
	// Capacity is the size of the disk in bytes: whole sectors of 512, up to
	// MaxCapacity.
	Capacity int64
	// Name is the extent's in the descriptor, a label. "" takes the one of
	// vSphere's own exports, generated-stream.vmdk.
	Name string
	// Workers is how many grains are compressed at once; 0 means 4. Each takes
	// about 1.5 MiB. The image doesn't depend on it.
	Workers int
}

// Writer makes an image while its disk is read. What isn't written, and grains
// of zeros, take no room in it. Equal disks make equal images, however their
// writes were cut. It is not safe for concurrent use.
//
// A Writer that is not committed needs no clean-up; its image is one that
// readers take for cut short.
type Writer struct {
	w   io.Writer
	at  int64
	err error // of the past, and of any further call

	h         header
	end       int64 // of the last write
	directory []uint32
	table     [tableEntries]uint32
	open      int64 // index of that table

	now     *pack   // the grain that is being filled
	working []*pack // are compressed, in the order of the disk
	idle    []*pack
	workers int
}

var errCommitted = errors.New("vmdk: the image is committed")

// NewWriter writes what is before the first grain.
func NewWriter(dst io.Writer, o Options) (*Writer, error) {
	o.Name, o.Workers = cmp.Or(o.Name, "generated-stream.vmdk"), cmp.Or(o.Workers, 4)
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	if o.Capacity < 0 || o.Capacity%sector != 0 || o.Capacity > MaxCapacity || o.Workers < 0 {
		return nil, fmt.Errorf("vmdk: a disk of %d bytes, %d workers", o.Capacity, o.Workers)
	}
	text := descriptor(o.Capacity/sector, o.Name)
	w := &Writer{w: dst, workers: o.Workers, h: header{
		version: 3, flags: flagNewlines | flagCompressed | flagMarkers,
		capacity: uint64(o.Capacity / sector), grain: grainBytes / sector,
		descriptorAt: 1, descriptorSize: uint64(sectors(int64(len(text)))),
		tableEntries: tableEntries, directoryAt: directoryAtEnd, before: grainBytes / sector, compression: deflate,
	}}
	b := append(w.h.append(nil), text...)
	w.put(append(b, make([]byte, grainBytes-len(b))...))
	return w, w.err
}

// WriteAt puts p on the disk at off, behind everything that was written before.
// It doesn't keep p. Errors of the stream come late, at the latest from Commit.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case w.err != nil:
		return 0, w.err
	case off < w.end:
		return 0, fmt.Errorf("vmdk: write at %d, before %d where the last one ended", off, w.end)
	case off > w.capacity() || int64(len(p)) > w.capacity()-off:
		return 0, fmt.Errorf("vmdk: write of %d bytes at %d of a disk of %d", len(p), off, w.capacity())
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		g := w.grainAt(at)
		n := copy(g.plain[at%grainBytes:], p[done:])
		done += n
		w.end = at + int64(n)
		if w.end%grainBytes == 0 {
			w.leave()
		}
		if w.err != nil {
			return done, w.err
		}
	}
	return done, nil
}

// Commit writes what is behind the last grain. Only then the image is one. A
// second call does nothing.
func (w *Writer) Commit() error {
	if w.err == errCommitted {
		return nil
	}
	w.leave()
	for len(w.working) > 0 {
		w.collect()
	}
	w.closeTable()
	if w.err != nil {
		return w.err
	}
	n := w.h.directorySectors()
	w.mark(uint64(n), markDirectory)
	w.h.directoryAt = uint64(w.at / sector)
	for b := make([]byte, 0, grainBytes); n > 0; {
		part := min(n, grainBytes/sector)
		b = b[:0]
		for range part * sector / 4 {
			at := uint32(0)
			if len(w.directory) > 0 {
				at, w.directory = w.directory[0], w.directory[1:]
			}
			b = binary.LittleEndian.AppendUint32(b, at)
		}
		w.put(b)
		n -= part
	}
	w.mark(1, markFooter)
	w.put(w.h.append(nil))
	w.mark(0, markEnd)
	if w.err == nil {
		w.err = errCommitted
		return nil
	}
	return w.err
}

// Written is the number of bytes of the image so far.
func (w *Writer) Written() int64 { return w.at }

func (w *Writer) capacity() int64 { return int64(w.h.capacity) * sector }

func (w *Writer) put(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	w.at += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = fmt.Errorf("vmdk: at byte %d of the stream: %w", w.at, err)
	}
}

func (w *Writer) mark(length uint64, kind uint32) {
	var b [sector]byte
	binary.LittleEndian.PutUint64(b[:], length)
	binary.LittleEndian.PutUint32(b[12:], kind)
	w.put(b[:])
}

// grainAt is the grain that has the disk's byte at; the one before is left.
func (w *Writer) grainAt(at int64) *pack {
	index := at / grainBytes
	if w.now != nil && w.now.index != index {
		w.leave()
	}
	if w.now == nil {
		if len(w.idle) > 0 {
			w.now, w.idle = w.idle[len(w.idle)-1], w.idle[:len(w.idle)-1]
			clear(w.now.plain)
		} else {
			w.now = newPack()
		}
		w.now.index = index
	}
	return w.now
}

var zeros [grainBytes]byte

// leave has the grain that was filled compressed, if it needs to be.
func (w *Writer) leave() {
	g := w.now
	w.now = nil
	if g == nil {
		return
	}
	if bytes.Equal(g.plain, zeros[:]) {
		w.idle = append(w.idle, g)
		return
	}
	g.start()
	if w.working = append(w.working, g); len(w.working) >= w.workers {
		w.collect()
	}
}

// collect waits for the first grain of those that are compressed and writes it.
func (w *Writer) collect() {
	g := w.working[0]
	w.working = append(w.working[:0], w.working[1:]...)
	<-g.done
	w.idle = append(w.idle, g)
	if g.index/tableEntries != w.open {
		w.closeTable()
		w.open = g.index / tableEntries
	}
	at, err := sectorOf(w.at)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("vmdk: %w", err)
	}
	w.table[g.index%tableEntries] = at
	w.put(g.packed)
}

// closeTable writes the table of the grains so far, if there are any.
func (w *Writer) closeTable() {
	if w.table == [tableEntries]uint32{} {
		return
	}
	w.mark(tableBytes/sector, markTable)
	at, err := sectorOf(w.at)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("vmdk: %w", err)
	}
	w.directory = append(w.directory, make([]uint32, w.open+1-int64(len(w.directory)))...)
	w.directory[w.open] = at
	b := make([]byte, 0, tableBytes)
	for _, at := range w.table {
		b = binary.LittleEndian.AppendUint32(b, at)
	}
	w.table = [tableEntries]uint32{}
	w.put(b)
}

package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
)

// Extent is the part [Off, Off+Len) of a disk.
type Extent struct {
	Off, Len int64
	// Data is nil where the image has nothing: the disk reads as zeros there.
	// Else it has Len bytes, zeros among them perhaps, and is valid until the
	// next extent is asked for.
	Data []byte
}

// Reader takes an image apart while it arrives. It reads no byte after the
// image's last one. It is not safe for concurrent use.
type Reader struct {
	r          io.Reader
	at         int64 // bytes read
	h          header
	descriptor string

	told        int64  // the disk's bytes before it were given to the caller
	held        Extent // is given after the zeros before it
	ledger      ledger
	tablesKnown bool // before the grains
	passed      int  // markDirectory or markFooter; 0 among the grains
	directoryAt uint64
	err         error // of the past, and of any further call; io.EOF: the image is whole

	scratch []byte
	packed  []byte // a grain as it arrives, from its marker on
	grain   []byte
	stored  bytes.Reader
	inflate io.ReadCloser
}

// NewReader reads an image up to its first grain.
func NewReader(src io.Reader) (*Reader, error) {
	r := &Reader{r: src, scratch: make([]byte, 8<<10)}
	var b [sector]byte
	err := r.fill(b[:])
	if err == nil {
		r.h, err = parseHeader(&b)
	}
	if err == nil {
		err = r.preamble()
	}
	if err != nil {
		return nil, r.located(err)
	}
	return r, nil
}

// Capacity is the size of the disk in bytes.
func (r *Reader) Capacity() int64 { return int64(r.h.capacity) * sector }

// Descriptor is the text inside the image, "" if it has none. It is foreign text.
func (r *Reader) Descriptor() string { return r.descriptor }

// Consumed is the number of bytes of the stream that were read. After the last
// extent it is the length of the image.
func (r *Reader) Consumed() int64 { return r.at }

// Extents gives the whole disk, in ascending order and without gaps. Only if it
// ends without an error was the image whole: the last extent comes, as far as it
// has no data, after that is known. An error is the last thing it gives. It goes
// on where an earlier loop broke off.
func (r *Reader) Extents() iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for {
			e, err := r.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (r *Reader) next() (Extent, error) {
	if r.held.Data == nil && r.err == nil {
		var err error
		if r.held, err = r.findGrain(); err != nil {
			r.held = Extent{}
			r.err = r.located(err)
		}
	}
	upTo := r.held.Off
	if r.err == io.EOF {
		upTo = r.Capacity()
	}
	switch {
	case r.err != nil && r.err != io.EOF:
		return Extent{}, r.err
	case upTo > r.told:
		e := Extent{Off: r.told, Len: upTo - r.told}
		r.told = upTo
		return e, nil
	case r.err != nil:
		return Extent{}, r.err
	}
	e := r.held
	r.held = Extent{}
	r.told = e.Off + e.Len
	return e, nil
}

// located adds to an error how far the stream had been read. io.EOF stays.
func (r *Reader) located(err error) error {
	if err == io.EOF {
		return err
	}
	return fmt.Errorf("vmdk: before byte %d of the stream: %w", r.at, err)
}

// findGrain passes markers up to the next grain. io.EOF means that the image has
// ended as it should.
func (r *Reader) findGrain() (Extent, error) {
	for {
		r.reserve()
		head := r.packed[:sector]
		n, err := io.ReadFull(r.r, head)
		r.at += int64(n)
		if err == io.EOF && r.tablesKnown && r.passed == 0 && r.ledger.grains >= 0 {
			return Extent{}, r.whole()
		}
		if err != nil {
			return Extent{}, short(err)
		}
		value, size := binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint32(head[8:])
		if size > 0 {
			return r.take(value, size)
		}
		if err := r.mark(value, binary.LittleEndian.Uint32(head[12:])); err != nil {
			return Extent{}, err
		}
	}
}

// mark passes what a marker announces.
func (r *Reader) mark(length uint64, kind uint32) error {
	switch {
	case kind == markProgress && length == 0:
		return nil
	case kind == markTable && r.passed == 0 && !r.tablesKnown:
		return r.table(length)
	case kind == markDirectory && r.passed == 0:
		r.passed = markDirectory
		return r.directory(length)
	case kind == markFooter && r.passed == markDirectory:
		r.passed = markFooter
		return r.footer(length)
	case kind == markEnd && length == 0 && r.passed == markFooter,
		kind == markEnd && length == 0 && r.passed == 0 && r.h.directoryAt != directoryAtEnd:
		return r.whole()
	}
	return fmt.Errorf("%w: a marker of type %d and length %d after one of type %d", ErrFormat, kind, length, r.passed)
}

// whole is io.EOF if the image is, as far as its tables were read.
func (r *Reader) whole() error {
	if r.passed == markFooter || r.tablesKnown {
		if err := r.ledger.check(); err != nil {
			return err
		}
	}
	return io.EOF
}

// fill reads all of b: a stream that ends before is cut short.
func (r *Reader) fill(b []byte) error {
	n, err := io.ReadFull(r.r, b)
	r.at += int64(n)
	return short(err)
}

func short(err error) error {
	if err == nil {
		return nil
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the image is cut short: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// skipTo passes bytes up to a sector of the stream.
func (r *Reader) skipTo(to uint64) error {
	for left := int64(to)*sector - r.at; left > 0; left = int64(to)*sector - r.at {
		if err := r.fill(r.scratch[:min(left, int64(len(r.scratch)))]); err != nil {
			return err
		}
	}
	return nil
}

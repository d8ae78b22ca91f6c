package vmdk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ledger proves without memory that the tables of an image name the grains that
// the stream had, whichever come first: the sum over the grains of a number made
// of their place in the stream and in their table, less the same sum over the
// tables' entries, is 0. It would take chance 1 in 2⁶⁴ to hide a lost grain.
type ledger struct {
	sum    uint64
	grains int64 // that the stream had, less those that tables name
	tables int64 // that the stream had
}

func mix(at uint32, slot int) uint64 {
	x := uint64(at)*tableEntries + uint64(slot) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// grain notes that the stream had a grain at a sector of the stream.
func (l *ledger) grain(at uint32, index int64) {
	l.grains++
	l.sum += mix(at, int(index%tableEntries))
}

// table notes what a table names. Entry 1 is a grain of zeros that isn't there.
func (l *ledger) table(b []byte) {
	l.tables++
	for i := range tableEntries {
		if at := binary.LittleEndian.Uint32(b[i*4:]); at > 1 {
			l.grains--
			l.sum -= mix(at, i)
		}
	}
}

func (l *ledger) check() error {
	switch {
	case l.grains > 0:
		return fmt.Errorf("%w: its tables lack %d of the grains that it has", ErrFormat, l.grains)
	case l.grains < 0:
		return fmt.Errorf("%w: it lacks %d of the grains that its tables name", ErrFormat, -l.grains)
	case l.sum != 0:
		return fmt.Errorf("%w: its tables name other grains than it has", ErrFormat)
	}
	return nil
}

// table passes a table that stands among the grains.
func (r *Reader) table(sectors uint64) error {
	if sectors != tableBytes/sector {
		return fmt.Errorf("%w: table of %d sectors", ErrFormat, sectors)
	}
	b := r.scratch[:tableBytes]
	if err := r.fill(b); err != nil {
		return err
	}
	r.ledger.table(b)
	return nil
}

// directory passes the directory after the grains.
func (r *Reader) directory(sectors uint64) error {
	if sectors != uint64(r.h.directorySectors()) {
		return fmt.Errorf("%w: directory of %d sectors", ErrFormat, sectors)
	}
	r.directoryAt = uint64(r.at / sector)
	tables := int64(0)
	err := r.entries(r.h.tables(), func(_ int64, at uint32) error {
		if at == 0 {
			return nil
		}
		if tables++; uint64(at) < r.h.before || uint64(at) >= r.directoryAt {
			return fmt.Errorf("%w: the directory names a table at sector %d", ErrFormat, at)
		}
		return nil
	})
	if err == nil && tables > r.ledger.tables {
		err = fmt.Errorf("%w: it lacks %d of the tables that its directory names", ErrFormat, tables-r.ledger.tables)
	}
	return err
}

// entries reads n entries of a directory, and the rest of their last sector.
func (r *Reader) entries(n int64, f func(i int64, at uint32) error) error {
	for i := int64(0); i < n; {
		b := r.scratch[:min(int64(len(r.scratch)), sectors((n-i)*4)*sector)]
		if err := r.fill(b); err != nil {
			return err
		}
		for ; len(b) > 0 && i < n; i, b = i+1, b[4:] {
			if err := f(i, binary.LittleEndian.Uint32(b)); err != nil {
				return err
			}
		}
	}
	return nil
}

// preamble passes what is before the first grain: the descriptor, and the
// directory and its tables if they aren't at the end. They are believed if they
// lie one behind the other, as all known producers have them; other tables would
// have to be kept to be found, and such an image must have an end marker.
func (r *Reader) preamble() error {
	if r.h.descriptorSize > 0 {
		if err := r.skipTo(r.h.descriptorAt); err != nil {
			return err
		}
		b := make([]byte, r.h.descriptorSize*sector)
		if err := r.fill(b); err != nil {
			return err
		}
		var err error
		if r.descriptor, err = parseDescriptor(b); err != nil {
			return err
		}
	}
	if at := r.h.directoryAt; at >= uint64(r.at/sector) && at < r.h.before && r.h.before-at >= uint64(r.h.directorySectors()) {
		if err := r.skipTo(at); err != nil {
			return err
		}
		if err := r.tablesAhead(); err != nil {
			return err
		}
	}
	return r.skipTo(r.h.before)
}

func (r *Reader) tablesAhead() error {
	const each = tableBytes / sector
	first, inOrder := uint64(0), true
	err := r.entries(r.h.tables(), func(i int64, at uint32) error {
		if i == 0 {
			first = uint64(at)
		}
		inOrder = inOrder && uint64(at) == first+uint64(i)*each
		return nil
	})
	end := first + uint64(r.h.tables())*each
	if r.h.tables() == 0 {
		r.tablesKnown = true
		return nil
	}
	if err != nil || !inOrder || first < uint64(r.at/sector) || end > r.h.before {
		return err
	}
	if err := r.skipTo(first); err != nil {
		return err
	}
	for range r.h.tables() {
		if err := r.table(each); err != nil {
			return err
		}
	}
	r.tablesKnown = true
	return nil
}

// footer passes the header's second form and checks it against the first.
func (r *Reader) footer(sectors uint64) error {
	if sectors != 1 {
		return fmt.Errorf("%w: footer of %d sectors", ErrFormat, sectors)
	}
	var b [sector]byte
	if err := r.fill(b[:]); err != nil {
		return err
	}
	f, err := parseHeader(&b)
	if err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	if f.capacity != r.h.capacity || f.grain != r.h.grain || f.directoryAt != r.directoryAt {
		return fmt.Errorf("%w: the footer has capacity %d, grains of %d and a directory at %d, not %d, %d and %d",
			ErrFormat, f.capacity, f.grain, f.directoryAt, r.h.capacity, r.h.grain, r.directoryAt)
	}
	return nil
}

// sectorOf is where in the stream the bytes before at end, as tables say it.
func sectorOf(at int64) (uint32, error) {
	if at/sector > math.MaxUint32 {
		return 0, errors.New("the stream is longer than 2 TiB, and no table can name what is behind them")
	}
	return uint32(at / sector), nil
}

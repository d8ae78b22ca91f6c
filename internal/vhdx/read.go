package vhdx

import (
	"fmt"
	"io"
	"iter"
)

// State says where bytes of a disk come from.
type State uint8

// The states of a range.
const (
	// FromParent: this file has nothing; the parent shows through.
	FromParent State = iota
	// Zero: this file says that there are zeros, or has nothing and no parent.
	Zero
	// Data: this file holds the bytes, which may be zeros.
	Data
)

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

var stateNames = [...]string{"from parent", "zero", "data"}

// Range is the part [Off, Off+Len) of a disk.
type Range struct {
	Off, Len int64
	State    State
}

// at finds the state of a disk's byte, how many bytes from there on, of n at
// most, are in it too, all in one block, and for Data where they are in the
// file.
func (d *Disk) at(off, n int64) (s State, length, place int64, err error) {
	block := off / d.meta.block
	in := off - block*d.meta.block
	n = min(n, d.meta.held(block)-in)
	e := d.bat.get(d.meta.entry(block))
	switch e.state() {
	case stateFull:
		return Data, n, e.off() + in, nil
	case statePartial:
		// Its bitmap knows.
	case stateAbsent:
		if d.meta.diff {
			return FromParent, n, 0, nil
		}
		return Zero, n, 0, nil
	default:
		return Zero, n, 0, nil
	}
	set, length, err := d.sectors(block, in, n)
	if err != nil {
		return 0, 0, 0, err
	}
	if set {
		return Data, length, e.off() + in, nil
	}
	return FromParent, length, 0, nil
}

// sectors tells whether the sector at byte in of a partial block is the block's
// own, and for how many bytes, of n at most, that goes on.
func (d *Disk) sectors(block, in, n int64) (set bool, length int64, err error) {
	base := d.bat.get(d.meta.bitmapEntry(block)).off()
	first := block % d.meta.chunk() * (d.meta.block / d.meta.logical)
	for length < n {
		at := in + length
		sector := at / d.meta.logical
		same, run, err := d.bits.run(base, first+sector, (in+n-1)/d.meta.logical-sector+1)
		if err != nil {
			return false, 0, err
		}
		if length > 0 && same != set {
			break
		}
		set = same
		length = (sector+run)*d.meta.logical - in
	}
	return set, min(length, n), nil
}

// ReadAt reads what the disk shows, through its parents. It is as
// [io.ReaderAt] has it.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.usable(false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, d.checkRange(off, 0)
	}
	var eof error
	if rest := max(0, d.meta.size-off); rest < int64(len(p)) {
		p, eof = p[:rest], io.EOF
	}
	for done := 0; done < len(p); {
		s, n, place, err := d.at(off+int64(done), int64(len(p)-done))
		if err != nil {
			return done, err
		}
		part := p[done:][:n]
		switch s {
		case Zero:
			clear(part)
		case Data:
			err = d.medium.read(part, place)
		case FromParent:
			err = d.readParent(part, off+int64(done))
		}
		if err != nil {
			return done, err
		}
		done += int(n)
	}
	return len(p), eof
}

// readParent reads what shows through. Behind a parent's end are zeros.
func (d *Disk) readParent(p []byte, off int64) error {
	if d.parent == nil {
		return fmt.Errorf("vhdx: %d bytes at %d of the disk: %w", len(p), off, ErrNoParent)
	}
	n, err := d.parent.ReadAt(p, off)
	if err == io.EOF {
		clear(p[n:])
		return nil
	}
	return err
}

// Allocated tells what this file holds itself of [off, off+n), in ascending
// order and without gaps, neighbours of one state as one. An error is the last
// thing it gives. What is written meanwhile is seen or not.
func (d *Disk) Allocated(off, n int64) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		held := Range{Off: off}
		for at, end := off, off+n; at < end; {
			s, length, err := d.state(at, end-at)
			if err != nil {
				yield(Range{}, err)
				return
			}
			if held.Len > 0 && held.State != s {
				if !yield(held, nil) {
					return
				}
				held = Range{Off: at}
			}
			held.State, held.Len = s, held.Len+length
			at += length
		}
		if held.Len > 0 {
			yield(held, nil)
		}
	}
}

func (d *Disk) state(off, n int64) (State, int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.usable(false); err != nil {
		return 0, 0, err
	}
	if err := d.checkRange(off, n); err != nil {
		return 0, 0, err
	}
	s, length, _, err := d.at(off, n)
	return s, length, err
}

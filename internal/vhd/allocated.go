package vhd

import (
	"fmt"
	"iter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// State says where bytes of a disk come from.
type State uint8

// The states of a range.
const (
	// FromParent: this file has nothing; the parent shows through.
	FromParent State = iota
	// Zero: this file has nothing, and there is no parent.
	Zero
	// Data: this file holds the bytes, which may be zeros.
	Data
)

// String names the state.
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

// Allocated tells what this file holds itself of [off, off+n), in ascending
// order and without gaps, neighbours of one state as one. An error is the last
// thing it gives. What is written meanwhile is seen or not.
func (d *Disk) Allocated(off, n int64) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		if off < 0 || n < 0 || off > d.foot.Size || n > d.foot.Size-off {
			yield(Range{}, fmt.Errorf("vhd: %d bytes at %d of a disk of %d: %w", n, off, d.foot.Size, dr.ErrOutOfRange))
			return
		}
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

// state is that of a disk's byte, and how many bytes from there on, of n at most
// and within a block, are in it too.
func (d *Disk) state(off, n int64) (State, int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, 0, errClosed
	}
	if d.foot.kind == Fixed {
		return Data, n, nil
	}
	absent := Zero
	if d.parent != nil {
		absent = FromParent
	}
	block, in := off/d.block, off%d.block
	n = min(n, d.block-in)
	if d.table[block] == unused {
		return absent, n, nil
	}
	m, err := d.bitmap(block)
	if err != nil {
		return 0, 0, err
	}
	end, held := m.run(in/sector, (in+n+sector-1)/sector)
	n = min(n, end*sector-in)
	if held {
		return Data, n, nil
	}
	return absent, n, nil
}

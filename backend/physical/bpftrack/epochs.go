package bpftrack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var _ physical.Tracker = (*Tracker)(nil)

var errClosed = errors.New("the tracker is closed")

// machine is what is known of one. The last epoch is the open one: what
// belongs to it is in the disks' words.
type machine struct {
	disks  map[dr.DiskID]*disk
	epochs []epoch // oldest first
}

// epoch is the time from the mark with its number to the next one.
type epoch struct {
	n     uint64
	dirty map[dr.DiskID]*set
}

// disk is one that is tracked, or is not, and then why says so.
type disk struct {
	path string
	born uint64 // marks up to this number are older than the tracking
	in   *tap   // nil: it isn't tracked
	why  error
}

func (t *Tracker) cursor(n uint64) dr.Cursor { return dr.Cursor(fmt.Sprintf("%s.%d", t.session, n)) }

// number is that of a mark of this session.
func (t *Tracker) number(mark dr.Cursor) (uint64, bool) {
	session, digits, _ := strings.Cut(string(mark), ".")
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && session == t.session && t.cursor(n) == mark
}

// Cut implements [physical.Tracker]. A disk that could not be tracked, or is
// another one now, is tried again, so that its next cycle knows more. It fails
// only if what is kept for a restart can be neither written nor removed.
//
// # Why nothing is lost between two epochs
//
// There is one bitmap and no switch: Cut reads the bits into the epoch that
// ends, keeps them, and clears those that it has read. Each block therefore has
// a moment of its own, when its bit is cleared, which lies within Cut. A write
// sets the bit twice: before the device has it, and when the device is done.
//   - Done before the moment: any read that begins after Cut sees the write, so
//     it isn't the new epoch's. The old one has it, as the bit was read or the
//     clearing left it: only bits that were read are cleared.
//   - Done after the moment: the second marking sets the bit again, for the new
//     epoch. The first was set before or after, and is in one of them.
//
// A program that is running meanwhile, on another processor, sets its bit by
// one atomic OR: before the clearing or after it, with the same two outcomes.
// So no program needs to be waited for, and no two blocks need the same moment,
// because no reader reads two blocks at once.
func (t *Tracker) Cut(ctx context.Context, id dr.MachineID) (dr.Cursor, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return "", errClosed
	}
	m := t.machine(id)
	for d, k := range m.disks {
		if t.intact(id, d, k) != nil {
			t.tap(id, d, k)
		}
	}
	read := map[dr.DiskID]*set{}
	for d, k := range m.disks {
		if k.in != nil {
			s := &set{}
			k.in.words.read(s)
			read[d] = s
		}
	}
	before := m.epochs
	if n := len(before); n > 0 {
		m.epochs = slices.Clone(before)
		ends := epoch{before[n-1].n, map[dr.DiskID]*set{}}
		for d, s := range read {
			s := &set{all: s.all, pages: s.pages}
			if was := before[n-1].dirty[d]; was != nil {
				s = &set{}
				s.add(was)
				s.add(read[d])
			}
			ends.dirty[d] = s
		}
		m.epochs[n-1] = ends
	}
	t.n++
	m.epochs = append(m.epochs, epoch{t.n, map[dr.DiskID]*set{}})
	t.squeeze(t.o.Memory)
	if err := t.keep(); err != nil {
		m.epochs = before // nothing was cleared yet
		return "", &dr.Error{Op: "cut", Machine: id, Off: -1, Err: err}
	}
	for d, s := range read {
		m.disks[d].in.words.clear(s)
	}
	return t.cursor(t.n), nil
}

// Mark implements [physical.Tracker]. It sets the kernel's own bits, which
// last as long as those that the programs set.
func (t *Tracker) Mark(id dr.MachineID, d dr.DiskID, off, n int64) {
	if n <= 0 || off < 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.machines[id]; m != nil && m.disks[d] != nil && m.disks[d].in != nil && !t.closed {
		m.disks[d].in.words.mark(off/t.block, (off+n-1)/t.block)
	}
}

// Since implements [physical.Tracker]. It yields what was written when the
// iteration began, in whole blocks up to the disk's end. It takes nothing from
// the kernel, so dying in the middle loses nothing.
func (t *Tracker) Since(ctx context.Context, id dr.MachineID, d dr.DiskID, mark dr.Cursor) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		s, size, err := t.since(id, d, mark)
		if err != nil {
			yield(dr.Extent{}, fmt.Errorf("machine %s, disk %s, mark %q: %w: %w", id, d, mark, dr.ErrChangesLost, err))
			return
		}
		if s.all {
			if size > 0 {
				yield(dr.Extent{Len: size}, nil)
			}
			return
		}
		var run dr.Extent
		more := true
		emit := func(first, end int64) bool {
			off, till := first*t.block, min(end*t.block, size)
			if off >= till {
				return false // behind the end of a disk that has shrunk
			}
			if run.Len > 0 && run.End() == off {
				run.Len += till - off
				return true
			}
			if run.Len > 0 {
				more = yield(run, nil)
			}
			run = dr.Extent{Off: off, Len: till - off}
			return more
		}
	all:
		for _, n := range slices.Sorted(maps.Keys(s.pages)) {
			if err := ctx.Err(); err != nil {
				yield(dr.Extent{}, err)
				return
			}
			for i, v := range s.pages[n] {
				if !runs(n*pageWords+int64(i), v, emit) {
					break all
				}
			}
		}
		if more && run.Len > 0 {
			yield(run, nil)
		}
	}
}

func (t *Tracker) since(id dr.MachineID, d dr.DiskID, mark dr.Cursor) (*set, int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, 0, errClosed
	}
	n, ok := t.number(mark)
	if !ok {
		return nil, 0, errors.New("the mark isn't of this session")
	}
	m := t.machines[id]
	if m == nil || m.disks[d] == nil {
		return nil, 0, errors.New("the disk isn't tracked")
	}
	from := slices.IndexFunc(m.epochs, func(e epoch) bool { return e.n == n })
	k := m.disks[d]
	if err := t.intact(id, d, k); err != nil {
		return nil, 0, err
	}
	if from < 0 || n <= k.born {
		return nil, 0, errors.New("the mark is unknown, or older than the tracking of this disk")
	}
	s := &set{}
	k.in.words.read(s)
	for _, e := range m.epochs[from:] {
		s.add(e.dirty[d])
	}
	return s, k.in.device.size, nil
}

// Keep implements [physical.Tracker].
func (t *Tracker) Keep(_ context.Context, id dr.MachineID, marks []dr.Cursor) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.machines[id]
	if m == nil || t.closed {
		return nil
	}
	var kept []epoch
	for _, e := range m.epochs {
		if slices.Contains(marks, t.cursor(e.n)) {
			e.dirty = maps.Clone(e.dirty)
			kept = append(kept, e)
			continue
		}
		if len(kept) == 0 {
			continue
		}
		// Its time now belongs to the wanted mark before it.
		into := kept[len(kept)-1].dirty
		for d, s := range e.dirty {
			both := &set{}
			both.add(into[d])
			both.add(s)
			into[d] = both
		}
	}
	before := m.epochs
	m.epochs = kept
	if err := t.keep(); err != nil {
		m.epochs = before
		return &dr.Error{Op: "keep marks", Machine: id, Off: -1, Err: err}
	}
	return nil
}

// squeeze makes all bitmaps fit into room, if those in the kernel do: what older
// epochs know becomes "everything", the largest first.
func (t *Tracker) squeeze(room int64) {
	for {
		used := t.used()
		var at *epoch
		var most int64
		for _, m := range t.machines {
			for i := range m.epochs {
				var size int64
				for _, s := range m.epochs[i].dirty {
					size += s.memory()
				}
				if size > most {
					at, most = &m.epochs[i], size
				}
			}
		}
		if used <= room || at == nil {
			return
		}
		full := map[dr.DiskID]*set{}
		for d := range at.dirty {
			full[d] = &set{all: true}
		}
		at.dirty = full
	}
}

// used is the memory of all bitmaps.
func (t *Tracker) used() int64 {
	n := t.taken()
	for _, m := range t.machines {
		for _, e := range m.epochs {
			for _, s := range e.dirty {
				n += s.memory()
			}
		}
	}
	return n
}

// taken is the memory of those in the kernel.
func (t *Tracker) taken() (n int64) {
	for _, m := range t.machines {
		for _, k := range m.disks {
			if k.in != nil {
				n += int64(len(k.in.words)) * 8
			}
		}
	}
	return n
}

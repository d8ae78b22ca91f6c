package hypervtest

import (
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// tracker numbers the moments of one chain's change tracking. When tracking is
// lost it starts over under another name, and knows none of the old moments.
type tracker struct {
	name string
	n    uint32
}

func newTracker() *tracker {
	return &tracker{name: strings.ReplaceAll(strings.ToLower(newGUID()), "-", ":")}
}

func (t *tracker) next() string {
	t.n++
	return fmt.Sprintf("rctX:%s:%08x", t.name, t.n)
}

// segment is what was written from one moment to the next.
type segment struct {
	id    string // of the moment that it begins with; "" if nobody can name it any more
	dirty blockSet
}

// Each file of a chain holds the segments of the time in which it was written.
// The chain's history is theirs, one file after the other, so a machine that is
// taken back to a checkpoint forgets what lies in the files that go.

// companions are the files beside a disk's in which Hyper-V keeps the tracking.
// Here they are empty. A disk without them has lost it: they have to be renamed
// along, and to be removed along.
var companions = []string{".rct", ".mrt"}

// track makes changes of the file recorded, from now on.
func (f *file) track() {
	if f.tracker == nil && !f.vhd {
		f.tracker = newTracker()
		f.segments = []segment{{}}
	}
	f.accompany()
}

// accompany makes the companions of a file that is tracked.
func (f *file) accompany() {
	for _, c := range companions {
		if f.tracker != nil {
			// A file that can't be made is missed where it is looked for.
			_ = os.WriteFile(f.key+c, nil, 0o600)
		}
	}
}

// accompanied tells whether the companions are there.
func (f *file) accompanied() bool {
	for _, c := range companions {
		if _, err := os.Stat(f.key + c); err != nil {
			return false
		}
	}
	return true
}

// checked makes tracking start over in a file that is about to be written and
// has no companions.
func (f *file) checked() {
	if f.tracker != nil && !f.accompanied() {
		f.forget()
		f.accompany()
	}
}

// mark begins a new segment and returns the moment's identifier, "" for a file
// without tracking.
func (f *file) mark() string {
	if f.tracker == nil {
		return ""
	}
	id := f.tracker.next()
	f.segments = append(f.segments, segment{id: id})
	return id
}

// wrote records a write.
func (f *file) wrote(off, n, granularity int64) {
	if f.tracker == nil || n == 0 {
		return
	}
	s := &f.segments[len(f.segments)-1]
	s.dirty = s.dirty.add(off/granularity, (off+n+granularity-1)/granularity)
}

// latest is the last moment that was named in the file's time.
func (f *file) latest() string {
	if f.tracker == nil {
		return ""
	}
	if f.closed != "" {
		return f.closed
	}
	for g := f; g != nil; g = g.parent {
		for _, s := range slices.Backward(g.segments) {
			if s.id != "" {
				return s.id
			}
		}
	}
	return ""
}

// changes are the blocks that were written between since and the end of the
// file's time.
func (f *file) changes(since string) (blockSet, error) {
	lost := func(code uint32, why string) error {
		return &host.Error{Op: "QueryChangesVirtualDisk", Code: code, Detail: why}
	}
	if f.tracker == nil {
		return nil, lost(ctlogDisabled, "change tracking is not enabled for "+f.path)
	}
	if !f.accompanied() {
		return nil, lost(ctlogMissing, "there is no "+f.path+".rct")
	}
	if since == "" {
		return nil, lost(ctlogInvalidID, "no change tracking identifier")
	}
	if since == f.closed {
		return nil, nil
	}
	var all blockSet
	for g := f; g != nil && g.tracker != nil; g = g.parent {
		for _, s := range slices.Backward(g.segments) {
			all = all.union(s.dirty)
			if s.id == since {
				return all, nil
			}
		}
	}
	if !strings.HasPrefix(since, "rctX:"+f.tracker.name+":") {
		return nil, lost(ctlogMissing, "change tracking information is missing")
	}
	return nil, lost(ctlogInvalidID, "the change tracking identifier is invalid: "+since)
}

// forget makes a chain's tracking start over: every moment is unknown now.
func (f *file) forget() {
	if f.tracker == nil {
		return
	}
	fresh := newTracker()
	for g := f; g != nil && g.tracker != nil; g = g.parent {
		g.tracker, g.closed = fresh, ""
		g.segments = []segment{{}}
	}
}

// prune joins segments whose moment nobody carries with the ones before them.
func (f *file) prune(carried map[string]bool) {
	for g := f; g != nil; g = g.parent {
		var kept []segment
		for i, s := range g.segments {
			if s.id != "" && carried[s.id] || i == 0 {
				if !carried[s.id] {
					s.id = ""
				}
				kept = append(kept, s)
				continue
			}
			last := &kept[len(kept)-1]
			last.dirty = last.dirty.union(s.dirty)
		}
		g.segments = kept
	}
}

// newGUID is a random GUID in upper case, as Hyper-V writes them.
func newGUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

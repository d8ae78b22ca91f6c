package physical

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// recordName is the state file in a machine's folder. No disk file can have
// the name: theirs end in .img.
const recordName = "machine.json"

// recordVersion is raised when an older program would misread the file.
const recordVersion = 1

// maxHeld and maxEpochs bound what a record remembers of the past. What is
// forgotten costs a comparison of whole disks, never a wrong answer.
const (
	maxHeld   = 64
	maxEpochs = 32
)

// record is what is durably known of a machine. Values are shared and never
// changed: changes are made on a clone.
type record struct {
	Version int        `json:"version"`
	Machine dr.Machine `json:"machine"` // as described by Prepare or the configuration
	Disks   []diskFile `json:"disks"`   // where Machine.Disks are, in their order
	Power   dr.Power   `json:"power,omitempty"`

	// Switched says that Power comes of Start, Stop or Shutdown, and not of
	// the configuration.
	Switched bool `json:"switched,omitempty"`

	// Of machines that Prepare made:
	Made     bool     `json:"made,omitempty"`
	Key      string   `json:"key,omitempty"`
	Isolated bool     `json:"isolated,omitempty"`
	New      bool     `json:"new,omitempty"`      // the disks were never written
	Original bool     `json:"original,omitempty"` // was found as an original since: not to be removed
	Removing bool     `json:"removing,omitempty"` // Remove has begun
	Dropped  []string `json:"dropped,omitempty"`  // files of disks it no longer has, to be deleted

	// Held are the points that the disks hold, all of the same content; the
	// last is the one to tell. Sizes are those that the disks then had.
	Held  []held              `json:"held,omitempty"`
	Sizes map[dr.DiskID]int64 `json:"sizes,omitempty"`

	// Seen is by what the disks of a configured machine are known again.
	Seen map[dr.DiskID]seen `json:"seen,omitempty"`
	// Refit: disks that were given up have been copied to, and are to be made
	// ready before the machine starts.
	Refit bool `json:"refit,omitempty"`

	Torn     dr.PointID `json:"torn,omitempty"`  // the draft that was begun
	Clean    bool       `json:"clean,omitempty"` // off by Shutdown, not by Stop
	Epochs   []named    `json:"epochs,omitempty"`
	Captures []capture  `json:"captures,omitempty"` // not released yet

	// Fences is whose claims have changed the machine.
	Fences backend.Fences `json:"fences,omitempty"`

	// Snapshots are what captures have kept, each of which is in Captures too.
	Snapshots []snapshot `json:"snapshots,omitempty"`
}

// diskFile says where a disk is.
type diskFile struct {
	ID dr.DiskID `json:"id"`
	// Path is as configured, or of a file that Prepare made a name inside the
	// machine's folder, so that a root can be moved.
	Path string `json:"path"`
	// Own is the disk's ID in the configuration, where it stands for one of
	// another ID since a Prepare.
	Own dr.DiskID `json:"own,omitempty"`
	// GivenUp is as configured.
	GivenUp bool `json:"givenUp,omitempty"`
	// Making says that the file isn't whole yet, and was never written.
	Making bool `json:"making,omitempty"`
}

// held is a point that the disks hold.
type held struct {
	Point       dr.PointID     `json:"point"`
	Time        time.Time      `json:"time"`
	Consistency dr.Consistency `json:"consistency,omitempty"`
}

// capture is one that was not released.
type capture struct {
	Point dr.PointID `json:"point"`
	Live  bool       `json:"live,omitempty"` // of the running machine
}

// captured tells whether the name was captured, and whether that was of the
// running machine.
func (r *record) captured(p dr.PointID) (there, live bool) {
	for _, c := range r.Captures {
		if c.Point == p {
			return true, c.Live
		}
	}
	return false, false
}

// named is the tracker's mark for the moment of a point.
type named struct {
	Point dr.PointID `json:"point"`
	Mark  dr.Cursor  `json:"mark"`
}

func (r *record) clone() *record {
	c := *r
	c.Machine.Disks = slices.Clone(r.Machine.Disks)
	c.Disks = slices.Clone(r.Disks)
	c.Dropped = slices.Clone(r.Dropped)
	c.Held = slices.Clone(r.Held)
	c.Sizes = maps.Clone(r.Sizes)
	c.Seen = maps.Clone(r.Seen)
	c.Epochs = slices.Clone(r.Epochs)
	c.Captures = slices.Clone(r.Captures)
	c.Snapshots = slices.Clone(r.Snapshots)
	return &c
}

// described is the machine, with the disks' sizes as they are recorded.
func (r *record) described() dr.Machine {
	m := r.Machine
	m.Power = r.Power
	m.Disks = slices.Clone(m.Disks)
	return m
}

// holds is the point to tell.
func (r *record) holds() dr.PointID {
	if len(r.Held) == 0 {
		return ""
	}
	return r.Held[len(r.Held)-1].Point
}

// find looks a point up among those that the disks hold.
func (r *record) find(p dr.PointID) (held, bool) {
	i := slices.IndexFunc(r.Held, func(h held) bool { return h.Point == p })
	if i < 0 {
		return held{}, false
	}
	return r.Held[i], true
}

// making tells whether a disk file isn't whole yet.
func (r *record) making() bool {
	return slices.ContainsFunc(r.Disks, func(d diskFile) bool { return d.Making })
}

// forget says that nobody knows any more what the disks hold.
func (r *record) forget() {
	r.Held, r.Sizes = nil, nil
}

// hold says that the disks, whose content is that of the points held before,
// hold p too.
func (r *record) hold(p held, sizes map[dr.DiskID]int64) {
	r.Held = append(slices.DeleteFunc(r.Held, func(h held) bool { return h.Point == p.Point }), p)
	r.Held = r.Held[max(0, len(r.Held)-maxHeld):]
	r.Sizes = sizes
}

// name adds an epoch. When there are too many, the oldest points lose all of
// theirs: one that kept only its younger marks would lose changes.
func (r *record) name(p dr.PointID, mark dr.Cursor) {
	r.Epochs = append(r.Epochs, named{p, mark})
	for len(r.Epochs) > maxEpochs {
		oldest := r.Epochs[0].Point
		r.Epochs = slices.DeleteFunc(r.Epochs, func(e named) bool { return e.Point == oldest })
	}
}

// mark finds the mark that changes since p are to be counted from: that of its
// cursor, else the oldest of its name, because a name can be captured again
// and the older moment's changes cover the younger's.
func (r *record) mark(p dr.Point, disk dr.DiskID) (dr.Cursor, bool) {
	for _, e := range r.Epochs {
		if e.Point == p.ID && e.Mark == p.Cursors[disk] {
			return e.Mark, true
		}
	}
	for _, e := range r.Epochs {
		if e.Point == p.ID {
			return e.Mark, true
		}
	}
	return "", false
}

// marks are those that the tracker must keep.
func (r *record) marks() []dr.Cursor {
	var ms []dr.Cursor
	for _, e := range r.Epochs {
		ms = append(ms, e.Mark)
	}
	return ms
}

// load reads a machine's record; nil if there is none.
func load(f fsys.FS, folder string) (*record, error) {
	name := filepath.Join(folder, recordName)
	file, err := f.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if size > 16<<20 {
		return nil, fmt.Errorf("%s: %w: %d bytes are no state of a machine", name, dr.ErrCorrupt, size)
	}
	b := make([]byte, size)
	if n, err := file.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return parse(name, b)
}

func encode(r *record) ([]byte, error) { return json.MarshalIndent(r, "", "\t") }

func parse(name string, b []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, dr.ErrCorrupt, err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("%s: %w: state of version %d; this program reads %d", name, dr.ErrUnsupported, r.Version, recordVersion)
	}
	if len(r.Disks) != len(r.Machine.Disks) {
		return nil, fmt.Errorf("%s: %w: %d disks with %d files", name, dr.ErrCorrupt, len(r.Machine.Disks), len(r.Disks))
	}
	inside := func(path string) bool { return filepath.Base(path) == path && strings.HasSuffix(path, ".img") }
	for i, d := range r.Disks {
		if d.ID != r.Machine.Disks[i].ID {
			return nil, fmt.Errorf("%s: %w: file %d is of disk %q, not %q", name, dr.ErrCorrupt, i, d.ID, r.Machine.Disks[i].ID)
		}
		if r.Made && !inside(d.Path) {
			return nil, fmt.Errorf("%s: %w: disk %s: %q is no file of this folder", name, dr.ErrCorrupt, d.ID, d.Path)
		}
	}
	for _, path := range r.Dropped {
		if !inside(path) {
			return nil, fmt.Errorf("%s: %w: %q is no file of this folder", name, dr.ErrCorrupt, path)
		}
	}
	return r, nil
}

// imageName is a made disk's file name: the ID, with everything that a file
// name can't hold everywhere written as %XX.
func imageName(id dr.DiskID) (string, error) {
	var b strings.Builder
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if id == "" || b.Len() > 240 {
		return "", fmt.Errorf("%w: disk %q: its ID makes no file name; want 1 to 80 bytes", dr.ErrInvalid, id)
	}
	return b.String() + ".img", nil
}

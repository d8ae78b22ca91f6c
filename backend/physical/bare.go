package physical

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
)

// ForeignError says that a block device was not written because what is on it
// isn't known to be this machine's: it may be somebody's data. It is a
// dr.ErrExists: nothing but a person's word helps.
type ForeignError struct {
	Path string
	// What was found, a phrase each: "gpt 1f2e… on whole disk".
	What []string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s carries what isn't known to be this machine's: %s (if it may be overwritten, say givenUp of the disk in the machine's configuration; it was not written)",
		e.Path, strings.Join(e.What, ", "))
}

// Unwrap returns dr.ErrExists.
func (e *ForeignError) Unwrap() error { return dr.ErrExists }

// seen is by what a machine's disk will be known again. It is taken at every
// capture and at every commit of a draft: so the disks that a machine had when
// it was replicated last are its own when it comes home, and others are not.
type seen struct {
	Path string `json:"path"`
	// Device is the hardware's own name; "" if it has none, as loop devices.
	Device string `json:"device,omitempty"`
	Size   int64  `json:"size"`
	// Content is the partition table and its ID, or what fills the disk whole.
	// What is in the partitions is the machine's business, and changes.
	Content []string `json:"content,omitempty"`
	// Taken says that it was given up, and that a draft has written it since:
	// then it may be larger than what it stands for.
	Taken bool `json:"taken,omitempty"`
	// Copied is the size in bytes of what was copied to it by the last draft;
	// 0 before one. What lies behind is the disk's own.
	Copied int64 `json:"copied,omitempty"`
	// Cleared: what lies behind Copied is cleared, durably, and the machine
	// hasn't run since.
	Cleared bool `json:"cleared,omitempty"`
}

// knows tells whether the disk that is found now is the one that was seen, as
// far as that can be told, and carries nothing new. torn says that a draft was
// writing it: its content is a mixture then, and only its place tells.
func (was seen) knows(now seen, torn bool) bool {
	if was.Device != "" && now.Device != "" && was.Device != now.Device {
		return false
	}
	hardware := was.Device != "" && was.Device == now.Device
	place := hardware || was.Path == now.Path && was.Size == now.Size
	if torn {
		return place
	}
	for _, c := range now.Content {
		// Without an ID of its own one can't be told from another of its kind.
		if !slices.Contains(was.Content, c) || !strings.Contains(c, " ") && !place {
			return false
		}
	}
	return true
}

// content is what of a disk's signatures is kept: the UUID where there is one. It
// stays when a kind changes, as when ext3 is made ext4.
func content(list []disklayout.Signature) []string {
	tabled := slices.ContainsFunc(list, disklayout.Signature.IsTable)
	var out []string
	for _, s := range list {
		if tabled && !s.IsTable() {
			continue
		}
		known := s.Kind
		if strings.Trim(s.UUID, "0-") != "" {
			known = "id " + s.UUID
		}
		out = append(out, known)
	}
	return out
}

// isDevice tells whether a path is a block device.
func (m *machine) isDevice(path string) (bool, error) {
	info, err := m.host.fs.Stat(path)
	if err != nil {
		return false, err
	}
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0, nil
}

// look is by what an open device is known.
func (m *machine) look(d opened) (seen, error) {
	now := seen{Path: d.path, Size: d.size}
	var err error
	if now.Device, err = m.host.hardware(d.path); err != nil {
		return now, err
	}
	list, err := disklayout.Whole(disklayout.Disk{ID: d.path, Size: d.size, ReaderAt: d})
	now.Content = content(list)
	return now, err
}

// see notes in the record how the open disks look. Image files need no such
// note: nobody plugs in another one. What can't be read is not known again.
// other tells that one doesn't look as it did when it was seen last.
func (m *machine) see(r *record, ds disks) (other bool) {
	for _, d := range r.Disks {
		o, ok := ds[d.ID]
		if !ok || r.Made {
			continue
		}
		was, before := r.Seen[d.ID]
		taken := was.Taken
		var now seen
		device, err := m.isDevice(o.path)
		switch {
		case err == nil && device:
			now, err = m.look(o)
		case !taken:
			continue
		default:
			now = seen{Path: o.path, Size: o.size}
		}
		if err != nil {
			m.host.cfg.Log.Warn("a disk will not be known again", "machine", m.id, "disk", d.ID, "path", o.path, "error", err)
			if delete(r.Seen, d.ID); !taken {
				continue
			}
			now = seen{Path: o.path, Size: o.size}
		}
		other = other || before && device && !(was.knows(now, false) && slices.Equal(was.Content, now.Content))
		now.Taken, now.Copied, now.Cleared = taken, was.Copied, was.Cleared && !other
		r.note(d.ID, now)
	}
	return other
}

// exchanged forgets what was known of disks in whose place others are: the tracker
// knows what was written to a disk, and not that it is another one. The caller
// holds op.
func (m *machine) exchanged(rec *record) (*record, error) {
	for _, d := range rec.Disks {
		was := rec.Seen[d.ID].Device
		if rec.Made || was == "" {
			continue
		}
		// What can't be told here is told by who opens the disk.
		if now, err := m.host.hardware(m.path(d)); err != nil || now == "" || now == was {
			continue
		}
		m.host.cfg.Log.Warn("a disk is another one than before: all of the machine is compared", "machine", m.id, "disk", d.ID, "path", m.path(d))
		if err := m.change(func(r *record) { r.forget(); r.Epochs = nil }); err != nil {
			return nil, err
		}
		return m.record(), nil
	}
	return rec, nil
}

func (r *record) note(id dr.DiskID, s seen) {
	if r.Seen == nil {
		r.Seen = map[dr.DiskID]seen{}
	}
	r.Seen[id] = s
}

// take notes that the given-up disks are about to be written, with what want
// says of them. Those that it doesn't name stay as they are.
//
// A device that was found blank is the machine's own from here on: else a copy
// that is interrupted couldn't be repeated, as it isn't blank any more.
func (r *record) take(ds disks, want dr.Machine, found findings) {
	for _, d := range r.Disks {
		s, before := r.Seen[d.ID]
		w, ok := want.Disk(d.ID)
		if !ok || !d.GivenUp && !s.Taken && !found.strange[d.ID] {
			continue
		}
		if o := ds[d.ID]; !before || found.strange[d.ID] || d.GivenUp && (s.Path != o.path || s.Size != o.size) {
			s = seen{Path: o.path, Size: o.size, Device: found.looks[d.ID].Device, Taken: s.Taken}
		}
		s.Cleared = s.Cleared && !found.other && s.Copied == w.Size
		s.Copied = w.Size
		s.Taken = s.Taken || d.GivenUp
		r.note(d.ID, s)
	}
}

// findings are what the disks of a configured machine show before they are
// written or believed.
type findings struct {
	// bare: one that is given up isn't known, so nothing on it is of worth.
	bare bool
	// other: one doesn't look as it did when it was seen last.
	other bool
	// looks are by what the block devices would be known again.
	looks map[dr.DiskID]seen
	// strange ones aren't known, whether they may be written or not.
	strange map[dr.DiskID]bool
}

// taken tells whether a disk was given up and has been written by a draft.
func (r *record) taken() bool {
	for _, s := range r.Seen {
		if s.Taken {
			return true
		}
	}
	return false
}

// foreign refuses block devices that carry anything which isn't known to be
// this machine's, and were not given up.
func (m *machine) foreign(rec *record) (f findings, err error) {
	if rec.Made {
		return f, nil
	}
	f.looks, f.strange = map[dr.DiskID]seen{}, map[dr.DiskID]bool{}
	for _, d := range rec.Disks {
		path := m.path(d)
		device, err := m.isDevice(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // told by who opens it
		}
		if err != nil {
			return f, err
		}
		was, before := rec.Seen[d.ID]
		if !device {
			f.bare = f.bare || d.GivenUp && !before && len(rec.Held) == 0 && len(rec.Captures) == 0
			continue
		}
		now, what, err := m.inspect(d)
		if err != nil {
			return f, err
		}
		f.looks[d.ID] = now
		known := before && was.knows(now, rec.Torn != "")
		f.strange[d.ID] = !known
		f.other = f.other || before && (!known || !slices.Equal(was.Content, now.Content))
		switch {
		case d.GivenUp:
			f.bare = f.bare || !known
		case !known && len(what) > 0:
			return f, fmt.Errorf("disk %s: %w", d.ID, &ForeignError{Path: path, What: what})
		}
	}
	return f, nil
}

// inspect looks at a device that isn't open.
func (m *machine) inspect(d diskFile) (now seen, what []string, err error) {
	f, err := m.open(d, os.O_RDONLY)
	if err != nil {
		return now, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	o := opened{File: f, path: m.path(d)}
	fail := func(err error) error {
		return fmt.Errorf("disk %s: %s: can't tell what is on it: %w", d.ID, o.path, err)
	}
	if o.size, err = f.Size(); err != nil {
		return now, nil, fail(err)
	}
	if now, err = m.look(o); err != nil {
		return now, nil, fail(err)
	}
	list, err := disklayout.Signatures(disklayout.Disk{ID: string(d.ID), Size: o.size, ReaderAt: f})
	if err != nil {
		return now, nil, fail(err)
	}
	for _, s := range list {
		what = append(what, s.String())
	}
	if len(what) == 0 && !d.GivenUp {
		at, err := disklayout.Unknown(disklayout.Disk{ID: string(d.ID), Size: o.size, ReaderAt: f})
		if err != nil {
			return now, nil, fail(err)
		}
		if at >= 0 {
			what = append(what, fmt.Sprintf("data of no known kind at byte %d", at))
		}
	}
	return now, what, nil
}

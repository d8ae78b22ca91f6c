package physical

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Snapshotter makes instant copies of disks. With one a machine is frozen for as
// long as the copies are made and not for as long as one is read: its capture is
// then an ordinary image of the copies, no dr.Settler, and is kept until it is
// released. [Reflink] and [LVM] are two.
//
// All methods are safe for concurrent use, and may be repeated after a crash.
type Snapshotter interface {
	// Takes tells whether disks at that path can be copied: nil, or a
	// dr.ErrUnsupported that says why not. Then the machine is captured pass by
	// pass. The path may not be a device or file that is there any more.
	Takes(ctx context.Context, path string) error
	// Snapshot copies the disk as it is at one moment of the call, and returns
	// where the copy can be read. A copy of that name which a crash has left is
	// replaced. It is called while the machine is frozen: it should return
	// within milliseconds, and must not write to what may be frozen, such as a
	// log. The copy need not be durable yet; who called syncs it.
	Snapshot(ctx context.Context, s Snapshot) (path string, err error)
	// Remove deletes the copy, or what a crash has left of it, durably. One that
	// isn't there is no error.
	Remove(ctx context.Context, s Snapshot) error
}

// Snapshot names one copy of one disk.
type Snapshot struct {
	Machine dr.MachineID `json:"-"`
	Disk    dr.DiskID    `json:"disk"`
	Of      string       `json:"of"` // the disk's path
	// Name tells the copy from all others: letters, digits and hyphens, at
	// most 40. The same machine, point and disk have the same name always.
	Name string `json:"name"`
}

func snapshotOf(m dr.MachineID, p dr.PointID, d dr.DiskID, path string) Snapshot {
	h := sha256.New()
	for _, s := range []string{string(m), string(p), string(d)} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return Snapshot{m, d, path, "lifeboat-" + hex.EncodeToString(h.Sum(nil)[:12])}
}

// snapshot is what is recorded of a capture that has copies. It is recorded
// before the first is made, so that a crash leaves none unknown.
type snapshot struct {
	Point   dr.PointID `json:"point"`
	Machine dr.Machine `json:"machine"` // with the sizes of the copies
	Copies  []diskCopy `json:"copies"`  // in the order of Machine.Disks
	// Whole says that all copies are there and of one moment. What follows is
	// set then only.
	Whole       bool           `json:"whole,omitempty"`
	Time        time.Time      `json:"time,omitzero"`
	Consistency dr.Consistency `json:"consistency,omitempty"`
	Mark        dr.Cursor      `json:"mark,omitempty"`
}

type diskCopy struct {
	Snapshot
	At string `json:"at,omitempty"` // where it is read
}

// snapshot finds the capture of that name.
func (r *record) snapshot(p dr.PointID) (snapshot, bool) {
	for _, s := range r.Snapshots {
		if s.Point == p {
			return s, true
		}
	}
	return snapshot{}, false
}

// keepSnapshot puts s in the place of the one of its name.
func (r *record) keepSnapshot(s snapshot) {
	r.dropSnapshot(s.Point)
	r.Snapshots = append(r.Snapshots, s)
}

func (r *record) dropSnapshot(p dr.PointID) {
	kept := []snapshot{} // others share the present one
	for _, s := range r.Snapshots {
		if s.Point != p {
			kept = append(kept, s)
		}
	}
	r.Snapshots = kept
}

// asOf is what the record can say about a snapshot's content: nothing of what
// the machine held, as it ran, and nothing since moments that came later.
func (r *record) asOf(s snapshot) *record {
	next := r.clone()
	next.forget()
	if !s.Whole {
		return next // it is being made: nothing came later
	}
	for i, e := range next.Epochs {
		if e.Point == s.Point && e.Mark == s.Mark {
			next.Epochs = next.Epochs[:i+1]
			return next
		}
	}
	next.Epochs = nil
	return next
}

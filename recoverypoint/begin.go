package recoverypoint

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// SameDraft is what tells a store to go on with an interrupted draft of one point
// for the other: the same name, machine, moment and parent.
func SameDraft(a, b dr.Point) bool {
	return a.ID == b.ID && a.Machine.ID == b.Machine.ID && a.Parent == b.Parent && a.Base == b.Base && a.SameMoment(b)
}

// Check refuses, as dr.ErrInvalid, what no store can begin a point of: names that
// are none, a point above itself, two disks of one name, negative sizes.
func Check(p dr.Point) error {
	if err := p.ID.Validate(); err != nil {
		return err
	}
	if err := p.Machine.ID.Validate(); err != nil {
		return err
	}
	if p.Parent == p.ID {
		return fmt.Errorf("%w: point %s is its own parent", dr.ErrInvalid, p.ID)
	}
	seen := map[dr.DiskID]bool{}
	for _, d := range p.Machine.Disks {
		if d.ID == "" || d.Size < 0 || seen[d.ID] {
			return fmt.Errorf("%w: disk %q of %d bytes: want one of each name, and no negative size", dr.ErrInvalid, d.ID, d.Size)
		}
		seen[d.ID] = true
	}
	return nil
}

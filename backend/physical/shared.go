package physical

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// alone refuses disks that are another machine's of this host too, or another
// of the machine's own, under whatever names: writing the one would destroy
// the other. Configurations are compared by path when the host is opened;
// links and devices with several names are seen only here.
func (m *machine) alone(rec *record) error {
	type disk struct {
		of   *machine
		file diskFile
	}
	var others []disk
	m.host.mu.Lock()
	for _, o := range m.host.machines {
		if r := o.record(); r != nil && o != m {
			for _, d := range r.Disks {
				others = append(others, disk{o, d})
			}
		}
	}
	m.host.mu.Unlock()
	for i, d := range rec.Disks {
		for _, own := range rec.Disks[:i] {
			others = append(others, disk{m, own})
		}
		path := m.path(d)
		for _, o := range others {
			other := o.of.path(o.file)
			same, err := m.host.same(path, other)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("disk %s: can't tell whether %s and %s are the same: %w", d.ID, path, other, err)
			}
			if same {
				return fmt.Errorf("disk %s: %w: %s is disk %s of machine %s too, as %s (give each disk one machine)", d.ID, dr.ErrInvalid, path, o.file.ID, o.of.id, other)
			}
		}
	}
	return nil
}

// samePath is all that can be told on file systems that aren't the system's.
func samePath(a, b string) (bool, error) { return filepath.Clean(a) == filepath.Clean(b), nil }

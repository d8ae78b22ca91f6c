package physical

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

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
			if err == nil && !same {
				same, err = m.oneUnit(path, other)
			}
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

// oneUnit tells whether two devices are paths to one logical unit that nobody has
// joined, by its world-wide name. Serial numbers don't count: bridges repeat them.
func (m *machine) oneUnit(a, b string) (bool, error) {
	var names, parts [2]string
	for i, path := range []string{a, b} {
		device, err := m.isDevice(path)
		if err != nil || !device {
			return false, err
		}
		name, err := m.host.hardware(path)
		if err != nil {
			return false, err
		}
		names[i], parts[i], _ = strings.Cut(name, partitionName)
	}
	world := slices.ContainsFunc([]string{"naa.", "eui.", "uuid.", "nvme."}, func(kind string) bool { return strings.HasPrefix(names[0], kind) })
	return world && names[0] == names[1] && (parts[0] == parts[1] || parts[0] == "" || parts[1] == ""), nil
}

// partitionName stands between a disk's name and a partition's number.
const partitionName = " partition "

// samePath is all that can be told on file systems that aren't the system's.
func samePath(a, b string) (bool, error) { return filepath.Clean(a) == filepath.Clean(b), nil }

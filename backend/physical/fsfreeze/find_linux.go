package fsfreeze

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// system is a file system that lies on the disks.
type system struct {
	mounts []mount // all places that it is mounted at
	devs   []device
	level  int // above how many other file systems it stands, by loop devices
	state  State
}

func (s *system) first() mount { return s.mounts[0] }

// found is what lies on the disks.
type found struct {
	systems []*system // in the order in which they freeze
	bare    []device  // devices without one of the systems, and that nothing is built on
	swaps   []device
	notes   []string
}

// finder looks at the kernel's files. Tests give it trees of their own.
type finder struct {
	sys    string // "/sys"
	mounts []mount
	swaps  []byte // as in /proc/swaps
	// node tells what a path is: the number of a block device, or the identity
	// of another file.
	node func(path string) (dev device, block bool, identity string, err error)

	level  map[device]int    // of the devices on the disks
	lacks  map[device]bool   // of those, the ones that something is built on
	btrfs  map[device]string // members, by their file system's name in sysfs
	loops  map[device]string // what each loop device stands on
	ignore map[device]bool
}

// find looks for everything on the disks, which are devices or image files.
func (f *finder) find(disks, ignore []string) (*found, error) {
	f.level, f.lacks, f.ignore = map[device]int{}, map[device]bool{}, map[device]bool{}
	var err error
	if f.btrfs, err = f.members(); err != nil {
		return nil, err
	}
	if f.loops, err = f.backings(); err != nil {
		return nil, err
	}
	for _, path := range ignore {
		dev, block, _, err := f.node(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !block {
			return nil, errors.Join(fmt.Errorf("%s, which is to be ignored, is no block device", path), err)
		}
		f.ignore[dev] = true
	}
	for _, path := range disks {
		dev, block, identity, err := f.node(path)
		if err != nil {
			return nil, err
		}
		if block {
			err = f.grow(dev, 0)
		} else {
			err = f.over(identity)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := f.growLoops(); err != nil {
		return nil, err
	}
	out := &found{systems: f.systems()}
	return out, f.rest(out)
}

// grow takes in a device and everything that is built on it.
func (f *finder) grow(dev device, level int) error {
	if old, ok := f.level[dev]; ok && old >= level {
		return nil
	}
	f.level[dev] = level
	dir, err := filepath.EvalSymlinks(filepath.Join(f.sys, "dev/block", dev.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a device that sysfs doesn't know has no parts
	}
	if err != nil {
		return err
	}
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return err
	}
	holders, err := os.ReadDir(filepath.Join(dir, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var above []string
	for _, p := range parts {
		above = append(above, filepath.Dir(p))
	}
	for _, h := range holders {
		above = append(above, filepath.Join(dir, "holders", h.Name()))
	}
	for _, a := range above {
		b, err := os.ReadFile(filepath.Join(a, "dev"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return err
		}
		up, err := parseDevice(string(b))
		if err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
		f.lacks[dev] = true
		if err := f.grow(up, level); err != nil {
			return err
		}
	}
	return nil
}

// over takes in the loop devices that stand on an image file.
func (f *finder) over(identity string) error {
	for dev, backing := range f.loops {
		if _, _, other, err := f.node(backing); err != nil || other != identity {
			continue
		}
		if err := f.grow(dev, 0); err != nil {
			return err
		}
	}
	return nil
}

// growLoops takes in the loop devices that stand on what was found, and on
// files that lie there, until nothing new is found.
func (f *finder) growLoops() error {
	for range len(f.loops) + 1 {
		before := maps.Clone(f.level)
		for loop, backing := range f.loops {
			dev, block, _, err := f.node(backing)
			if err != nil {
				continue // deleted, or of another mount namespace
			}
			if level, ok := f.level[dev]; block && ok {
				f.lacks[dev] = true
				if err := f.grow(loop, level+1); err != nil {
					return err
				}
			}
			if block {
				continue
			}
			if i := mountOf(f.mounts, backing); i >= 0 {
				if level, ok := f.on(f.mounts[i]); ok {
					if err := f.grow(loop, level+1); err != nil {
						return err
					}
				}
			}
		}
		if maps.Equal(before, f.level) {
			return nil
		}
	}
	return errors.New("loop devices that stand on each other")
}

// members are the devices of each btrfs. Its mounts have a number that is no
// device's.
func (f *finder) members() (map[device]string, error) {
	all := map[device]string{}
	links, err := filepath.Glob(filepath.Join(f.sys, "fs/btrfs/*/devices/*"))
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		b, err := os.ReadFile(filepath.Join(f.sys, "class/block", filepath.Base(link), "dev"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		dev, err := parseDevice(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", link, err)
		}
		all[dev] = filepath.Base(filepath.Dir(filepath.Dir(link)))
	}
	return all, nil
}

// backings are the files and devices that loop devices stand on.
func (f *finder) backings() (map[device]string, error) {
	all := map[device]string{}
	files, err := filepath.Glob(filepath.Join(f.sys, "block/loop*/loop/backing_file"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // detached meanwhile
		}
		number, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(file)), "dev"))
		if err != nil {
			continue
		}
		dev, err := parseDevice(string(number))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[dev] = strings.TrimSuffix(string(b), "\n")
	}
	return all, nil
}

// key tells file systems apart, and devs are those of one.
func (f *finder) key(m mount) (key string, devs []device) {
	if m.kind != "btrfs" {
		return m.dev.String(), []device{m.dev}
	}
	dev, block, _, err := f.node(m.source)
	name, known := f.btrfs[dev]
	if err != nil || !block || !known {
		return m.dev.String(), nil
	}
	for d, n := range f.btrfs {
		if n == name {
			devs = append(devs, d)
		}
	}
	return name, devs
}

// on tells whether a mount's file system lies on the disks.
func (f *finder) on(m mount) (level int, ok bool) {
	_, devs := f.key(m)
	for _, d := range devs {
		if l, there := f.level[d]; there {
			level, ok = max(level, l), true
		}
	}
	return level, ok
}

func (f *finder) systems() []*system {
	byKey := map[string]*system{}
	order := map[*system]int{}
	for i, m := range f.mounts {
		level, ok := f.on(m)
		if !ok {
			continue
		}
		key, devs := f.key(m)
		s := byKey[key]
		if s == nil {
			s = &system{devs: devs, level: level, state: Frozen}
			byKey[key], order[s] = s, i
		}
		s.mounts = append(s.mounts, m)
		switch {
		case m.readOnly:
			s.state = ReadOnly
		case slices.ContainsFunc(devs, func(d device) bool { return f.ignore[d] }):
			s.state = Ignored
		}
	}
	depth := func(s *system) int {
		if s.first().at == "/" {
			return 0
		}
		return strings.Count(s.first().at, "/")
	}
	return slices.SortedFunc(maps.Keys(order), func(a, b *system) int {
		return cmp.Or(cmp.Compare(b.level, a.level), cmp.Compare(depth(b), depth(a)), cmp.Compare(order[b], order[a]))
	})
}

// rest finds the devices that no file system accounts for.
func (f *finder) rest(out *found) error {
	taken := map[device]bool{}
	for _, s := range out.systems {
		for _, d := range s.devs {
			taken[d] = true
		}
	}
	for i, line := range strings.Split(string(f.swaps), "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) == 0 {
			continue
		}
		dev, block, _, err := f.node(unescape(fields[0]))
		if _, ok := f.level[dev]; err == nil && block && ok {
			taken[dev] = true
			out.swaps = append(out.swaps, dev)
			out.notes = append(out.notes, fmt.Sprintf("%s is swap: not held.", unescape(fields[0])))
		}
	}
	for d := range f.level {
		switch {
		case f.ignore[d]:
			out.notes = append(out.notes, fmt.Sprintf("Device %s is ignored: not held.", f.name(d)))
		case !taken[d] && !f.lacks[d]:
			out.bare = append(out.bare, d)
		}
	}
	slices.SortFunc(out.bare, func(a, b device) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
	slices.Sort(out.notes)
	return nil
}

// same tells whether two looks found the same to hold and to watch.
func (f *found) same(b *found) bool {
	if len(f.systems) != len(b.systems) || !slices.Equal(f.bare, b.bare) {
		return false
	}
	states := map[device]State{}
	for _, s := range f.systems {
		states[s.first().dev] = s.state
	}
	for _, s := range b.systems {
		if states[s.first().dev] != s.state {
			return false
		}
	}
	return true
}

// name is the device's in /dev.
func (f *finder) name(d device) string {
	dir, err := filepath.EvalSymlinks(filepath.Join(f.sys, "dev/block", d.String()))
	if err != nil {
		return d.String()
	}
	return "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/") // as in cciss!c0d0
}

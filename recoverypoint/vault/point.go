package vault

import (
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// clonePoint copies a point down to its last slice: callers may change theirs.
func clonePoint(p dr.Point) dr.Point {
	p.Machine.Disks = slices.Clone(p.Machine.Disks)
	p.Machine.NICs = slices.Clone(p.Machine.NICs)
	for i := range p.Machine.NICs {
		p.Machine.NICs[i].Addresses = slices.Clone(p.Machine.NICs[i].Addresses)
	}
	p.Machine.Config = slices.Clone(p.Machine.Config)
	p.Group.Members = slices.Clone(p.Group.Members)
	p.Cursors = maps.Clone(p.Cursors)
	return p
}

// pointMemory is about what a point takes in memory, in bytes: 1.3 kilobytes
// with two disks.
func pointMemory(p dr.Point) int64 {
	return int64(900 + 100*len(p.Machine.Disks) + 150*len(p.Machine.NICs) + 150*len(p.Cursors) + 40*len(p.Group.Members) + len(p.Machine.Config))
}

// sameMoment tells whether two descriptions are of one capture.
func sameMoment(a, b dr.Point) bool {
	disk := func(x, y dr.Disk) bool { return x.ID == y.ID && x.Size == y.Size }
	return a.ID == b.ID && a.Machine.ID == b.Machine.ID && a.Parent == b.Parent && a.Base == b.Base && a.Time.Equal(b.Time) &&
		slices.EqualFunc(a.Machine.Disks, b.Machine.Disks, disk) && maps.Equal(a.Cursors, b.Cursors)
}

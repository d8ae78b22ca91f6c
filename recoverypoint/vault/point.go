package vault

import (
	"github.com/lifeboat-dr/lifeboat/dr"
)

// pointMemory is about what a point takes in memory, in bytes: 1.3 kilobytes
// with two disks.
func pointMemory(p dr.Point) int64 {
	return int64(900 + 100*len(p.Machine.Disks) + 150*len(p.Machine.NICs) + 150*len(p.Cursors) + 40*len(p.Group.Members) + len(p.Machine.Config))
}

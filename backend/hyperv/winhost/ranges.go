package winhost

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// changed is what QueryChangesVirtualDisk says of one range:
// QUERY_CHANGES_VIRTUAL_DISK_RANGE (virtdisk.h).
type changed struct{ off, len, _ uint64 }

// ascending makes of one answer, which covers the disk from from on, ranges in
// order that don't overlap and lie within the disk, all behind last, where the
// ranges of the answers before ended. An answer that can't be right is
// [host.ErrTrackingLost]: whoever asks compares instead, and misses nothing.
func ascending(answer []changed, from, last, size int64) (ranges []host.Range, end int64, err error) {
	slices.SortFunc(answer, func(a, b changed) int { return cmp.Compare(a.off, b.off) })
	for _, r := range answer {
		if r.off < uint64(from) || r.off > uint64(size) || r.off+r.len < r.off {
			return nil, last, fmt.Errorf("a change of %d bytes at %d, asked from %d of a disk of %d: %w", r.len, r.off, from, size, host.ErrTrackingLost)
		}
		off, to := max(int64(r.off), last), int64(min(r.off+r.len, uint64(size)))
		if to <= off {
			continue
		}
		if n := len(ranges); n > 0 && ranges[n-1].Off+ranges[n-1].Len == off {
			ranges[n-1].Len += to - off
		} else {
			ranges = append(ranges, host.Range{Off: off, Len: to - off})
		}
		last = to
	}
	return ranges, last, nil
}

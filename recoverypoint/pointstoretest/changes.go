package pointstoretest

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// changePromises are about what images tell without being read.
var changePromises = []promise{
	{"Changes cover all that differs, between any two points", func(k *kit) {
		want, points := k.family()
		k.pairs(want, points)
		if k.reopen() {
			k.pairs(want, points)
		}
	}},

	{"Changes cover all that differs after points between are deleted", func(k *kit) {
		want, points := k.family()
		for _, gone := range []dr.PointID{"b", "e", "a"} {
			img := k.open("m", "d")
			require.NoError(k, k.s.Delete(k.ctx, "m", gone))
			k.prune()
			// Whether it can still tell is the store's affair; not whether
			// it tells the truth.
			k.covers(img, want["d"], points[gone], want[gone], true)
			k.close(img)
			delete(want, gone)
			k.pairs(want, points)
		}
	}},

	{"an image opened earlier knows points committed later", func(k *kit) {
		old := disks{"d": fill("old", 3*block)}
		k.put("m", "old", "", old)
		img := k.open("m", "old")
		defer k.close(img)
		now := old.clone()
		copy(now["d"][block+9:], "changed")
		p := point("m", "now", "old", now)
		d := k.create(p)
		k.write(d, "d", []byte("changed"), block+9)
		k.commit(d, p)
		k.covers(img, old, p, now, false)
	}},

	{"Changes since a point that the store never had are lost", func(k *kit) {
		content := disks{"d": fill("d", block)}
		k.put("m", "p", "", content)
		k.put("other", "theirs", "", content)
		img := k.open("m", "p")
		defer k.close(img)
		tracker := k.tracker(img)
		for _, since := range []dr.Point{point("m", "nowhere", "", content), point("other", "theirs", "", content), {}} {
			n := 0
			for _, err := range tracker.Changes(k.ctx, "d", since) {
				require.ErrorIs(k, err, dr.ErrChangesLost, "since %q", since.ID)
				n++
			}
			require.Equal(k, 1, n, "ErrChangesLost is the first and only element")
		}
	}},

	{"Changes since a point whose name was given again are not told as of the new one", func(k *kit) {
		old, now := disks{"d": fill("old", 3*block)}, disks{"d": fill("now", 3*block)}
		first := k.put("m", "p", "", old)
		require.NoError(k, k.s.Delete(k.ctx, "m", "p"))
		again := point("m", "p", "", now)
		again.Time = again.Time.Add(time.Second)
		d := k.create(again)
		k.writeAll(d, now)
		k.commit(d, again)
		k.put("m", "next", "p", now)
		img := k.open("m", "next")
		defer k.close(img)
		k.covers(img, now, again, now, false)
		// Who holds the first p would be told that it has what next has.
		k.covers(img, now, first, old, true)
	}},

	{"a map covers the disk, and its holes are zeros", func(k *kit) {
		content := disks{"d": make([]byte, 6*block+512), "full": fill("f", 2*block), "empty": make([]byte, 3*block)}
		copy(content["d"][2*block:], fill("x", block))
		content["d"][5*block+7] = 1
		k.put("m", "p", "", content)
		img := k.open("m", "p")
		defer k.close(img)
		m, ok := dr.As[dr.Mapper](img)
		if !ok {
			k.Skip("images are no dr.Mapper")
		}
		for id, b := range content {
			at := int64(0)
			for _, e := range wellFormed(k, collect(k, m.Extents(k.ctx, id)), int64(len(b))) {
				require.Equal(k, at, e.Off, "no gaps in the map of %q", id)
				k.zeros(e, id, b)
				at = e.End()
			}
			require.EqualValues(k, len(b), at, "the map of %q ends with the disk", id)
		}
	}},
}

// family stores points a to f: a chain, one without a parent, and one written
// over an early point; with disks of changing size and number.
func (k *kit) family() (map[dr.PointID]disks, map[dr.PointID]dr.Point) {
	k.Helper()
	want, points := map[dr.PointID]disks{}, map[dr.PointID]dr.Point{}
	add := func(id, parent dr.PointID, change func(disks)) {
		old := want[parent].clone()
		now := old.clone()
		change(now)
		p := point("m", id, parent, now)
		d := k.create(p)
		for disk, b := range now {
			// Only what differs is written, as a copy of changes would.
			for off := 0; off < len(b); off += 512 {
				end := min(len(b), off+512)
				was := make([]byte, end-off)
				if off < len(old[disk]) {
					copy(was, old[disk][off:])
				}
				switch {
				case slices.Equal(was, b[off:end]):
				case slices.Equal(b[off:end], make([]byte, end-off)):
					k.zero(d, disk, int64(off), int64(end-off))
				default:
					k.write(d, disk, b[off:end], int64(off))
				}
			}
		}
		k.commit(d, p)
		want[id], points[id] = now, p
	}
	add("a", "", func(d disks) { d["x"], d["y"] = fill("x", 5*block+512), fill("y", block) })
	add("b", "a", func(d disks) { copy(d["x"][block:], fill("b", 10)); copy(d["x"][5*block+500:], "tail") })
	add("c", "b", func(d disks) { clear(d["x"][2*block : 3*block]); d["y"] = d["y"][:block-512] })
	add("d", "c", func(d disks) {
		copy(d["x"][2*block:], fill("d", block)) // as it was in a, but for other bytes
		d["y"] = append(d["y"], make([]byte, 2*block)...)
		copy(d["y"][2*block:], "far")
		d["z"] = fill("z", 512)
	})
	add("e", "", func(d disks) { d["x"], d["z"] = fill("other", 4*block), make([]byte, block) })
	add("f", "a", func(d disks) {
		copy(d["x"][4*block:], fill("f", 3))
		d["x"] = append(d["x"], make([]byte, 512)...)
		delete(d, "y")
	})
	return want, points
}

// pairs asks every point for its changes since every point.
func (k *kit) pairs(want map[dr.PointID]disks, points map[dr.PointID]dr.Point) {
	k.Helper()
	for id, now := range want {
		img := k.open("m", id)
		for old, was := range want {
			k.covers(img, now, points[old], was, false)
		}
		k.close(img)
	}
}

func (k *kit) tracker(img dr.Image) dr.ChangeTracker {
	k.Helper()
	t, ok := dr.As[dr.ChangeTracker](img)
	require.True(k, ok, "images of stores are dr.ChangeTracker")
	return t
}

// covers requires that what lies outside the changes is equal in both.
func (k *kit) covers(img dr.Image, now disks, since dr.Point, was disks, mayBeLost bool) {
	k.Helper()
	t := k.tracker(img)
	for id, b := range now {
		same := make([]byte, len(b)) // what a copy of the changes over the old disk makes
		copy(same, was[id])
		told := make([]bool, len(b))
		var extents []dr.Extent
		lost := false
		for e, err := range t.Changes(k.ctx, id, since) {
			require.False(k, lost, "ErrChangesLost is the only element")
			if mayBeLost && len(extents) == 0 && err != nil {
				require.ErrorIs(k, err, dr.ErrChangesLost)
				lost = true
				continue
			}
			require.NoError(k, err, "changes of %s since %s", img.Point().ID, since.ID)
			extents = append(extents, e)
		}
		if lost {
			continue
		}
		for _, e := range wellFormed(k, extents, int64(len(b))) {
			k.zeros(e, id, b)
			copy(same[e.Off:e.End()], b[e.Off:])
			for i := e.Off; i < e.End(); i++ {
				told[i] = true
			}
		}
		for i := range b {
			if same[i] != b[i] || i >= len(was[id]) && !told[i] {
				require.FailNow(k, "a change was not told", "disk %q, byte %d, of %s since %s; told: %+v", id, i, img.Point().ID, since.ID, extents)
			}
		}
	}
}

// zeros requires that an extent told to be zeros is.
func (k *kit) zeros(e dr.Extent, id dr.DiskID, b []byte) {
	k.Helper()
	for i := e.Off; e.Zero && i < e.End(); i++ {
		if b[i] != 0 {
			require.FailNow(k, "told to be zeros", "disk %q, extent %+v: byte %d is %#x", id, e, i, b[i])
		}
	}
}

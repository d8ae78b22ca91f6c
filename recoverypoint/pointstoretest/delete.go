package pointstoretest

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// deletePromises are about points that go, and what must not go with them.
var deletePromises = []promise{
	{"Delete removes one point and no other", func(k *kit) {
		want := map[dr.PointID]disks{}
		k.chain("m", 5, want)
		for _, gone := range []dr.PointID{numbered(2), numbered(0), numbered(4)} {
			require.NoError(k, k.s.Delete(k.ctx, "m", gone))
			delete(want, gone)
			k.absent("m", gone)
			k.prune()
			for id, content := range want {
				k.holds("m", id, content)
			}
		}
		k.listed("m", numbered(1), numbered(3))
		require.NoError(k, k.s.Delete(k.ctx, "m", numbered(0)), "a second time")
		if k.reopen() {
			k.prune()
			k.listed("m", numbered(1), numbered(3))
			for id, content := range want {
				k.holds("m", id, content)
			}
		}
	}},

	{"an open image survives Delete and Prune", func(k *kit) {
		want := map[dr.PointID]disks{}
		k.chain("m", 3, want)
		img := k.open("m", numbered(1))
		for id := range want {
			require.NoError(k, k.s.Delete(k.ctx, "m", id))
		}
		k.prune()
		k.put("m", "later", "", disks{"d": fill("later", 4*block)})
		k.prune()
		k.listed("m", "later")
		k.reads(img, want[numbered(1)])
		k.close(img)
		k.prune()
		k.holds("m", "later", disks{"d": fill("later", 4*block)})
	}},

	{"points are deleted by many at once, beside a commit", func(k *kit) {
		const n = 40
		content := disks{"d": fill("d", 512)}
		for i := range n {
			k.put("m", numbered(i), "", content)
		}
		p := point("m", "new", "", content)
		d := k.create(p)
		k.writeAll(d, content)
		errs := make(chan error, n)
		for i := range n {
			go func() { errs <- k.s.Delete(k.ctx, "m", numbered(i)) }()
		}
		k.commit(d, p)
		for range n {
			require.NoError(k, <-errs)
		}
		k.listed("m", "new")
		k.holds("m", "new", content)
	}},

	{"a draft outlives the deletion of its parent", func(k *kit) {
		old := disks{"d": fill("old", 4*block)}
		k.put("m", "old", "", old)
		p := point("m", "p", "old", old)
		d := k.create(p)
		k.write(d, "d", fill("new", 1000), block-500)
		require.NoError(k, k.s.Delete(k.ctx, "m", "old"))
		k.prune()
		want := old.clone()
		copy(want["d"][block-500:], fill("new", 1000))
		k.commit(d, p)
		k.prune()
		k.listed("m", "p")
		k.holds("m", "p", want)
	}},
}

// chain stores n points, each written in a few places over the one before.
func (k *kit) chain(m dr.MachineID, n int, want map[dr.PointID]disks) {
	k.Helper()
	content := disks{"d": fill("chain", 6*block+512), "e": make([]byte, 2*block)}
	parent := dr.PointID("")
	for i := range n {
		id := numbered(i)
		p := point(m, id, parent, content)
		d := k.create(p)
		if parent == "" {
			k.writeAll(d, content)
		}
		for j := range 3 {
			b := fill(string(id)+string(rune('a'+j)), 700+j*40_000)
			off := (i*90_001 + j*60_000) % (len(content["d"]) - len(b))
			copy(content["d"][off:], b)
			k.write(d, "d", b, int64(off))
		}
		k.commit(d, p)
		want[id] = content.clone()
		parent = id
	}
}

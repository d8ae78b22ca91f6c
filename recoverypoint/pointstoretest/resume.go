package pointstoretest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// resumePromises are about drafts that were interrupted.
var resumePromises = []promise{
	{"a draft made afresh has nothing durable", func(k *kit) {
		old := disks{"d": fill("old", 2*block)}
		k.put("m", "old", "", old)
		d := k.create(point("m", "p", "old", old))
		require.Empty(k, k.durable(d, "d", 2*block))
		k.close(d)
	}},

	{"an interrupted draft goes on where it was", func(k *kit) {
		k.resumes(func(d dr.Draft) { k.close(d) })
	}},

	{"a draft goes on after a crash", func(k *kit) {
		if k.h.Reopen == nil {
			k.Skip("the harness can't reopen")
		}
		k.resumes(func(dr.Draft) { k.reopen() })
	}},

	{"a draft of a disk of another size keeps what it was given, interrupted twice", func(k *kit) {
		// The last block's length changes with the disk's, and a store that
		// brings the parent's to it must not do so over what came meanwhile.
		for what, size := range map[string]int64{"shrunk": 2*block + 512, "grown": 4*block + 512} {
			m := dr.MachineID(what)
			old := disks{"d": fill("old", 3*block+512)}
			k.put(m, "old", "", old)
			want := disks{"d": append(fill("new", int(min(size, 3*block+512))), make([]byte, max(0, size-3*block-512))...)}
			p := point(m, "p", "old", want)
			d := k.create(p)
			k.write(d, "d", want["d"], 0)
			for range 2 {
				k.close(d)
				k.reopen()
				d = k.create(p)
			}
			// Only what isn't durable is copied again.
			at := int64(0)
			for _, e := range append(k.durable(d, "d", size), dr.Extent{Off: size}) {
				if at < e.Off {
					k.write(d, "d", want["d"][at:e.Off], at)
				}
				at = e.End()
			}
			k.commit(d, p)
			k.holds(m, "p", want)
		}
	}},

	{"a draft of another moment is thrown away", func(k *kit) {
		old, older := disks{"d": fill("old", 3*block)}, disks{"d": fill("older", 3*block)}
		k.put("m", "older", "", older)
		k.put("m", "old", "", old)
		for what, change := range map[string]func(*dr.Point){
			"time":    func(q *dr.Point) { q.Time = q.Time.Add(time.Second) },
			"parent":  func(q *dr.Point) { q.Parent = "older" },
			"cursors": func(q *dr.Point) { q.Cursors = map[dr.DiskID]dr.Cursor{"d": "elsewhere"} },
			"disks":   func(q *dr.Point) { q.Machine.Disks = []dr.Disk{{ID: "d", Size: 4 * block}} },
		} {
			id := dr.PointID("p-" + what)
			first := point("m", id, "old", old)
			d := k.create(first)
			k.writeAll(d, disks{"d": fill("interrupted", 3*block)})
			k.close(d)

			p := point("m", id, "old", old)
			change(&p)
			want := map[dr.PointID]disks{"old": old, "older": older}[p.Parent].clone()
			want["d"] = append(want["d"], make([]byte, p.Machine.Disks[0].Size-3*block)...)
			d = k.create(p)
			require.Empty(k, k.durable(d, "d", p.Machine.Disks[0].Size), "another %s: nothing of the old draft is durable", what)
			k.sums(d, want)
			k.commit(d, p)
			k.holds("m", id, want)
		}
	}},

	{"what is committed outlives a crash, and drafts don't block", func(k *kit) {
		want := map[dr.PointID]disks{}
		k.chain("m", 3, want)
		content := disks{"d": fill("d", block)}
		d := k.create(point("m", "interrupted", "", content))
		k.writeAll(d, content)
		if !k.reopen() {
			k.Skip("the harness can't reopen")
		}
		k.listed("m", numbered(0), numbered(1), numbered(2))
		for id, content := range want {
			k.holds("m", id, content)
		}
		k.absent("m", "interrupted")
		k.put("m", "next", numbered(2), disks{"d": fill("next", 512)})
		k.listed("m", numbered(0), numbered(1), numbered(2), "next")
	}},

	{"Pending tells of drafts until they are committed", func(k *kit) {
		pender, ok := dr.As[recoverypoint.Pender](k.s)
		if !ok {
			k.Skip("the store is no Pender")
		}
		content := disks{"d": fill("d", block)}
		k.put("m", "old", "", content)
		require.Empty(k, collect(k, pender.Pending(k.ctx, "m")))
		p := point("m", "p", "old", content)
		d := k.create(p)
		k.write(d, "d", fill("new", block), 0)
		pending := collect(k, pender.Pending(k.ctx, "m"))
		require.Len(k, pending, 1)
		k.equal(p, pending[0])
		require.Empty(k, collect(k, pender.Pending(k.ctx, "other")))
		if k.reopen() {
			pender, _ = dr.As[recoverypoint.Pender](k.s)
			require.Len(k, collect(k, pender.Pending(k.ctx, "m")), 1, "after a crash")
			d = k.create(p)
		}
		k.commit(d, p)
		require.Empty(k, collect(k, pender.Pending(k.ctx, "m")), "after Commit")
	}},

	{"Delete throws an interrupted draft away", func(k *kit) {
		content := disks{"d": fill("d", 3*block)}
		k.put("m", "old", "", content)
		p := point("m", "p", "old", content)
		d := k.create(p)
		k.write(d, "d", fill("new", 3*block), 0)
		require.ErrorIs(k, k.s.Delete(k.ctx, "m", "p"), dr.ErrBusy, "while it is open")
		k.close(d)
		require.NoError(k, k.s.Delete(k.ctx, "m", "p"))
		if pender, ok := dr.As[recoverypoint.Pender](k.s); ok {
			require.Empty(k, collect(k, pender.Pending(k.ctx, "m")))
		}
		k.prune()
		k.holds("m", "old", content)
		d = k.create(p)
		require.Empty(k, k.durable(d, "d", 3*block), "what was written before")
		k.commit(d, p)
		k.holds("m", "p", content)
	}},
}

// resumes interrupts a copy a few times, and finishes it by writing only what
// the draft does not call durable.
func (k *kit) resumes(interrupt func(dr.Draft)) {
	k.Helper()
	const size = 24*block + 512
	old, want := disks{"d": fill("old", size), "e": fill("e", block)}, disks{"d": fill("new", size), "e": fill("e", block)}
	for i := range old["d"] { // no byte of the one may pass for the other's
		if old["d"][i] == want["d"][i] {
			want["d"][i] ^= 0x80
		}
	}
	clear(want["d"][6*block : 8*block])
	k.put("m", "old", "", old)
	p := point("m", "p", "old", want)
	written := make([]bool, size)
	mark := func(off, n int) {
		for i := off; i < off+n; i++ {
			written[i] = true
		}
	}
	for _, pieces := range [][][2]int{
		{{0, 4 * block}, {4*block + 100, 200}, {9 * block, 1}},
		{},
		{{9*block + 1, block}, {size - 700, 700}, {12 * block, 5 * block}, {6 * block, 0}},
	} {
		d := k.create(p)
		k.truthful(d, written, size)
		for _, r := range pieces {
			k.write(d, "d", want["d"][r[0]:r[0]+r[1]], int64(r[0]))
			mark(r[0], r[1])
			if r[1] == 0 {
				k.zero(d, "d", 6*block, 2*block)
				mark(6*block, 2*block)
			}
		}
		interrupt(d)
	}
	d := k.create(p)
	extents := k.truthful(d, written, size)
	at := int64(0)
	for _, e := range append(extents, dr.Extent{Off: size}) {
		if e.Off > at {
			k.write(d, "d", want["d"][at:e.Off], at)
		}
		at = e.End()
	}
	k.commit(d, p)
	k.holds("m", "p", want)
	k.holds("m", "old", old)
}

// truthful requires that only bytes of the draft's own point are durable.
func (k *kit) truthful(d dr.Draft, written []bool, size int64) []dr.Extent {
	k.Helper()
	extents := k.durable(d, "d", size)
	for _, e := range extents {
		for i := e.Off; i < e.End(); i++ {
			if !written[i] {
				require.FailNow(k, "durable, but never written", "extent %+v, byte %d", e, i)
			}
		}
	}
	return extents
}

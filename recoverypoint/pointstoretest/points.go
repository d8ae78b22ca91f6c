package pointstoretest

import (
	"context"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// pointPromises are about points as wholes: what is seen of them, and when.
var pointPromises = []promise{
	{"an empty store has nothing", func(k *kit) {
		k.listed("m")
		k.absent("m", "p")
		require.NoError(k, k.s.Delete(k.ctx, "m", "p"))
	}},

	{"a point is what Create and Commit were given", func(k *kit) {
		like := disks{"a": fill("a", 512), "b": fill("b", block)}
		k.put("m", "before", "", like)
		p := point("m", "p", "before", like)
		p.Base = true
		p.Group = dr.GroupMark{Group: "g", ID: "mark", Members: []dr.MachineID{"m", "n"}}
		p.Machine.Config = []byte(`{"of":"its backend"}`)
		p.Machine.NICs = []dr.NIC{{ID: "0", MAC: "52:54:00:00:00:01", Addresses: []string{"192.0.2.1/24"}}}
		d := k.create(p)

		final := p
		final.Time, final.Consistency = p.Time.Add(time.Minute), dr.ApplicationConsistent
		final.Cursors = map[dr.DiskID]dr.Cursor{"a": "later", "b": "later"}
		final.Changes = dr.ChangeStats{Complete: true, Written: 5 * block, Blocks: 5, Dense: 2, Entropy: [16]int64{15: 2, 9: 3}, Known: 5, Over: 3, Turned: 1, Grown: 99}
		other := final // what is final since Create must not be taken from Commit
		other.ID, other.Parent, other.Base, other.Group, other.Machine = "x", "y", false, dr.GroupMark{}, dr.Machine{ID: "z"}
		require.NoError(k, d.Commit(k.ctx, other))
		k.close(d)
		k.process("m")

		k.listed("m", "before", "p")
		k.equal(final, k.list("m")[1])
		img := k.open("m", "p")
		k.equal(final, img.Point())
		k.close(img)
		if k.reopen() {
			k.equal(final, k.list("m")[1])
		}
	}},

	{"points are listed in the order of their commits", func(k *kit) {
		// Clocks jump, and names mean nothing: neither gives the order.
		ids := []dr.PointID{"z", "b", "y", "a", "p10", "p9"}
		content := disks{"d": fill("d", 1024)}
		for i, id := range ids {
			p := point("m", id, "", content)
			p.Time = epoch.Add(-time.Duration(i) * time.Hour)
			k.commit(k.create(p), p)
		}
		k.listed("m", ids...)
		require.NoError(k, k.s.Delete(k.ctx, "m", "y"))
		k.listed("m", "z", "b", "a", "p10", "p9")
		if k.reopen() {
			k.listed("m", "z", "b", "a", "p10", "p9")
		}
	}},

	{"nothing is visible before Commit", func(k *kit) {
		old := disks{"d": fill("old", 3*block)}
		k.put("m", "old", "", old)
		d := k.create(point("m", "p", "old", old))
		k.writeAll(d, disks{"d": fill("new", 3*block)})
		k.absent("m", "p")
		k.holds("m", "old", old)
		k.close(d)
	}},

	{"Close without Commit leaves no point", func(k *kit) {
		content := disks{"d": fill("d", 2*block)}
		d := k.create(point("m", "p", "", content))
		k.writeAll(d, content)
		k.close(d)
		k.process("m")
		k.absent("m", "p")
		if k.reopen() {
			k.absent("m", "p")
		}
	}},

	{"Commit again is a no-op", func(k *kit) {
		content := disks{"d": fill("d", block+512)}
		p := point("m", "p", "", content)
		d := k.create(p)
		k.writeAll(d, content)
		require.NoError(k, d.Commit(k.ctx, p))
		require.NoError(k, d.Commit(k.ctx, p))
		k.close(d)
		k.process("m")
		k.listed("m", "p")
		k.holds("m", "p", content)
	}},

	{"a committed point never changes", func(k *kit) {
		content := disks{"d": fill("d", 2*block)}
		p := point("m", "p", "", content)
		d := k.create(p)
		k.writeAll(d, content)
		require.NoError(k, d.Commit(k.ctx, p))
		// Whether such writes are refused is the store's affair.
		_, _ = d.WriteAt(k.ctx, "d", fill("late", block), 0)
		if z, ok := dr.As[dr.Zeroer](d); ok {
			_ = z.Zero(k.ctx, "d", block, block)
		}
		k.close(d)
		k.process("m")
		k.holds("m", "p", content)
		child := k.create(point("m", "child", "p", content))
		k.write(child, "d", fill("child", block), 0)
		k.holds("m", "p", content)
		k.close(child)
		k.holds("m", "p", content)
	}},

	{"a Commit that failed can be repeated", func(k *kit) {
		content := disks{"d": fill("d", block)}
		p := point("m", "p", "", content)
		d := k.create(p)
		k.writeAll(d, content)
		ctx, cancel := context.WithCancel(k.ctx)
		cancel()
		require.ErrorIs(k, d.Commit(ctx, p), context.Canceled)
		k.process("m")
		k.absent("m", "p")
		k.commit(d, p)
		k.holds("m", "p", content)
	}},

	{"a machine has one draft at a time", func(k *kit) {
		content := disks{"d": fill("d", 512)}
		p, q := point("m", "p", "", content), point("m", "q", "", content)
		d := k.create(p)
		for _, again := range []dr.Point{p, q} {
			_, err := k.s.Create(k.ctx, again)
			require.ErrorIs(k, err, dr.ErrBusy, "second draft, %s", again.ID)
		}
		other := k.create(point("n", "p", "", content))
		k.close(other)
		k.close(d)
		d = k.create(q)
		k.writeAll(d, content)
		k.commit(d, q)
		k.close(k.create(point("m", "r", "q", content)))
		k.listed("m", "q")
	}},

	{"Create of a committed, equal point changes nothing", func(k *kit) {
		content := disks{"d": fill("d", 2*block+512), "e": make([]byte, block)}
		p := k.put("m", "p", "", content)
		k.put("m", "q", "p", disks{"d": fill("q", block)})
		for _, commit := range []bool{false, true} {
			d := k.create(p)
			for id, b := range content {
				got := k.durable(d, id, int64(len(b)))
				covered := int64(0)
				for _, e := range got {
					covered += e.Len
				}
				require.EqualValues(k, len(b), covered, "durable bytes of %q: all of them are there", id)
			}
			if commit {
				require.NoError(k, d.Commit(k.ctx, p))
			}
			k.close(d)
			k.process("m")
			k.listed("m", "p", "q")
			k.holds("m", "p", content)
		}
	}},

	{"Create of a committed ID for another moment is ErrExists", func(k *kit) {
		content := disks{"d": fill("d", block)}
		k.put("m", "first", "", content)
		p := k.put("m", "p", "", content)
		for what, change := range map[string]func(*dr.Point){
			"time":      func(q *dr.Point) { q.Time = q.Time.Add(time.Nanosecond) },
			"parent":    func(q *dr.Point) { q.Parent = "first" },
			"disk size": func(q *dr.Point) { q.Machine.Disks = []dr.Disk{{ID: "d", Size: 2 * block}} },
			"disks": func(q *dr.Point) {
				q.Machine.Disks = append(slices.Clone(q.Machine.Disks), dr.Disk{ID: "e", Size: 512})
			},
			"cursors": func(q *dr.Point) { q.Cursors = map[dr.DiskID]dr.Cursor{"d": "elsewhere"} },
		} {
			q := p
			change(&q)
			_, err := k.s.Create(k.ctx, q)
			require.ErrorIs(k, err, dr.ErrExists, "another %s", what)
		}
		k.listed("m", "first", "p")
		k.holds("m", "p", content)
	}},

	{"a parent must be a point of the machine", func(k *kit) {
		content := disks{"d": fill("d", 512)}
		k.put("other", "theirs", "", content)
		for _, parent := range []dr.PointID{"nowhere", "theirs"} {
			_, err := k.s.Create(k.ctx, point("m", "p", parent, content))
			require.ErrorIs(k, err, dr.ErrNotFound, "parent %s", parent)
		}
		d := k.create(point("m", "p", "", content))
		k.close(d)
		_, err := k.s.Create(k.ctx, point("m", "q", "p", content))
		require.ErrorIs(k, err, dr.ErrNotFound, "a parent that was not committed")
		k.listed("m")
	}},

	{"names that could escape are refused", func(k *kit) {
		content := disks{"d": fill("d", 512)}
		k.put("m", "p", "", content)
		for _, bad := range []string{"", ".", "..", "a/b", "../m", `a\b`, "a b", "a\x00b", "ü", string(make([]byte, 201))} {
			_, err := k.s.Create(k.ctx, point("m", dr.PointID(bad), "", content))
			require.ErrorIs(k, err, dr.ErrInvalid, "create point %q", bad)
			_, err = k.s.Create(k.ctx, point(dr.MachineID(bad), "p", "", content))
			require.ErrorIs(k, err, dr.ErrInvalid, "create for machine %q", bad)
			_, err = k.s.Open(k.ctx, "m", dr.PointID(bad))
			require.Error(k, err, "open point %q", bad)
			_, err = k.s.Open(k.ctx, dr.MachineID(bad), "p")
			require.Error(k, err, "open machine %q", bad)
			_ = k.s.Delete(k.ctx, "m", dr.PointID(bad))
			_ = k.s.Delete(k.ctx, dr.MachineID(bad), "p")
		}
		k.holds("m", "p", content)
	}},

	{"disks are named by any text", func(k *kit) {
		content := disks{}
		for _, id := range []dr.DiskID{"[datastore 1] web/web_1.vmdk", "../../etc", "disk", "DISK", "Größe 2", `C:\vm\a.vhdx`, "a%2Fb", "a/b"} {
			content[id] = fill(string(id), block+512)
		}
		k.put("m", "p", "", content)
		k.holds("m", "p", content)
		if k.reopen() {
			k.holds("m", "p", content)
		}
	}},

	{"machines don't mix", func(k *kit) {
		want := map[dr.MachineID]disks{}
		for _, m := range []dr.MachineID{"m", "M", "m.1", "m-1", "m1", "mm"} {
			want[m] = disks{"d": fill(string(m), block+512)}
			k.put(m, "p", "", want[m])
		}
		for m, content := range want {
			k.listed(m, "p")
			k.holds(m, "p", content)
		}
		require.NoError(k, k.s.Delete(k.ctx, "m", "p"))
		delete(want, "m")
		k.prune()
		k.absent("m", "p")
		for m, content := range want {
			k.holds(m, "p", content)
		}
	}},

	{"what the caller holds is the caller's", func(k *kit) {
		content := disks{"d": fill("d", 512)}
		p := point("m", "p", "", content)
		given := point("m", "p", "", content)
		d := k.create(given)
		spoil(given)
		given = point("m", "p", "", content)
		k.commit(d, given)
		spoil(given)
		k.equal(p, k.list("m")[0])
		spoil(k.list("m")[0])
		img := k.open("m", "p")
		spoil(img.Point())
		k.equal(p, img.Point())
		k.close(img)
		k.equal(p, k.list("m")[0])
	}},

	{"a context that has ended stops every call", func(k *kit) {
		content := disks{"d": fill("d", block)}
		k.put("m", "p", "", content)
		img := k.open("m", "p")
		defer img.Close()
		d := k.create(point("m", "q", "p", content))
		defer d.Close()
		ctx, cancel := context.WithCancel(k.ctx)
		cancel()
		_, err := k.s.Create(ctx, point("n", "p", "", content))
		require.ErrorIs(k, err, context.Canceled, "Create")
		_, err = k.s.Open(ctx, "m", "p")
		require.ErrorIs(k, err, context.Canceled, "Open")
		_, err = img.ReadAt(ctx, "d", make([]byte, 1), 0)
		require.ErrorIs(k, err, context.Canceled, "ReadAt")
		_, err = d.WriteAt(ctx, "d", make([]byte, 1), 0)
		require.ErrorIs(k, err, context.Canceled, "WriteAt")
		for _, err = range k.s.List(ctx, "m") {
			require.ErrorIs(k, err, context.Canceled, "List")
		}
		require.Error(k, err, "List")
		require.ErrorIs(k, k.s.Delete(ctx, "m", "p"), context.Canceled, "Delete")
		k.holds("m", "p", content)
	}},

	{"processing keeps the order of the commits", func(k *kit) {
		proc, ok := dr.As[recoverypoint.Processor](k.s)
		if !ok {
			k.Skip("the store processes on Commit")
		}
		content := disks{"d": fill("d", 512)}
		ids := []dr.PointID{"c", "a", "b"}
		for _, id := range ids {
			p := point("m", id, "", content)
			d := k.create(p)
			k.writeAll(d, content)
			require.NoError(k, d.Commit(k.ctx, p))
			k.close(d)
		}
		if k.reopen() {
			proc, _ = dr.As[recoverypoint.Processor](k.s)
		}
		require.NoError(k, proc.Process(k.ctx, "m"))
		k.listed("m", ids...)
		require.NoError(k, proc.Process(k.ctx, "m"), "again, with nothing to do")
		k.listed("m", ids...)
		k.holds("m", "a", content)
	}},
}

// spoil overwrites all that a point refers to.
func spoil(p dr.Point) {
	for id := range p.Cursors {
		p.Cursors[id] = "spoilt"
	}
	for i := range p.Machine.Disks {
		p.Machine.Disks[i] = dr.Disk{ID: "spoilt", Size: 1}
	}
}

// equal compares points; the same moment may be told in another time zone.
func (k *kit) equal(want, got dr.Point) {
	k.Helper()
	require.True(k, want.Time.Equal(got.Time), "time: want %v, got %v", want.Time, got.Time)
	got.Time = want.Time
	require.Equal(k, want, got)
}

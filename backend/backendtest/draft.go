package backendtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var draftPromises = []promise{
	{"writes what it is given, where it is told", func(e *env) {
		p, _ := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		d := e.draft(r.ID, p)
		c := zeros(p.Machine)
		for disk, b := range c.all() {
			size := int64(len(b))
			for _, tc := range []struct{ off, n int64 }{
				{0, 1}, {1, 511}, {513, 4096}, {65535, 2}, {70001, 9001}, {size - 1, 1}, {size - 700, 600}, {65530, 12}, {0, 0}, {size, 0},
			} {
				data := e.bytes(tc.n)
				e.write(d, disk, data, tc.off)
				copy(b[tc.off:], data)
			}
		}
		e.ok(d.Commit(e.Context(), p))
		e.sameDisks(r.ID, c, "written")
	}},
	{"starts as the replica's content", func(e *env) {
		p, c := e.standIn("p")
		r := e.replica(e.key(), c, p)
		q, _ := e.standIn("q")
		d := e.draft(r.ID, q)
		data := e.bytes(5000)
		e.write(d, diskA, data, 12345)
		copy(c[diskA][12345:], data)
		e.ok(d.Commit(e.Context(), q))
		e.sameDisks(r.ID, c, "written over")
	}},
	{"later writes win", func(e *env) {
		p, _ := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		d := e.draft(r.ID, p)
		c := zeros(p.Machine)
		for range 40 {
			off := e.rng.Int64N(60 << 10)
			data := e.bytes(1 + e.rng.Int64N(30<<10))
			e.write(d, diskB, data, off)
			copy(c[diskB][off:], data)
		}
		e.ok(d.Commit(e.Context(), p))
		e.sameDisks(r.ID, c, "written")
	}},
	{"keeps no buffer", func(e *env) {
		p, c := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		d := e.draft(r.ID, p)
		buf := make([]byte, 32<<10)
		for disk, b := range c.all() {
			for off := 0; off < len(b); off += len(buf) {
				n := copy(buf, b[off:])
				e.write(d, disk, buf[:n], int64(off))
				for i := range buf {
					buf[i] = 0xAA
				}
			}
		}
		e.ok(d.Commit(e.Context(), p))
		e.sameDisks(r.ID, c, "one buffer used for all")
	}},
	{"past the end is ErrOutOfRange and writes nothing", func(e *env) {
		p, c := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		d := e.draft(r.ID, p)
		for disk, b := range c.all() {
			e.write(d, disk, b, 0)
		}
		for disk, b := range c.all() {
			size := int64(len(b))
			for _, tc := range []struct{ off, n int64 }{{size, 1}, {size - 1, 2}, {size - 4096, 8192}, {size + 1<<30, 512}, {1<<63 - 512, 1024}} {
				_, err := d.WriteAt(e.Context(), disk, e.bytes(tc.n), tc.off)
				require.ErrorIs(e, err, dr.ErrOutOfRange, "%d bytes at %d of %d", tc.n, tc.off, size)
			}
		}
		e.ok(d.Commit(e.Context(), p))
		e.sameDisks(r.ID, c, "afterwards")
	}},
	{"unknown disk is an error", func(e *env) {
		p, _ := e.standIn("p")
		d := e.draft(e.prepare(e.key(), p.Machine).ID, p)
		_, err := d.WriteAt(e.Context(), "no-such-disk", make([]byte, 512), 0)
		require.Error(e, err)
	}},
	{"concurrent writes", func(e *env) {
		p, c := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		d := e.draft(r.ID, p)
		const piece = 3000 // neighbours share sectors and blocks
		var wg sync.WaitGroup
		errs := make(chan error, 16)
		for w := range 8 {
			for disk, b := range c.all() {
				wg.Go(func() {
					for off := w * piece; off < len(b); off += 8 * piece {
						if _, err := d.WriteAt(e.Context(), disk, b[off:min(off+piece, len(b))], int64(off)); err != nil {
							errs <- err
							return
						}
					}
				})
			}
		}
		wg.Wait()
		close(errs)
		e.ok(<-errs)
		e.ok(d.Commit(e.Context(), p))
		e.sameDisks(r.ID, c, "written")
	}},
	{"an original keeps the disks that the point lacks", func(e *env) {
		p, c := e.standIn("p")
		made := e.prepare(e.key(), p.Machine).ID
		e.fill(e.draft(made, p), c, p)
		m, err := e.b.Machine(e.Context(), made)
		e.ok(err)
		e.original(m)
		_, other := e.standIn("q")
		q := p
		q.ID, q.Machine.Disks = "q", nil
		for _, d := range p.Machine.Disks {
			if d.ID == diskA {
				q.Machine.Disks = append(q.Machine.Disks, d)
			}
		}
		d := e.draft(made, q)
		e.write(d, diskA, other[diskA], 0)
		e.ok(d.Commit(e.Context(), q))
		e.ok(d.Close())
		c[diskA] = other[diskA]
		e.sameDisks(made, c, "all of its disks")
	}},
	{"commit makes the machine hold the point", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		require.Equal(e, backend.Replica{ID: r.ID, Holds: "p"}, e.prepare(key, p.Machine))
		q, c := e.standIn("q")
		e.fill(e.draft(r.ID, q), c, q)
		require.Equal(e, backend.Replica{ID: r.ID, Holds: "q"}, e.prepare(key, q.Machine))
		e.sameDisks(r.ID, c, "second point")
	}},
	{"second commit is a no-op", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		d := e.draft(r.ID, p)
		for disk, b := range c.all() {
			e.write(d, disk, b, 0)
		}
		e.ok(d.Commit(e.Context(), p))
		e.ok(d.Commit(e.Context(), p))
		e.ok(d.Close())
		require.Equal(e, backend.Replica{ID: r.ID, Holds: "p"}, e.prepare(key, p.Machine))
		e.sameDisks(r.ID, c, "committed twice")
	}},
	{"failed commit may be repeated", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		d := e.draft(r.ID, p)
		for disk, b := range c.all() {
			e.write(d, disk, b, 0)
		}
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		require.ErrorIs(e, d.Commit(ctx, p), context.Canceled)
		require.ErrorIs(e, e.b.Start(e.Context(), r.ID), dr.ErrTorn, "a commit that failed publishes nothing")
		e.ok(d.Commit(e.Context(), p))
		require.Equal(e, backend.Replica{ID: r.ID, Holds: "p"}, e.prepare(key, p.Machine))
		e.sameDisks(r.ID, c, "committed at last")
	}},
	{"close after commit and second close do nothing", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		d := e.draft(r.ID, p)
		e.fill(d, c, p)
		e.ok(d.Close())
		e.ok(d.Close())
		require.Equal(e, backend.Replica{ID: r.ID, Holds: "p"}, e.prepare(key, p.Machine))
		e.sameDisks(r.ID, c, "closed twice")
		e.ok(e.b.Start(e.Context(), r.ID))
	}},
	{"running machine is ErrRunning", func(e *env) {
		m, c := e.running()
		p, _ := e.standIn("p")
		_, err := e.b.Draft(e.Context(), m.ID, p)
		require.ErrorIs(e, err, dr.ErrRunning)
		e.scribble(m.ID, c, 2) // and it still runs
	}},
	{"missing machine is ErrNotFound", func(e *env) {
		p, _ := e.standIn("p")
		_, err := e.b.Draft(e.Context(), "no-such-machine", p)
		require.ErrorIs(e, err, dr.ErrNotFound)
	}},
	{"context is honoured", func(e *env) {
		p, _ := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		_, err := e.b.Draft(ctx, r.ID, p)
		require.ErrorIs(e, err, context.Canceled)
		d := e.draft(r.ID, p)
		_, err = d.WriteAt(ctx, diskA, make([]byte, 512), 0)
		require.ErrorIs(e, err, context.Canceled)
	}},
	{"zeroes ranges", func(e *env) {
		p, c := e.standIn("p")
		r := e.replica(e.key(), c, p)
		q, _ := e.standIn("q")
		d := e.draft(r.ID, q)
		z := need[dr.Zeroer](e, d, "dr.Zeroer")
		for disk, b := range c.all() {
			for range 20 {
				off := e.rng.Int64N(int64(len(b)))
				n := e.rng.Int64N(int64(len(b)) - off + 1)
				if e.rng.IntN(2) == 0 {
					n = min(n, 700)
				}
				e.ok(z.Zero(e.Context(), disk, off, n))
				clear(b[off : off+n])
				data := e.bytes(e.rng.Int64N(min(9000, int64(len(b))-off)))
				e.write(d, disk, data, off)
				copy(b[off:], data)
			}
		}
		err := z.Zero(e.Context(), diskB, int64(len(c[diskB]))-512, 1024)
		require.ErrorIs(e, err, dr.ErrOutOfRange)
		e.ok(d.Commit(e.Context(), q))
		e.sameDisks(r.ID, c, "zeroed")
	}},
	{"sums agree with the present content", func(e *env) {
		p, c := e.standIn("p")
		r := e.replica(e.key(), c, p)
		q, _ := e.standIn("q")
		d := e.draft(r.ID, q)
		s := need[dr.Summer](e, d, "dr.Summer of drafts")
		e.sums(s, c)
		for range 4 {
			off := e.rng.Int64N(900 << 10)
			data := e.bytes(5000)
			e.write(d, diskA, data, off)
			copy(c[diskA][off:], data)
			e.sums(s, c)
		}
	}},
	{"resumes what is durable", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		d := e.draft(r.ID, p)
		need[dr.Resumer](e, d, "dr.Resumer")
		require.Empty(e, e.durable(d, diskA), "a draft made afresh")
		half := len(c[diskA]) / 2
		e.write(d, diskA, c[diskA][:half], 0)
		if e.h.Reopen != nil {
			e.reopen()
		} else {
			e.ok(d.Close())
		}
		d = e.draft(r.ID, p)
		have := zeros(p.Machine)[diskA]
		copy(have, c[diskA][:half])
		for _, x := range e.durable(d, diskA) {
			require.LessOrEqual(e, x.End(), int64(len(have)))
			e.sameBytes(c[diskA][x.Off:x.End()], have[x.Off:x.End()], fmt.Sprintf("durable %+v", x))
		}
		// A caller copies the rest, and only that.
		for disk, b := range c.all() {
			at := int64(0)
			for _, x := range append(e.durable(d, disk), dr.Extent{Off: int64(len(b))}) {
				e.write(d, disk, b[at:x.Off], at)
				at = x.End()
			}
		}
		e.ok(d.Commit(e.Context(), p))
		e.sameDisks(r.ID, c, "resumed")
	}},
	{"resumes no other point", func(e *env) {
		p, c := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		d := e.draft(r.ID, p)
		need[dr.Resumer](e, d, "dr.Resumer")
		e.write(d, diskA, c[diskA], 0)
		e.ok(d.Close())
		q, _ := e.standIn("q")
		d = e.draft(r.ID, q)
		require.Empty(e, e.durable(d, diskA))
	}},
}

// durable returns what the draft says it has of its point.
func (e *env) durable(d dr.Draft, disk dr.DiskID) []dr.Extent {
	e.Helper()
	var xs []dr.Extent
	at := int64(0)
	r, ok := dr.As[dr.Resumer](d)
	if !ok {
		return nil
	}
	for x, err := range r.Durable(e.Context(), disk) {
		e.ok(err)
		require.GreaterOrEqual(e, x.Off, at, "out of order")
		at = x.End()
		xs = append(xs, x)
	}
	return xs
}

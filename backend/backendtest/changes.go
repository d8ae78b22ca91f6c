package backendtest

import (
	"bytes"
	"context"
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

const noTracker = "dr.ChangeTracker"

var changesPromises = []promise{
	{"are all that was written and little else", func(e *env) {
		m, c := e.running()
		need[dr.ChangeTracker](e, e.capture(m.ID, "p0"), noTracker)
		p, then := e.capture(m.ID, "p"), c.clone()
		for i := range 5 {
			spans := e.scribble(m.ID, c, 1+i*3)
			next := e.capture(m.ID, dr.PointID(fmt.Sprintf("next-%d", i)))
			e.changes(next, p.Point(), then, c, spans)
			p, then = next, c.clone()
		}
	}},
	{"are never late", func(e *env) {
		m, c := e.running()
		p1, c1 := e.capture(m.ID, "p1"), c.clone()
		need[dr.ChangeTracker](e, p1, noTracker)
		// The first write after a capture belongs to the next epoch, and the
		// last before a capture to the one before.
		first := e.guest(m.ID, c, diskA, 128<<10, 512)
		last := e.guest(m.ID, c, diskA, 512<<10, 512)
		p2, c2 := e.capture(m.ID, "p2"), c.clone()
		after := e.guest(m.ID, c, diskA, 768<<10, 512)
		p3 := e.capture(m.ID, "p3")
		e.changes(p2, p1.Point(), c1, c2, []span{first, last})
		e.changes(p3, p2.Point(), c2, c, []span{after})
		e.changes(p3, p1.Point(), c1, c, []span{first, last, after})
	}},
	{"of one block written again and again", func(e *env) {
		m, c := e.running()
		p, then := e.capture(m.ID, "p"), c.clone()
		need[dr.ChangeTracker](e, p, noTracker)
		var last dr.Image
		var spans []span
		for i := range 4 {
			spans = append(spans, e.guest(m.ID, c, diskB, 0, 512))
			last = e.capture(m.ID, dr.PointID(fmt.Sprintf("again-%d", i)))
		}
		e.changes(last, p.Point(), then, c, spans)
	}},
	{"without a write are none", func(e *env) {
		m, c := e.running()
		p1 := e.capture(m.ID, "p1")
		need[dr.ChangeTracker](e, p1, noTracker)
		e.changes(p1, p1.Point(), c, c, nil)
		e.changes(e.capture(m.ID, "p2"), p1.Point(), c, c, nil)
	}},
	{"include zeros written over data", func(e *env) {
		m, c := e.running()
		e.guest(m.ID, c, diskA, 0, 200<<10)
		p, then := e.capture(m.ID, "p"), c.clone()
		need[dr.ChangeTracker](e, p, noTracker)
		off, n := int64(64<<10), int64(64<<10+512)
		e.ok(e.h.Write(m.ID, diskA, make([]byte, n), off))
		clear(c[diskA][off : off+n])
		e.changes(e.capture(m.ID, "q"), p.Point(), then, c, []span{{diskA, off, off + n}})
	}},
	{"since a released point", func(e *env) {
		m, c := e.running()
		p, then := e.capture(m.ID, "p"), c.clone()
		need[dr.ChangeTracker](e, p, noTracker)
		e.ok(p.Close())
		e.ok(e.b.Release(e.Context(), m.ID, "p"))
		spans := e.scribble(m.ID, c, 5)
		e.changes(e.capture(m.ID, "q"), p.Point(), then, c, spans)
	}},
	{"over stops and starts", func(e *env) {
		m, c := e.running()
		p, then := e.capture(m.ID, "p"), c.clone()
		need[dr.ChangeTracker](e, p, noTracker)
		spans := e.scribble(m.ID, c, 3)
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.ok(e.b.Start(e.Context(), m.ID))
		spans = append(spans, e.scribble(m.ID, c, 3)...)
		e.changes(e.capture(m.ID, "q"), p.Point(), then, c, spans)
	}},
	{"in another process", func(e *env) {
		m, c := e.running()
		img, then := e.capture(m.ID, "p"), c.clone()
		p := img.Point()
		need[dr.ChangeTracker](e, img, noTracker)
		spans := e.scribble(m.ID, c, 5)
		e.reopen()
		q := e.capture(m.ID, "q")
		e.changes(q, p, then, c, spans)
	}},
	{"since a committed draft", func(e *env) {
		p, c := e.standIn("p")
		r := e.replica(e.key(), c, p)
		then := c.clone()
		e.ok(e.b.Start(e.Context(), r.ID))
		spans := e.scribble(r.ID, c, 7)
		img := e.capture(r.ID, "q")
		need[dr.ChangeTracker](e, img, noTracker)
		e.changes(img, p, then, c, spans)
		// A second round: the replica goes on from another point.
		e.ok(img.Close())
		e.ok(e.b.Stop(e.Context(), r.ID))
		p2, c2 := e.standIn("p2")
		e.fill(e.draft(r.ID, p2), c2, p2)
		e.ok(e.b.Start(e.Context(), r.ID))
		then2 := c2.clone()
		spans = e.scribble(r.ID, c2, 3)
		img = e.capture(r.ID, "q2")
		e.changes(img, p2, then2, c2, spans)
		// Against the first point the draft's own writes are changes too;
		// how many bytes that is depends on the content, so only that none
		// is missing counts.
		e.changes(img, p, then, c2, []span{{diskA, 0, int64(len(c2[diskA]))}, {diskB, 0, int64(len(c2[diskB]))}})
	}},
	{"in a draft's bytes are seen by the original's tracker", func(e *env) {
		m, c := e.running()
		before := e.capture(m.ID, "before")
		need[dr.ChangeTracker](e, before, noTracker)
		then := c.clone()
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.original(m)
		p := before.Point()
		p.ID = "home"
		d := e.draft(m.ID, p)
		data := e.bytes(3000)
		e.write(d, diskA, data, 70000)
		copy(c[diskA][70000:], data)
		e.ok(d.Commit(e.Context(), p))
		img := e.capture(m.ID, "after")
		e.changes(img, before.Point(), then, c, []span{{diskA, 70000, 73000}})
		home := dr.Point{ID: "home", Machine: p.Machine, Time: p.Time}
		e.changes(img, home, c, c, nil)
	}},
	{"of a disk that grew include its new part", func(e *env) {
		if e.h.Grow == nil {
			e.lacks("Harness.Grow")
		}
		m, c := e.running()
		p := e.capture(m.ID, "p")
		tracker := need[dr.ChangeTracker](e, p, noTracker)
		_ = tracker
		e.ok(e.b.Stop(e.Context(), m.ID))
		old := int64(len(c[diskA]))
		size := old + 300*max(e.h.SizeUnit, 512)
		e.ok(e.h.Grow(m.ID, diskA, size))
		then := c.clone()
		c[diskA] = append(c[diskA], make([]byte, size-old)...)
		img := e.capture(m.ID, "q")
		e.sameImage(img, c, "grown")
		e.changes(img, p.Point(), then, c, []span{{diskA, old, size}})
	}},
	{"since an unknown point are lost, first and only", func(e *env) {
		m, _ := e.running()
		img := e.capture(m.ID, "p")
		tracker := need[dr.ChangeTracker](e, img, noTracker)
		e.lost(tracker, dr.Point{ID: "never-captured", Time: epoch})
		e.lost(tracker, dr.Point{ID: "never-captured", Time: epoch, Cursors: map[dr.DiskID]dr.Cursor{diskA: "foreign", diskB: "foreign"}})
	}},
	{"that the tracker lost are lost, first and only", func(e *env) {
		if e.h.LoseChanges == nil {
			e.lacks("Harness.LoseChanges")
		}
		m, c := e.running()
		p := e.capture(m.ID, "p")
		need[dr.ChangeTracker](e, p, noTracker)
		e.scribble(m.ID, c, 3)
		e.ok(e.h.LoseChanges(m.ID))
		q, then := e.capture(m.ID, "q"), c.clone()
		e.lost(need[dr.ChangeTracker](e, q, noTracker), p.Point())
		// From q on it knows again.
		spans := e.scribble(m.ID, c, 3)
		e.changes(e.capture(m.ID, "r"), q.Point(), then, c, spans)
	}},
	{"can be left half way", func(e *env) {
		m, c := e.running()
		p := e.capture(m.ID, "p")
		need[dr.ChangeTracker](e, p, noTracker)
		e.scribble(m.ID, c, 8)
		q := e.capture(m.ID, "q")
		for range need[dr.ChangeTracker](e, q, noTracker).Changes(e.Context(), diskA, p.Point()) {
			break
		}
		e.sameImage(q, c, "afterwards")
	}},
	{"context is honoured", func(e *env) {
		m, c := e.running()
		p := e.capture(m.ID, "p")
		need[dr.ChangeTracker](e, p, noTracker)
		e.guest(m.ID, c, diskA, 0, 512)
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		var last error
		for _, err := range need[dr.ChangeTracker](e, e.capture(m.ID, "q"), noTracker).Changes(ctx, diskA, p.Point()) {
			last = err
		}
		require.ErrorIs(e, last, context.Canceled)
	}},
}

// changes checks what img says of itself since a point with the content then:
// that every byte that differs is in it, and, where the harness knows the
// granularity, that nothing is that lies farther than a block from spans,
// which were written.
func (e *env) changes(img dr.Image, since dr.Point, then, now content, spans []span) {
	e.Helper()
	for disk := range now.all() {
		if err := e.changesOf(img, disk, since, then[disk], now[disk], spans); err != nil {
			e.Errorf("changes of %s since %s on disk %s: %v", img.Point().ID, since.ID, disk, err)
			e.FailNow()
		}
	}
}

func (e *env) changesOf(img dr.Image, disk dr.DiskID, since dr.Point, then, now []byte, spans []span) error {
	tracker, ok := dr.As[dr.ChangeTracker](img)
	if !ok {
		return fmt.Errorf("the image of %s is no tracker, others were", img.Point().ID)
	}
	var at int64
	same := func(off, end int64) error {
		if end <= int64(len(then)) && bytes.Equal(then[off:end], now[off:end]) {
			return nil
		}
		for i := off; i < end; i++ {
			if i >= int64(len(then)) || then[i] != now[i] {
				return fmt.Errorf("byte %d differs and is not reported", i)
			}
		}
		return nil
	}
	for x, err := range tracker.Changes(e.Context(), disk, since) {
		if err != nil {
			return err
		}
		switch {
		case x.Len <= 0:
			return fmt.Errorf("an extent of %d bytes at %d", x.Len, x.Off)
		case x.Off < at:
			return fmt.Errorf("the extent at %d comes after one that ends at %d", x.Off, at)
		case x.End() > int64(len(now)):
			return fmt.Errorf("the extent at %d ends at %d, and the disk at %d", x.Off, x.End(), len(now))
		case x.Zero && !blocksum.Zero(now[x.Off:x.End()]):
			return fmt.Errorf("the extent of %d bytes at %d is said to be zero", x.Len, x.Off)
		}
		if err := same(at, x.Off); err != nil {
			return err
		}
		if err := e.excess(x, disk, spans); err != nil {
			return err
		}
		at = x.End()
	}
	return same(at, int64(len(now)))
}

// excess refuses an extent that has a block in which nothing was written.
func (e *env) excess(x dr.Extent, disk dr.DiskID, spans []span) error {
	g := e.h.Granularity
	if g == 0 {
		return nil
	}
	for block := x.Off / g; block*g < x.End(); block++ {
		written := false
		for _, s := range spans {
			written = written || s.disk == disk && s.off < (block+1)*g && s.end > block*g
		}
		if !written {
			return fmt.Errorf("%d is reported, and nothing was written within its %d bytes", block*g, g)
		}
	}
	return nil
}

// lost checks that the tracker says so and nothing else.
func (e *env) lost(tracker dr.ChangeTracker, since dr.Point) {
	e.Helper()
	for _, disk := range []dr.DiskID{diskA, diskB} {
		n := 0
		for _, err := range tracker.Changes(e.Context(), disk, since) {
			n++
			require.ErrorIs(e, err, dr.ErrChangesLost)
		}
		require.Equal(e, 1, n, "elements of a lost sequence")
	}
}

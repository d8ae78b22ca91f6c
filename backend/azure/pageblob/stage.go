package pageblob

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// staging is a segment that is being filled or on its way.
type staging struct {
	n       int32 // its number in the draft
	pooled  *[]byte
	data    []byte
	records []record
}

// add puts a write into the segment, as part of the last one where they meet,
// and returns where its bytes begin.
func (g *staging) add(disk int, off int64, p []byte, zero int64) int32 {
	r := record{disk: disk, off: off, n: int64(len(p)), zero: p == nil}
	at := int32(isZero)
	if r.zero {
		r.n = zero
	} else {
		at = int32(len(g.data))
		g.data = append(g.data, p...)
	}
	if n := len(g.records); n > 0 {
		last := &g.records[n-1]
		if last.disk == disk && last.zero == r.zero && last.off+last.n == off {
			last.n += r.n
			return at
		}
	}
	g.records = append(g.records, r)
	return at
}

// stage writes p, or n zeros if p is nil, to the segment being filled, and
// sends it off when it is full.
func (d *draft) stage(ctx context.Context, disk int, off int64, p []byte, n int64) error {
	for n > 0 {
		if err := ended(ctx); err != nil {
			return err
		}
		d.mu.Lock()
		if d.err != nil {
			d.mu.Unlock()
			return d.err
		}
		g := d.filling
		if g == nil {
			d.mu.Unlock()
			if err := d.slot(ctx); err != nil {
				return err
			}
			d.mu.Lock()
			if d.filling == nil && d.err == nil {
				d.filling = d.begin()
			} else {
				<-d.slots
			}
			d.mu.Unlock()
			continue
		}
		k := n
		if p != nil {
			k = min(n, int64(d.s.segment-len(g.data)))
		}
		var at int32
		if p != nil {
			at = g.add(disk, off, p[:k], 0)
			p = p[k:]
		} else {
			at = g.add(disk, off, nil, k)
		}
		d.over[disk].put(piece{off: off, n: k, seg: g.n, at: at})
		if len(g.data) == d.s.segment || len(g.records) >= maxRecords {
			d.sendOff()
		}
		d.mu.Unlock()
		off, n = off+k, n-k
	}
	return nil
}

// begin makes a segment to fill; the caller holds d.mu and gives it a slot.
func (d *draft) begin() *staging {
	g := &staging{n: int32(len(d.names)), pooled: d.s.buffers.Get().(*[]byte)}
	g.data = (*g.pooled)[:0]
	d.names = append(d.names, segmentName(d.epoch, len(d.names)))
	d.stored = append(d.stored, false)
	d.memory[g.n] = g
	return g
}

// sendOff uploads the segment being filled beside the caller, who holds d.mu.
func (d *draft) sendOff() {
	g := d.filling
	if g == nil {
		return
	}
	d.filling = nil
	d.flying.Add(1)
	go func() {
		defer d.flying.Done()
		if err := d.upload(d.ctx, g); err != nil {
			d.s.log.Warn("a segment is to be sent again", "machine", string(d.m), "point", string(d.point.ID), "error", plain(err).Error())
			d.failed <- g // whoever needs its slot sends it again
		}
	}()
}

// upload makes a segment durable, and gives back its memory and its slot.
func (d *draft) upload(ctx context.Context, g *staging) error {
	name := d.dir() + d.names32(g.n)
	// The tail goes behind the data, which readers may look at meanwhile.
	b := appendSegmentTail(g.data, name, g.records)
	if err := d.s.put(ctx, name, b); err != nil {
		return err
	}
	d.mu.Lock()
	d.stored[g.n] = true
	delete(d.memory, g.n)
	d.mu.Unlock()
	d.s.buffers.Put(g.pooled)
	<-d.slots
	return nil
}

func (d *draft) names32(n int32) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.names[n]
}

// slot waits for room for one more segment in memory. Segments whose upload
// failed are sent again first, in the caller's time.
func (d *draft) slot(ctx context.Context) error {
	again := func(g *staging) error {
		err := d.upload(ctx, g)
		if err != nil {
			d.failed <- g
		}
		return err
	}
	for {
		select {
		case g := <-d.failed:
			if err := again(g); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case d.slots <- struct{}{}:
			return nil
		case g := <-d.failed:
			if err := again(g); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flush makes everything that was written durable.
func (d *draft) flush(ctx context.Context) error {
	d.mu.Lock()
	d.sendOff()
	d.mu.Unlock()
	// Who has all the slots knows that nothing is on its way.
	var err error
	n := 0
	for ; n < cap(d.slots) && err == nil; n++ {
		if err = d.slot(ctx); err != nil {
			break
		}
	}
	for range n {
		<-d.slots
	}
	return err
}

// readAt is content: the parent's and what was written over it so far.
func (d *draft) readAt(ctx context.Context, id dr.DiskID, p []byte, off int64) error {
	const copied = -2 // a segment's number where the bytes are in p already
	i := d.index[id]
	n := max(0, min(int64(len(p)), d.sizes[i]-off))
	clear(p[n:])
	p = p[:n]
	d.mu.Lock()
	l := d.over[i].clipped(off, off+n)
	for k, q := range l {
		if q.at == isZero {
			continue
		}
		if g := d.memory[q.seg]; g != nil {
			copy(p[q.off-off:q.end()-off], g.data[q.at:])
			l[k].seg = copied
		}
	}
	d.mu.Unlock()
	return readOver(ctx, l.within(off, off+n), p, off, func(ctx context.Context, seg int32, p []byte, at int64) error {
		if seg == copied {
			return nil
		}
		return d.s.segments.read(ctx, d.dir()+d.names32(seg), p, at)
	}, func(p []byte, off int64) error { return d.under.readAt(ctx, id, p, off) })
}

func (d *draft) zero(ctx context.Context, id dr.DiskID, off, n int64) (bool, error) {
	i := d.index[id]
	end := min(off+n, d.sizes[i])
	d.mu.Lock()
	l := d.over[i].clipped(off, end)
	d.mu.Unlock()
	for q, known := range l.within(off, end) {
		switch {
		case !known:
			if ok, err := d.under.zero(ctx, id, q.off, q.n); !ok || err != nil {
				return false, err
			}
		case q.at != isZero:
			return false, nil
		}
	}
	return true, nil
}

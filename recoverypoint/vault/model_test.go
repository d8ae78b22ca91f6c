package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

const chunk = dr.SumBlock

// content is what a point's disks must hold.
type content map[dr.DiskID][]byte

// write is one piece of a point's making.
type write struct {
	disk dr.DiskID
	off  int64
	data []byte // nil: zero
	n    int64  // of zeros
}

// plan is a point and the writes that make it.
type plan struct {
	point  dr.Point
	writes []write
	want   content
}

// planPoint draws the writes of a point over its parent's content.
func planPoint(rng *rand.Rand, id, parent dr.PointID, before content, sizes map[dr.DiskID]int64, n int) plan {
	p := plan{want: content{}, point: dr.Point{ID: id, Parent: parent, Time: time.Unix(1_700_000_000, int64(len(id))).UTC(),
		Consistency: dr.CrashConsistent, Machine: dr.Machine{ID: "m"}, Cursors: map[dr.DiskID]dr.Cursor{}}}
	var disks []dr.DiskID
	for d := range sizes {
		disks = append(disks, d)
	}
	slices.Sort(disks)
	for _, d := range disks {
		p.point.Machine.Disks = append(p.point.Machine.Disks, dr.Disk{ID: d, Size: sizes[d]})
		p.want[d] = make([]byte, sizes[d])
		copy(p.want[d], before[d])
		for range n {
			if sizes[d] == 0 {
				break
			}
			w := write{disk: d, off: rng.Int64N(sizes[d]), n: 1 + rng.Int64N(3*chunk)}
			if rng.IntN(2) == 0 {
				w.off, w.n = w.off/chunk*chunk, (1+rng.Int64N(3))*chunk
			}
			w.n = min(w.n, sizes[d]-w.off)
			switch rng.IntN(4) {
			case 0:
				clear(p.want[d][w.off : w.off+w.n])
			case 1:
				w.data = fmt.Appendf(nil, "%s %d ", id, w.off)
				w.data = slices.Repeat(w.data, int(w.n)/len(w.data)+1)[:w.n]
			default:
				w.data = make([]byte, w.n)
				for i := range w.data {
					w.data[i] = byte(rng.Uint32())
				}
			}
			copy(p.want[d][w.off:], w.data)
			p.writes = append(p.writes, w)
		}
	}
	return p
}

// apply makes the point in the vault, passing over what is durable.
func (p plan) apply(ctx context.Context, v *vault.Store) error {
	d, err := v.Create(ctx, p.point)
	if err != nil {
		return err
	}
	defer d.Close()
	durable := map[dr.DiskID][]dr.Extent{}
	r, _ := dr.As[dr.Resumer](d)
	for _, disk := range p.point.Machine.Disks {
		for e, err := range r.Durable(ctx, disk.ID) {
			if err != nil {
				return err
			}
			durable[disk.ID] = append(durable[disk.ID], e)
		}
	}
	z, _ := dr.As[dr.Zeroer](d)
	// The content, not the history: overlapping writes are merged first, as a
	// copy of an image would bring them.
	for _, w := range p.writes {
		for off := w.off; off < w.off+w.n; {
			n := min(w.off+w.n-off, chunk-off%chunk)
			kept := slices.ContainsFunc(durable[w.disk], func(e dr.Extent) bool { return e.Off <= off && off+n <= e.End() })
			data := p.want[w.disk][off : off+n]
			switch {
			case kept:
			case w.data == nil && !slices.ContainsFunc(data, func(b byte) bool { return b != 0 }):
				err = z.Zero(ctx, w.disk, off, n)
			default:
				_, err = d.WriteAt(ctx, w.disk, data, off)
			}
			if err != nil {
				return err
			}
			off += n
		}
	}
	if err := d.Commit(ctx, p.point); err != nil {
		return err
	}
	return d.Close()
}

// verify reads a point whole and compares.
func verify(ctx context.Context, v *vault.Store, id dr.PointID, want content) error {
	img, err := v.Open(ctx, "m", id)
	if err != nil {
		return err
	}
	defer img.Close()
	for disk, want := range want {
		n := int64(0)
		for e, err := range img.(dr.Mapper).Extents(ctx, disk) {
			if err != nil {
				return err
			}
			if e.Off != n {
				return fmt.Errorf("point %s disk %s: a gap at %d", id, disk, n)
			}
			n = e.End()
			got := want[:0:0]
			if !e.Zero {
				got = make([]byte, e.Len)
				if _, err := img.ReadAt(ctx, disk, got, e.Off); err != nil {
					return err
				}
			}
			if e.Zero && !blocksum.Zero(want[e.Off:n]) || !e.Zero && !bytes.Equal(got, want[e.Off:n]) {
				return fmt.Errorf("point %s disk %s differs between %d and %d", id, disk, e.Off, n)
			}
		}
		if k, err := img.ReadAt(ctx, disk, make([]byte, 10), n-5); n != int64(len(want)) || n > 5 && (k != 5 || err != io.EOF) {
			return fmt.Errorf("point %s disk %s: ends at %d instead of %d: %d, %w", id, disk, n, len(want), k, err)
		}
	}
	return nil
}

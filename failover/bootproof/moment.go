package bootproof

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

var _ backend.Source = (*Instant)(nil)

// Machine implements backend.Source.
func (v *Instant) Machine(_ context.Context, id dr.MachineID) (dr.Machine, error) {
	if id != v.point.Machine.ID {
		return dr.Machine{}, &dr.Error{Op: "describe", Machine: id, Err: dr.ErrNotFound}
	}
	m := v.point.Machine
	m.Power = dr.Off
	if vm := v.running(); vm != nil {
		select {
		case <-vm.Gone():
		default:
			m.Power = dr.On
		}
	}
	return m, nil
}

// Capture implements backend.Source: every disk's layer ends at the same
// moment, between two writes, and is read from then on. A running guest waits for
// some milliseconds. Crash consistency is what it reaches. It lasts until Release,
// also over restarts.
func (v *Instant) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	fail := func(err error) error {
		return &dr.Error{Op: "capture", Side: dr.SourceSide, Machine: id, Point: name, Err: err}
	}
	if id != v.point.Machine.ID {
		return nil, fail(dr.ErrNotFound)
	}
	if err := name.Validate(); err != nil {
		return nil, fail(err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(err)
	}
	v.changing.Lock()
	defer v.changing.Unlock()
	if v.released {
		return nil, fail(os.ErrClosed)
	}
	r := v.record()
	i := slices.IndexFunc(r.Captures, func(c captureRecord) bool { return c.Name == name })
	if i < 0 {
		c, err := v.cut(ctx, r, name)
		if err != nil {
			return nil, fail(err)
		}
		return v.image(c), nil
	}
	return v.image(r.Captures[i]), nil
}

// cut ends the last layer of every disk. The caller holds changing.
func (v *Instant) cut(ctx context.Context, r instantRecord, name dr.PointID) (c captureRecord, err error) {
	last := r.Layers[len(r.Layers)-1].Number
	next := layerRecord{last + 1, strconv.Itoa(last + 1)}
	for _, s := range v.disks { // most of it before the guest must wait
		if err := s.Flush(ctx); err != nil {
			return c, err
		}
	}
	fresh := make([]*layer, len(v.disks))
	defer func() {
		if err != nil {
			for _, l := range fresh {
				if l != nil {
					err = errors.Join(err, l.file.Close(), os.Remove(filepath.Join(v.dir, l.name)))
				}
			}
		}
	}()
	for i, s := range v.disks {
		// One of that name is of a cut that failed.
		if err := os.Remove(filepath.Join(v.dir, fileName(i, next.Name))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return c, err
		}
		if fresh[i], err = s.layer(v.dir, fileName(i, next.Name), v.identity(s.disk.ID, next.Name), next.Number, true); err != nil {
			return c, err
		}
	}
	if err := fsys.OS().SyncDir(v.dir); err != nil {
		return c, err
	}
	// From here on no write is under way, on any disk: what the guest was told
	// to be written is in the layers that end, and nothing that it writes because of
	// that is in them without it.
	for _, s := range v.disks {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	c = captureRecord{Name: name, Layer: last, Time: time.Now().UTC()}
	for _, s := range v.disks {
		if err := s.layers[len(s.layers)-1].over.Flush(ctx); err != nil {
			return c, err
		}
	}
	r.Layers = append(r.Layers, next)
	r.Captures = append(r.Captures, c)
	if err := v.save(r); err != nil {
		return c, err
	}
	for i, s := range v.disks {
		s.layers = append(s.layers, fresh[i])
	}
	return c, nil
}

// recent is how many moments of captures that were released are kept for
// changes: a cycle asks since the newest point that its store has, which may be the one
// before the last where a cycle failed.
const recent = 3

// Release implements backend.Source. Layers whose ends nobody asks for any more
// are merged.
func (v *Instant) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	if id != v.point.Machine.ID {
		return nil
	}
	v.changing.Lock()
	defer v.changing.Unlock()
	if v.released {
		return v.fail("release", os.ErrClosed) // the folder is another's
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(v.life, cancel)()
	r := v.record()
	i := slices.IndexFunc(r.Captures, func(c captureRecord) bool { return c.Name == name })
	if i >= 0 {
		r.Recent = append(r.Recent, r.Captures[i].Layer)
		slices.Sort(r.Recent)
		r.Recent = r.Recent[max(0, len(r.Recent)-recent):]
		r.Captures = slices.Delete(r.Captures, i, i+1)
		if err := v.save(r); err != nil {
			return v.fail("release", err)
		}
	}
	return v.fail("release", v.merge(ctx))
}

// merge merges layers until every end but the last is wanted. The caller holds
// changing. It may be interrupted anywhere.
func (v *Instant) merge(ctx context.Context) error {
	for {
		r := v.record()
		wanted := func(number int) bool {
			v.mu.Lock()
			open := v.images[number] > 0
			v.mu.Unlock()
			return open || slices.Contains(r.Recent, number) ||
				slices.ContainsFunc(r.Captures, func(c captureRecord) bool { return c.Layer == number })
		}
		i := v.disks[0].mergeable(wanted)
		if i < 0 {
			return nil
		}
		for _, s := range v.disks {
			if _, _, err := s.pour(ctx, i); err != nil {
				return err
			}
		}
		r.Layers[i].Number = r.Layers[i+1].Number
		r.Layers = slices.Delete(r.Layers, i+1, i+2)
		if err := v.save(r); err != nil {
			return err
		}
		for _, s := range v.disks {
			gone := s.drop(i)
			s.retire(gone)
			if err := os.Remove(filepath.Join(v.dir, gone.name)); err != nil {
				return err
			}
		}
	}
}

// image of a capture.
func (v *Instant) image(c captureRecord) dr.Image {
	p := dr.Point{ID: c.Name, Machine: v.point.Machine, Time: c.Time, Consistency: dr.CrashConsistent,
		Parent: v.point.ID, Cursors: map[dr.DiskID]dr.Cursor{}}
	for _, d := range p.Machine.Disks {
		p.Cursors[d.ID] = v.cursor(c.Layer)
	}
	v.mu.Lock()
	v.images[c.Layer]++
	v.mu.Unlock()
	return &moment{v: v, point: p, layer: c.Layer}
}

// cursor is a moment's: of this recovery, and no other's.
func (v *Instant) cursor(number int) dr.Cursor {
	return dr.Cursor(v.id + "." + strconv.Itoa(number))
}

// since is the moment of a cursor; 0 is that of the point which the machine runs
// from.
func (v *Instant) since(p dr.Point, disk dr.DiskID) (number int, own bool) {
	rest, ok := strings.CutPrefix(string(p.Cursors[disk]), v.id+".")
	if ok {
		number, err := strconv.Atoi(rest)
		return number, err == nil && number > 0
	}
	return 0, p.ID == v.point.ID && p.Time.Equal(v.point.Time)
}

// moment is the content at the end of a layer.
type moment struct {
	v     *Instant
	point dr.Point
	layer int
	once  sync.Once
}

var (
	_ dr.Image         = (*moment)(nil)
	_ dr.ChangeTracker = (*moment)(nil)
	_ dr.Mapper        = (*moment)(nil)
	_ dr.Summer        = (*moment)(nil)
)

// Point implements dr.Image.
func (m *moment) Point() dr.Point { return m.point }

func (m *moment) fail(op string, disk dr.DiskID, off int64, err error) error {
	return &dr.Error{Op: op, Side: dr.SourceSide, Machine: m.point.Machine.ID, Point: m.point.ID, Disk: disk, Off: off, Err: err}
}

// disk finds a disk's stack, and the layer that ends at the moment. Without an
// error the stack is entered: its caller leaves it.
func (m *moment) disk(id dr.DiskID) (*stack, *nbd.Overlay, error) {
	for _, s := range m.v.disks {
		if s.disk.ID == id {
			s.enter()
			if l := s.find(m.layer); l != nil {
				return s, l.over, nil
			}
			s.leave()
			return nil, nil, fmt.Errorf("%w: the moment's layer", dr.ErrNotFound)
		}
	}
	return nil, nil, dr.ErrNotFound
}

// ReadAt implements dr.Image.
func (m *moment) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	s, over, err := m.disk(disk)
	if err != nil {
		return 0, m.fail("read", disk, off, err)
	}
	defer s.leave()
	if off < 0 || off > s.Size() {
		return 0, m.fail("read", disk, off, dr.ErrOutOfRange)
	}
	n, err := over.ReadAt(ctx, p, off)
	if err != nil && (!errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return n, m.fail("read", disk, off+int64(n), err)
	}
	return n, err
}

// Sums implements dr.Summer.
func (m *moment) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	s, over, err := m.disk(disk)
	if err == nil {
		defer s.leave()
		err = blocksum.Read(s.Size(), off, sums, make([]byte, dr.SumBlock), func(p []byte, off int64) (int, error) {
			return over.ReadAt(ctx, p, off)
		})
	}
	if err != nil {
		return m.fail("sum", disk, off, err)
	}
	return nil
}

// Extents implements dr.Mapper.
func (m *moment) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		s, over, err := m.disk(disk)
		if err != nil {
			yield(dr.Extent{}, m.fail("map", disk, -1, err))
			return
		}
		defer s.leave()
		pos := int64(0)
		for e, err := range over.Extents(ctx, 0, s.Size()) {
			if err != nil {
				yield(dr.Extent{}, m.fail("map", disk, pos, err))
				return
			}
			from, to := max(e.Off, pos), min(e.Off+e.Len, s.Size())
			if from > pos && !yield(dr.Extent{Off: pos, Len: from - pos}, nil) {
				return
			}
			if to > from && !yield(dr.Extent{Off: from, Len: to - from, Zero: e.Zero}, nil) {
				return
			}
			pos = max(pos, to)
		}
		if pos < s.Size() {
			yield(dr.Extent{Off: pos, Len: s.Size() - pos}, nil)
		}
	}
}

// Changes implements dr.ChangeTracker. Since the point that the machine runs from,
// and since its own moments, the layers tell. Since any other point of the store
// it is what the store says of the difference to that point, and all layers.
func (m *moment) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		s, _, err := m.disk(disk)
		if err != nil {
			yield(dr.Extent{}, m.fail("find changes", disk, -1, err))
			return
		}
		defer s.leave()
		var all []iter.Seq2[dr.Extent, error]
		after, own := m.v.since(since, disk)
		switch {
		case own && after > m.layer:
			err = fmt.Errorf("%w: point %s is younger", dr.ErrChangesLost, since.ID)
		case !own:
			tracker, ok := dr.As[dr.ChangeTracker](m.v.img)
			if !ok {
				err = fmt.Errorf("%w: the store can't tell changes since point %s", dr.ErrChangesLost, since.ID)
			} else {
				all = append(all, tracker.Changes(ctx, disk, since))
			}
		}
		if err != nil {
			yield(dr.Extent{}, m.fail("find changes", disk, -1, err))
			return
		}
		for _, l := range s.between(after, m.layer) {
			all = append(all, changed(ctx, l))
		}
		for e, err := range union(all, s.Size()) {
			if err != nil {
				yield(dr.Extent{}, m.fail("find changes", disk, -1, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func changed(ctx context.Context, l *layer) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for e, err := range l.over.Changed(ctx) {
			if !yield(dr.Extent{Off: e.Off, Len: e.Len}, err) || err != nil {
				return
			}
		}
	}
}

// Close implements dr.Image. The capture stays until it is released.
func (m *moment) Close() error {
	m.once.Do(func() {
		m.v.mu.Lock()
		defer m.v.mu.Unlock()
		m.v.images[m.layer]--
	})
	return nil
}

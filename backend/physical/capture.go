package physical

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// noMoment is the remedy where a running machine can't be captured.
const noMoment = "stop it, or give the host freeze and thaw hooks or a tracker"

// Capture implements [backend.Source].
//
// The image of a stopped machine reads its files as they are: it fails once the
// machine is started, drafted over or removed. The same name finds the same
// moment for as long as the machine stays stopped.
//
// The image of a running machine is a [dr.Settler] and a [Freezes]; see the
// package comment. The moment isn't kept beyond the image: the same name gives
// a new one. Where Config.Snapshots takes all its disks it is a plain image and
// a [Freezes]: the moment is kept until Release, whatever the machine does.
func (h *Host) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	m, err := h.machine("capture", id)
	if err != nil {
		return nil, err
	}
	fail := func(err error) error {
		return &dr.Error{Op: "capture", Side: dr.SourceSide, Machine: id, Point: name, Err: err}
	}
	if err := name.Validate(); err != nil {
		return nil, fail(err)
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rec := m.record()
	if rec == nil {
		return nil, fail(dr.ErrNotFound)
	}
	kept, err := m.found(rec, name)
	if err != nil {
		return nil, fail(err)
	}
	switch {
	case kept != nil:
		return kept, nil
	case rec.Torn != "":
		return nil, fail(fmt.Errorf("%w: point %s was being copied to it", dr.ErrTorn, rec.Torn))
	case rec.making():
		return nil, fail(fmt.Errorf("%w: its disks are not all made", dr.ErrTorn))
	}
	if rec, err = m.exchanged(rec); err != nil {
		return nil, fail(err)
	}
	if rec.Power != dr.Off {
		copies, err := m.snapshots(ctx, rec)
		if err != nil {
			return nil, fail(err)
		}
		if copies {
			im, err := m.captureSnapshot(ctx, rec, name, want)
			if err != nil {
				return nil, fail(err)
			}
			return im, nil
		}
	}
	if rec.Power != dr.Off && !m.freeze.possible() && h.cfg.Tracker == nil {
		return nil, &dr.Error{Op: "capture", Side: dr.SourceSide, Machine: id, Point: name,
			Err: fmt.Errorf("%w: it runs, or may, and can be neither frozen nor tracked", dr.ErrNotConsistent), Remedy: noMoment}
	}
	im, err := m.image(rec, name, want)
	if err != nil {
		return nil, fail(err)
	}
	var out dr.Image = im
	if rec.Power == dr.Off {
		err = m.captureStopped(ctx, im, want)
	} else {
		out, err = m.captureLive(ctx, im, want)
	}
	if err != nil {
		im.Close()
		return nil, fail(err)
	}
	return out, nil
}

// image opens the disks. The record's marks stay for as long as it is open.
func (m *machine) image(rec *record, name dr.PointID, want dr.Consistency) (*image, error) {
	opened, err := m.openDisks(rec, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	desc := rec.described()
	for i, d := range desc.Disks {
		desc.Disks[i].Size = opened[d.ID].size
	}
	im := &image{m: m, disks: opened, rec: rec, gen: m.generation(), marks: rec.marks(),
		point: dr.Point{ID: name, Machine: desc}}
	m.mu.Lock()
	m.images[im] = struct{}{}
	m.mu.Unlock()
	return im, nil
}

func (m *machine) captureStopped(ctx context.Context, im *image, want dr.Consistency) error {
	m.track.Lock()
	defer m.track.Unlock()
	next := im.rec.clone()
	// What is held is known of the disks that there were, in their sizes.
	// And what was tracked is of the disk that was there.
	other := m.see(next, im.disks)
	if other {
		next.Epochs = nil
	}
	if other || len(next.Held) > 0 && !maps.Equal(next.Sizes, im.disks.sizes()) {
		next.forget()
		im.rec = next.clone()
	}
	now, again := next.find(im.point.ID)
	if !again {
		now = held{im.point.ID, time.Now().UTC(), next.quiet(want)}
	}
	there, live := next.captured(im.point.ID)
	if !live {
		// Else the name may be known for what the machine held while it ran.
		next.hold(now, im.disks.sizes())
	}
	if !there {
		next.Captures = append(next.Captures, capture{Point: im.point.ID})
	}
	im.point.Time, im.point.Consistency = now.Time, now.Consistency
	if t := m.host.cfg.Tracker; t != nil {
		mark, known := next.mark(im.point, "")
		if !again || !known {
			var err error
			if mark, err = t.Cut(ctx, m.id); err != nil {
				return fmt.Errorf("tracker: %w", err)
			}
			next.name(im.point.ID, mark)
		}
		im.marks = append(im.marks, mark)
		im.point.Cursors = im.cursors(mark)
	}
	if err := m.save(next); err != nil {
		return err
	}
	m.tidy(ctx)
	return nil
}

func (m *machine) captureLive(ctx context.Context, im *image, want dr.Consistency) (*liveImage, error) {
	live := &liveImage{image: im, want: want, pass: 1}
	im.live = live
	im.point.Time, im.point.Consistency = time.Now().UTC(), dr.CrashConsistent
	if there, _ := im.rec.captured(im.point.ID); !there {
		if err := m.change(func(r *record) {
			r.Captures = append(r.Captures, capture{im.point.ID, true})
			m.see(r, im.disks)
		}); err != nil {
			return nil, err
		}
	}
	if m.host.cfg.Tracker == nil {
		return live, nil
	}
	mark, err := live.cut(ctx)
	if err != nil {
		return nil, err
	}
	live.began = mark
	return live, nil
}

// tidy tells the tracker which marks are wanted: those of the record, and those
// of the images that are open. The caller holds track.
func (m *machine) tidy(ctx context.Context) {
	t := m.host.cfg.Tracker
	if t == nil {
		return
	}
	m.mu.Lock()
	var marks []dr.Cursor
	if m.rec != nil {
		marks = m.rec.marks()
	}
	for im := range m.images {
		marks = append(marks, im.marks...)
	}
	m.mu.Unlock()
	// Nothing is lost if it fails: the tracker keeps more than it must.
	if err := t.Keep(context.WithoutCancel(ctx), m.id, marks); err != nil {
		m.host.cfg.Log.Warn("tracker keeps marks that nobody wants", "machine", m.id, "error", err)
	}
}

// generation counts how often the content that images read was given up.
func (m *machine) generation() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gen
}

// Release implements [backend.Source]. It also thaws the machine if an open
// image of that name holds it frozen.
func (h *Host) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	_, err := h.release(ctx, id, func(p dr.PointID) bool { return p == name })
	return err
}

// Sweep implements [backend.Sweeper].
func (h *Host) Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	return h.release(ctx, id, func(p dr.PointID) bool { return !keep(p) })
}

func (h *Host) release(ctx context.Context, id dr.MachineID, drop func(dr.PointID) bool) ([]dr.PointID, error) {
	m, err := h.machine("release", id)
	if err != nil {
		if errors.Is(err, dr.ErrNotFound) {
			err = nil
		}
		return nil, err
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rec := m.record()
	if rec == nil {
		return nil, nil
	}
	for _, s := range rec.Snapshots {
		if drop(s.Point) {
			if err := m.dropSnapshot(ctx, m.record(), s.Point); err != nil {
				return nil, &dr.Error{Op: "release", Side: dr.SourceSide, Machine: id, Point: s.Point, Err: err}
			}
		}
	}
	var dropped []dr.PointID
	next := m.record().clone()
	next.Captures = slices.DeleteFunc(next.Captures, func(c capture) bool {
		if drop(c.Point) {
			dropped = append(dropped, c.Point)
			return true
		}
		return false
	})
	m.mu.Lock()
	var lives []*liveImage
	for im := range m.images {
		if im.live != nil && slices.Contains(dropped, im.point.ID) {
			lives = append(lives, im.live)
		}
	}
	m.mu.Unlock()
	for _, l := range lives {
		l.abandon(fmt.Errorf("%w: point %s was released", dr.ErrNotConsistent, l.id()))
	}
	if len(dropped) == 0 {
		return nil, nil
	}
	if err := m.save(next); err != nil {
		return nil, &dr.Error{Op: "release", Side: dr.SourceSide, Machine: id, Err: err}
	}
	return dropped, nil
}

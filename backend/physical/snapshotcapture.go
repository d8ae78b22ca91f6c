package physical

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// snapshotImage reads the copies of a machine's disks. What becomes of the
// machine meanwhile is nothing to it.
type snapshotImage struct {
	*image
	frozen time.Duration
}

var _ Freezes = (*snapshotImage)(nil)

// Frozen implements [Freezes]. It is 0 of an image that was found again.
func (s *snapshotImage) Frozen() time.Duration { return s.frozen }

// snapshots tells whether a machine that runs is captured by copies.
func (m *machine) snapshots(ctx context.Context, rec *record) (bool, error) {
	s := m.host.cfg.Snapshots
	// Without a freeze the copies of several disks are of several moments.
	if s == nil || len(rec.Disks) == 0 || len(rec.Disks) > 1 && !m.freeze.possible() {
		return false, nil
	}
	for _, d := range rec.Disks {
		err := s.Takes(ctx, m.path(d))
		if errors.Is(err, dr.ErrUnsupported) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("disk %s: snapshot: %w", d.ID, err)
		}
	}
	return true, nil
}

// found opens what a capture of that name has kept; nil: nothing.
func (m *machine) found(rec *record, name dr.PointID) (*snapshotImage, error) {
	s, ok := rec.snapshot(name)
	if !ok || !s.Whole {
		return nil, nil
	}
	im := m.newSnapshotImage(rec, s)
	if err := m.openSnapshot(im.image, s); err != nil {
		im.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // somebody has deleted it: it is made anew
		}
		return nil, err
	}
	return im, nil
}

// newSnapshotImage is known before its copies are there, so that the tracker
// keeps its marks.
func (m *machine) newSnapshotImage(rec *record, s snapshot) *snapshotImage {
	im := &image{m: m, rec: rec.asOf(s), kept: true, marks: rec.marks(),
		point: dr.Point{ID: s.Point, Machine: s.Machine, Time: s.Time, Consistency: s.Consistency}}
	im.point.Machine.Disks = slices.Clone(s.Machine.Disks)
	m.mu.Lock()
	m.images[im] = struct{}{}
	m.mu.Unlock()
	return &snapshotImage{image: im}
}

func (m *machine) openSnapshot(im *image, s snapshot) error {
	all := disks{}
	for i, c := range s.Copies {
		f, err := m.openAt(c.Disk, c.At, os.O_RDONLY)
		if err != nil {
			return errors.Join(err, all.close())
		}
		size, err := f.Size()
		if err != nil {
			return errors.Join(err, f.Close(), all.close())
		}
		all[c.Disk] = opened{f, c.At, size}
		im.point.Machine.Disks[i].Size = size
	}
	im.disks = all
	if s.Mark != "" {
		im.point.Cursors = im.cursors(s.Mark)
	}
	return nil
}

// captureSnapshot freezes the machine, copies its disks, and thaws it. The
// caller holds op.
func (m *machine) captureSnapshot(ctx context.Context, rec *record, name dr.PointID, want dr.Consistency) (_ *snapshotImage, err error) {
	if err := m.dropSnapshot(ctx, rec, name); err != nil {
		return nil, err // what a crash has left of an earlier attempt
	}
	s := snapshot{Point: name, Machine: rec.described()}
	for _, d := range rec.Disks {
		s.Copies = append(s.Copies, diskCopy{Snapshot: snapshotOf(m.id, name, d.ID, m.path(d))})
	}
	err = m.change(func(r *record) {
		r.keepSnapshot(s)
		if there, _ := r.captured(name); !there {
			r.Captures = append(r.Captures, capture{name, true})
		}
	})
	if err != nil {
		return nil, err
	}
	im := m.newSnapshotImage(rec, s)
	defer func() {
		if err != nil {
			im.Close()
			// What can't be removed now is, by the next capture or release.
			err = errors.Join(err, m.dropSnapshot(context.WithoutCancel(ctx), m.record(), name))
		}
	}()
	if err := m.still(ctx, &s, im, want); err != nil {
		return nil, err
	}
	if err := m.openSnapshot(im.image, s); err != nil {
		return nil, err
	}
	if err := m.syncSnapshot(im.disks); err != nil {
		return nil, err
	}
	s.Machine, s.Whole = im.point.Machine, true
	im.point.Time, im.point.Consistency = s.Time, s.Consistency
	err = m.change(func(r *record) {
		r.keepSnapshot(s)
		if s.Mark != "" {
			r.name(name, s.Mark)
		}
	})
	if err != nil {
		return nil, err
	}
	m.track.Lock()
	defer m.track.Unlock()
	m.tidy(ctx)
	return im, nil
}

// still holds the machine for as long as its disks are copied.
func (m *machine) still(ctx context.Context, s *snapshot, im *snapshotImage, want dr.Consistency) error {
	fr := m.freeze.join()
	own := fr == nil && m.freeze.possible()
	if own {
		var err error
		if fr, err = m.freeze.freeze(ctx, want, false); err != nil {
			return err
		}
	}
	err := m.copyAll(ctx, s, im)
	// The moment is later than the mark: what was written between is told twice
	// rather than never.
	s.Time, s.Consistency = time.Now().UTC(), dr.CrashConsistent
	if fr == nil {
		return err
	}
	s.Time, s.Consistency = fr.at.UTC(), max(min(fr.consistency(), want), dr.CrashConsistent)
	switch {
	case own && err != nil:
		fr.end(err)
		<-fr.done
		return errors.Join(err, fr.err)
	case own:
		err = fr.thaw()
		im.frozen = fr.took
		s.Consistency = min(s.Consistency, fr.consistency())
		return err
	case err != nil:
		return err
	}
	return fr.lost()
}

func (m *machine) copyAll(ctx context.Context, s *snapshot, im *snapshotImage) error {
	if t := m.host.cfg.Tracker; t != nil {
		var err error
		if s.Mark, err = im.cut(ctx); err != nil {
			return err
		}
	}
	for i, c := range s.Copies {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		if s.Copies[i].At, err = m.host.cfg.Snapshots.Snapshot(ctx, c.Snapshot); err != nil {
			return fmt.Errorf("disk %s: snapshot: %w", c.Disk, err)
		}
	}
	return nil
}

// syncSnapshot makes the copies durable, with their names.
func (m *machine) syncSnapshot(all disks) error {
	if err := all.sync(); err != nil {
		return err
	}
	for _, d := range all {
		info, err := m.host.fs.Stat(d.path)
		if err == nil && info.Mode().IsRegular() {
			err = m.host.fs.SyncDir(filepath.Dir(d.path))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dropSnapshot removes what a capture of that name has kept, and then its
// record. The caller holds op.
func (m *machine) dropSnapshot(ctx context.Context, rec *record, name dr.PointID) error {
	s, ok := rec.snapshot(name)
	if !ok {
		return nil
	}
	if m.host.cfg.Snapshots == nil {
		return &dr.Error{Op: "remove snapshot", Machine: m.id, Point: name, Err: dr.ErrUnsupported,
			Remedy: "give the host the Config.Snapshots that made it"}
	}
	for _, c := range s.Copies {
		c.Machine = m.id
		if err := m.host.cfg.Snapshots.Remove(ctx, c.Snapshot); err != nil {
			return fmt.Errorf("disk %s: remove snapshot %s: %w", c.Disk, c.Name, err)
		}
	}
	return m.change(func(r *record) { r.dropSnapshot(name) })
}

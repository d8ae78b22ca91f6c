package pageblob

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Scrub checks every head, every manifest, all staged data of received points
// and of drafts, and that each snapshot is there, as long as it should be, with
// its VHD's footer. The bytes of snapshots are Azure's to keep: it does not
// read them.
func (s *Store) Scrub(ctx context.Context) iter.Seq2[recoverypoint.Damage, error] {
	return func(yield func(recoverypoint.Damage, error) bool) {
		seen := map[dr.MachineID]bool{}
		for o, err := range s.list(ctx, root, false) {
			if err != nil {
				yield(recoverypoint.Damage{}, failure("scrub", "", "", "", -1, err))
				return
			}
			m, _, ok := machineOf(o.name)
			if !ok || seen[m] {
				continue
			}
			seen[m] = true
			c := &scrub{s: s, m: m, yield: yield}
			if err := c.machine(ctx); err != nil {
				if !c.stop {
					yield(recoverypoint.Damage{}, failure("scrub", m, "", "", -1, err))
				}
				return
			}
		}
	}
}

type scrub struct {
	s     *Store
	m     dr.MachineID
	yield func(recoverypoint.Damage, error) bool
	stop  bool // the caller has seen enough
}

var errStop = errors.New("stopped")

// found yields a damage; other errors are returned.
func (c *scrub) found(object string, disk dr.DiskID, points []dr.PointID, err error) error {
	if err == nil {
		return nil
	}
	if !isNotFound(err) && !errors.Is(err, dr.ErrCorrupt) && !errors.Is(err, vhd.ErrFormat) {
		return err
	}
	if isNotFound(err) {
		err = fmt.Errorf("%w: it is missing", dr.ErrCorrupt)
	}
	if !c.yield(recoverypoint.Damage{Object: object, Machine: c.m, Points: points, Disk: disk, Err: err}, nil) {
		c.stop = true
		return errStop
	}
	return nil
}

func (c *scrub) machine(ctx context.Context) error {
	dir := machineDir(c.m)
	h, _, err := c.s.readHead(ctx, c.m)
	if errors.Is(err, dr.ErrCorrupt) {
		return c.found(dir+headName, "", nil, err)
	}
	if err != nil {
		return err
	}
	for _, e := range h.Points {
		if err := c.point(ctx, h, e); err != nil {
			return err
		}
	}
	for _, d := range h.Drafts {
		for o, err := range c.s.list(ctx, dir+stageDir+d.ID+"/", false) {
			if err != nil {
				return err
			}
			if !isSegmentName(strings.TrimPrefix(o.name, dir+stageDir+d.ID+"/")) {
				continue
			}
			if _, err := c.s.readSegment(ctx, o.name); err != nil && !c.changed(ctx, h) {
				if err := c.found(o.name, "", []dr.PointID{d.Point.ID}, err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// changed says that the head has moved on, so that what it named may be gone.
func (c *scrub) changed(ctx context.Context, h *head) bool {
	now, _, err := c.s.readHead(ctx, c.m)
	return err == nil && now.Rev != h.Rev
}

func (c *scrub) point(ctx context.Context, h *head, e entry) error {
	dir := machineDir(c.m)
	points := []dr.PointID{e.ID}
	mf, err := c.s.readManifest(ctx, c.m, e)
	if err != nil {
		if c.changed(ctx, h) {
			return nil
		}
		return c.found(dir+e.Manifest, "", points, err)
	}
	if e.Received {
		for _, name := range mf.Segments {
			name = dir + stageDir + mf.Draft + "/" + name
			if _, err := c.s.readSegment(ctx, name); err != nil && !c.changed(ctx, h) {
				if err := c.found(name, "", points, err); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if e.Bare {
		return nil
	}
	for _, d := range mf.Disks {
		name := dir + d.Blob + "?snapshot=" + d.Snapshot
		if err := c.s.checkVHD(ctx, c.m, d); err != nil && !c.changed(ctx, h) {
			if err := c.found(name, d.ID, points, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkVHD reads the footer of a disk's snapshot.
func (s *Store) checkVHD(ctx context.Context, m dr.MachineID, d stored) error {
	b, err := s.snapshot(machineDir(m)+d.Blob, d.Snapshot)
	if err != nil {
		return err
	}
	p, err := b.GetProperties(ctx, nil)
	if err != nil {
		return err
	}
	size := vhd.Padded(d.Size)
	if p.ContentLength == nil || *p.ContentLength != size+vhd.FooterSize {
		return fmt.Errorf("%w: it is not as long as it should be", dr.ErrCorrupt)
	}
	foot := make([]byte, vhd.FooterSize)
	if err := readRange(ctx, b, foot, size); err != nil {
		return err
	}
	f, err := vhd.Parse(foot)
	if err != nil {
		return err
	}
	if f.Size != size || f.ID != vhdID(m, d.ID) {
		return fmt.Errorf("%w: its footer is of another disk", dr.ErrCorrupt)
	}
	return nil
}

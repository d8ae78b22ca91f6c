package vault

import (
	"context"
	"errors"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// sharedWalk goes through the maps of one disk of many points at once. Points
// share pages only at the same place of the same disk, so each place is
// visited with the distinct pages there are, and each page is read once,
// without a memory of what was seen.
type sharedWalk struct {
	ctx   context.Context
	store *Store

	// blob is called for each distinct page (level >= 0) and chunk (level -1)
	// with the points that refer to it; it must not keep points. A page that
	// blob refuses with errSkip is not entered.
	blob func(level int, chunk int64, r *ref, points []int32) error

	// walked is the number of trees, from the first on, that an earlier walk
	// went through: what they share is passed over.
	walked int

	// broken, if set, is told of pages that can't be read, which are passed
	// over then.
	broken func(level int, chunk int64, r *ref, points []int32, err error) error
}

var errSkip = errors.New("skip")

// walkBatch bounds the points that are walked at once: 20 KiB each and level.
const walkBatch = 128

// sharers is a page or chunk and the points that refer to it, a walked one first.
type sharers struct {
	at     lifted
	points []int32
}

func (w *sharedWalk) run(trees []tree) error {
	level := 0
	for _, t := range trees {
		level = max(level, t.level)
	}
	var roots []sharers
	for i, t := range trees {
		roots = join(roots, t.lift(level), int32(i))
	}
	return w.visit(level, 0, roots)
}

// join adds a point to those that share a subtree. Points of a row that share
// one usually follow each other.
func join(all []sharers, at lifted, points ...int32) []sharers {
	if at.ref.isZero() {
		return all
	}
	for i := range slices.Backward(all) {
		if all[i].at == at {
			all[i].points = append(all[i].points, points...)
			return all
		}
	}
	return append(all, sharers{at, slices.Clone(points)})
}

func (w *sharedWalk) visit(level int, base int64, subtrees []sharers) error {
	if len(subtrees) == 0 || len(subtrees) == 1 && int(subtrees[0].points[0]) < w.walked {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	pages := make([]*page, len(subtrees))
	live := subtrees[:0:0]
	for i := range subtrees {
		s := &subtrees[i]
		if s.at.above == 0 {
			if int(s.points[0]) >= w.walked {
				err := w.blob(level, base, &s.at.ref, s.points)
				if err == errSkip {
					continue
				}
				if err != nil {
					return err
				}
			}
			p, err := w.store.page(w.ctx, &s.at.ref, level)
			if errors.Is(err, dr.ErrCorrupt) && w.broken != nil {
				if err := w.broken(level, base, &s.at.ref, s.points, err); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			pages[len(live)] = p
		}
		live = append(live, *s)
	}
	for i := range pageRefs {
		var below []sharers
		for k := range live {
			below = join(below, live[k].at.child(pages[k], i), live[k].points...)
		}
		chunk := base + int64(i)<<(level*pageBits)
		if level > 0 {
			if err := w.visit(level-1, chunk, below); err != nil {
				return err
			}
			continue
		}
		for k := range below {
			if int(below[k].points[0]) < w.walked {
				continue
			}
			if err := w.blob(-1, chunk, &below[k].at.ref, below[k].points); err != nil && err != errSkip {
				return err
			}
		}
	}
	return nil
}

// kept is a manifest that is in the vault, with what prune and scrub need of
// it.
type kept struct {
	machine dr.MachineID
	point   dr.PointID
	disks   []manifestDisk
}

// walkAll walks the maps of all points, a machine's disk and as many points
// at a time as a batch has, in the order of points; made prepares the callbacks. With
// once, what a batch shares with the last point of the one before is passed
// over: then what points without a gap between them share is visited once.
func (s *Store) walkAll(ctx context.Context, points []kept, once bool, made func(disk dr.DiskID, of []*kept) *sharedWalk) error {
	for machine := 0; machine < len(points); {
		end := machine
		for end < len(points) && points[end].machine == points[machine].machine {
			end++
		}
		for from := machine; from < end; from += s.batch {
			walked := 0
			if once && from > machine {
				walked = 1
			}
			if err := s.walkBatch(points[from-walked:min(end, from+s.batch)], walked, made); err != nil {
				return err
			}
		}
		machine = end
	}
	return nil
}

func (s *Store) walkBatch(points []kept, walked int, made func(disk dr.DiskID, of []*kept) *sharedWalk) error {
	var disks []dr.DiskID
	for i := range points {
		for k := range points[i].disks {
			if id := points[i].disks[k].ID; !slices.Contains(disks, id) {
				disks = append(disks, id)
			}
		}
	}
	for _, id := range disks {
		var trees []tree
		var of []*kept
		again := 0
		for i := range points {
			m := manifest{Disks: points[i].disks}
			if d, ok := m.disk(id); ok {
				trees, of = append(trees, d.tree()), append(of, &points[i])
				if i < walked {
					again++
				}
			}
		}
		w := made(id, of)
		w.walked = again
		if err := w.run(trees); err != nil {
			return err
		}
	}
	return nil
}

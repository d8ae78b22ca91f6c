package pageblob

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// mergedAtOnce bounds the points that one swap of a head merges away.
const mergedAtOnce = 32

// Prune deletes what no head names: what processes left that died, and what
// Delete could not delete because somebody needed it. It returns the sizes of
// the staged data and manifests deleted, and the written pages of page blobs
// deleted; what snapshots give back Azure does not tell. Names that are not
// the store's own, and snapshots that it did not take, are left.
//
// It is safe beside anything that other processes do, but for reading: an image
// that another process has open may lose the snapshots of a deleted point.
func (s *Store) Prune(ctx context.Context) (int64, error) {
	var n int64
	for m, objects := range s.byMachine(ctx) {
		if objects.err != nil {
			return n, failure("prune", m, "", "", -1, objects.err)
		}
		k, err := s.sweep(ctx, m, objects.all)
		n += k
		if err != nil {
			return n, failure("prune", m, "", "", -1, err)
		}
	}
	return n, nil
}

type listing struct {
	all []object
	err error
}

// byMachine yields each machine with all that is in its folder, before anybody
// looks at its head. An error ends it.
func (s *Store) byMachine(ctx context.Context) iter.Seq2[dr.MachineID, listing] {
	return func(yield func(dr.MachineID, listing) bool) {
		var cur dr.MachineID
		var l listing
		for o, err := range s.list(ctx, root, true) {
			if err != nil {
				yield(cur, listing{err: err})
				return
			}
			m, _, ok := machineOf(o.name)
			if !ok {
				continue
			}
			if m != cur {
				if cur != "" && !yield(cur, l) {
					return
				}
				cur, l = m, listing{}
			}
			l.all = append(l.all, o)
		}
		if cur != "" {
			yield(cur, l)
		}
	}
}

// sweep deletes what of a machine's objects is left over. The objects were
// listed before the head is read, and the head is swapped before the first is
// deleted: so whoever put one of them, and meant to name it in the head, either
// has done so or fails and puts another.
func (s *Store) sweep(ctx context.Context, m dr.MachineID, objects []object) (int64, error) {
	h, _, err := s.readHead(ctx, m)
	if err != nil {
		return 0, err
	}
	left, err := s.leftOver(ctx, m, h, objects)
	if err != nil {
		return 0, err
	}
	idle := func(b base) bool {
		// Its blob is deleted now, or never was made.
		is := func(o object) bool { return o.page && o.snapshot == "" && o.name == machineDir(m)+b.Name }
		return !h.hasContent(b.Holds) && !h.hasContent(b.Applying) && (slices.ContainsFunc(left, is) || !slices.ContainsFunc(objects, is))
	}
	if len(left) == 0 && !h.mergeable() && !slices.ContainsFunc(h.Blobs, idle) {
		return 0, nil
	}
	_, err = s.changeHead(ctx, m, func(now *head) (bool, error) {
		h = now
		if left, err = s.leftOver(ctx, m, h, objects); err != nil {
			return false, err
		}
		h.Blobs = slices.DeleteFunc(h.Blobs, idle)
		return true, s.merge(ctx, m, h)
	})
	if err != nil {
		return 0, err
	}
	// What was merged away is freed; what is left over now was so before. A
	// blob goes after its snapshots.
	var n atomic.Int64
	for _, bases := range []bool{false, true} {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(deletesAtOnce)
		for _, o := range left {
			if bases == (o.page && o.snapshot == "") {
				g.Go(func() error {
					size, err := s.sweepOne(gctx, o)
					n.Add(size)
					return err
				})
			}
		}
		if err := g.Wait(); err != nil {
			return n.Load(), err
		}
	}
	return n.Load(), nil
}

// sweepOne deletes what is left over, and returns what that gives back.
func (s *Store) sweepOne(ctx context.Context, o object) (size int64, err error) {
	size = o.size
	if o.page {
		if size, err = s.pagesOf(ctx, o); err != nil {
			return 0, err
		}
	}
	err = s.remove(ctx, o.name, o.snapshot)
	if isLeaseLost(err) {
		// The process that has the lease is dead, or is about to see that it
		// has lost its turn.
		if err := s.breakLease(ctx, o.name); err != nil {
			return 0, err
		}
		err = s.remove(ctx, o.name, o.snapshot)
	}
	if c := status(err); o.page && (c == 409 || c == 412) {
		// A snapshot was taken since, or somebody has a lease again.
		s.log.Info("left to the next Prune", "object", o.name, "error", plain(err).Error())
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return size, nil
}

// pagesOf returns how much of a page blob is written, and of a snapshot 0.
func (s *Store) pagesOf(ctx context.Context, o object) (n int64, err error) {
	if o.snapshot != "" {
		return 0, nil
	}
	l, err := pageRanges(ctx, s.c.NewPageBlobClient(o.name), 0, o.size)
	if isNotFound(err) {
		return 0, nil
	}
	for _, r := range l {
		n += r.end - r.off
	}
	return n, err
}

// leftOver returns what the head does not need.
func (s *Store) leftOver(ctx context.Context, m dr.MachineID, h *head, objects []object) ([]object, error) {
	dir := machineDir(m)
	staged := h.staged()
	manifests := map[string]bool{}
	for _, e := range h.Points {
		manifests[e.Manifest] = true
	}
	var left, bases []object
	snapshots := map[string]int{} // that stay, by the blob's name
	of := map[[2]string][]object{}
	for _, o := range objects {
		rest := strings.TrimPrefix(o.name, dir)
		switch {
		case strings.HasPrefix(rest, stageDir):
			if draft, _, ok := strings.Cut(rest[len(stageDir):], "/"); ok && isNonce(draft) && !staged[draft] {
				left = append(left, o)
			}
		case strings.HasPrefix(rest, pointDir):
			if isManifestName(rest) && !manifests[rest] {
				left = append(left, o)
			}
		case !isBlobName(rest):
		case o.snapshot == "":
			bases = append(bases, o)
		case o.draft == "" || s.pinned(m, o.draft):
			snapshots[o.name]++
		default:
			k := [2]string{o.name, o.draft}
			of[k] = append(of[k], o)
		}
	}
	for k, l := range of {
		keep, err := s.keptSnapshot(ctx, m, h, k[0], k[1], l)
		if err != nil {
			return nil, err
		}
		for _, o := range l {
			if keep == "" || keep != anySnapshot && keep != o.snapshot {
				left = append(left, o)
			} else {
				snapshots[o.name]++
			}
		}
	}
	for _, o := range bases {
		b := h.blob(strings.TrimPrefix(o.name, dir))
		if snapshots[o.name] > 0 || b != nil && (h.hasContent(b.Holds) || h.hasContent(b.Applying)) {
			continue
		}
		left = append(left, o)
	}
	return left, nil
}

// hasContent says that a point's content is in the store, or is to be.
func (h *head) hasContent(seq uint64) bool {
	e := h.bySeq(seq)
	return e != nil && !e.Bare
}

const anySnapshot = "*"

// keptSnapshot says which of a blob's snapshots of one draft is needed: "" for
// none. A pass that was cut off may have left several.
func (s *Store) keptSnapshot(ctx context.Context, m dr.MachineID, h *head, name, draft string, l []object) (string, error) {
	e := h.byDraft(draft)
	switch {
	case e == nil || e.Bare:
		return "", nil
	case e.Received || len(l) == 1:
		return anySnapshot, nil
	}
	mf, err := s.readManifest(ctx, m, *e)
	if isNotFound(err) {
		return anySnapshot, nil // the head has changed meanwhile
	}
	if err != nil {
		return "", err
	}
	for _, d := range mf.Disks {
		if machineDir(m)+d.Blob == name {
			return d.Snapshot, nil
		}
	}
	return "", nil
}

// mergeable says that there are points that only tell what they changed, and
// that their only child could tell as well.
func (h *head) mergeable() bool { return len(h.merges()) > 0 }

// merges returns the numbers of points that can be merged into their child,
// and the child's.
func (h *head) merges() map[uint64]uint64 {
	only := map[uint64]uint64{} // 0: there are several
	see := func(parent, child uint64) {
		if _, ok := only[parent]; ok {
			child = 0
		}
		only[parent] = child
	}
	for _, e := range h.Points {
		see(e.Parent, e.Seq)
	}
	for _, d := range h.Drafts {
		see(d.Parent, 0)
	}
	all := map[uint64]uint64{}
	for _, e := range h.Points {
		if c := only[e.Seq]; e.Bare && c != 0 && !h.bySeq(c).Received {
			all[e.Seq] = c
		}
	}
	return all
}

// merge lets points tell what their deleted parents changed as well, so that
// these can be forgotten. It puts the new manifests; the caller swaps the head.
func (s *Store) merge(ctx context.Context, m dr.MachineID, h *head) error {
	for n := 0; n < mergedAtOnce; n++ {
		merges := h.merges()
		// The newest first: what was merged may be merged again.
		var gone, child uint64
		for g, c := range merges {
			if g > gone {
				gone, child = g, c
			}
		}
		if gone == 0 {
			return nil
		}
		e, c := *h.bySeq(gone), h.bySeq(child)
		above, err := s.readManifest(ctx, m, e)
		if err != nil {
			return lost(machineDir(m)+e.Manifest, err)
		}
		mf, err := s.readManifest(ctx, m, *c)
		if err != nil {
			return lost(machineDir(m)+c.Manifest, err)
		}
		for i, d := range mf.Disks {
			j, ok := above.disk(d.ID)
			if !ok {
				continue
			}
			l := above.delta[j].clipped(0, d.Size)
			for _, p := range mf.delta[i] {
				l.put(p)
			}
			mf.delta[i] = l
		}
		name := pointDir + string(c.ID) + "." + newNonce()
		if err := s.put(ctx, machineDir(m)+name, mf.bytes()); err != nil {
			return err
		}
		c.Manifest, c.Parent = name, e.Parent
		h.Points = slices.DeleteFunc(h.Points, func(x entry) bool { return x.Seq == gone })
	}
	return nil
}

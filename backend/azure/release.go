package azure

import (
	"context"
	"errors"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Release implements backend.Source. The snapshots of the newest moments stay,
// because Azure can tell changes only between two that are there; see
// Options.Bases. Restore points go at once.
func (a *Azure) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	if err := ctx.Err(); err != nil {
		return fail("release", id, "", -1, err)
	}
	if err := errors.Join(id.Validate(), name.Validate()); err != nil {
		return fail("release", id, "", -1, err)
	}
	return fail("release", id, "", -1, a.release(ctx, id, func(p dr.PointID) bool { return p == name }))
}

// Sweep implements backend.Sweeper. It also deletes what drafts and starts that
// were cut off have left.
func (a *Azure) Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	r, _, err := a.load(ctx, id)
	if errors.Is(err, dr.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fail("sweep", id, "", -1, err)
	}
	var swept []dr.PointID
	for _, mo := range r.Moments {
		if !mo.Base && !mo.Released && !mo.Gone && !keep(mo.Point) {
			swept = append(swept, mo.Point)
		}
	}
	err = a.release(ctx, id, func(p dr.PointID) bool { return slices.Contains(swept, p) })
	if err == nil {
		err = a.tidy(ctx, id)
	}
	return swept, fail("sweep", id, "", -1, err)
}

// release makes captures bases, and deletes what is too many of these.
func (a *Azure) release(ctx context.Context, id dr.MachineID, which func(dr.PointID) bool) error {
	r, err := a.update(ctx, id, nil, func(r *record) error {
		changed, bases := false, 0
		for i := range slices.Backward(r.Moments) { // the newest first
			mo := &r.Moments[i]
			if !mo.Base && !mo.Released && !mo.Gone && which(mo.Point) {
				mo.Released, changed = true, true
			}
			if !mo.Released || mo.Gone {
				continue
			}
			if bases++; !mo.Done || bases > a.opts.Bases || !r.tells(*mo) {
				bases--
				mo.Gone, changed = true, true
				r.remember(*mo)
			}
		}
		if !changed {
			return errUnchanged
		}
		return nil
	})
	if errors.Is(err, dr.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, mo := range r.Moments {
		if mo.Released && !mo.Gone && mo.Set != "" && which(mo.Point) {
			if err := a.unrestore(ctx, mo.Set); err != nil {
				return err
			}
		}
	}
	if err := a.purge(ctx, id); err != nil {
		return err
	}
	return a.revokeBases(ctx, r)
}

// revokeBases takes back the addresses by which processes that are gone could
// read what is kept as a base only.
func (a *Azure) revokeBases(ctx context.Context, r record) error {
	var list []string
	for _, mo := range r.Moments {
		if (mo.Released || mo.Base) && !mo.Gone {
			for _, d := range mo.Disks {
				list = append(list, d.Before, d.After)
			}
		}
	}
	list = unique(list)
	return a.all(ctx, len(list), func(ctx context.Context, i int) error {
		if list[i] == "" || a.grants.used(list[i]) {
			return nil
		}
		s, err := a.snapshots.Get(ctx, a.opts.ResourceGroup, list[i], nil)
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return explain(err)
		}
		if s.Properties == nil || deref(s.Properties.DiskState) != armcompute.DiskStateActiveSAS {
			return nil
		}
		return a.revokeSnapshot(ctx, list[i])
	}, nil)
}

// remember keeps the name of a point about whose changes nothing is known.
func (r *record) remember(mo moment) {
	if mo.Done {
		r.recall(mo.Point)
	}
}

func (r *record) recall(p dr.PointID) {
	if p != "" && !slices.Contains(r.Older, p) {
		r.Older = append(r.Older, p)
		r.Older = r.Older[max(0, len(r.Older)-maxOlder):]
	}
}

// purge deletes the snapshots of the moments that are to go, and then forgets
// them: cut off anywhere, the next one finishes it.
func (a *Azure) purge(ctx context.Context, id dr.MachineID) error {
	r, _, err := a.load(ctx, id)
	if err != nil {
		if errors.Is(err, dr.ErrNotFound) {
			return nil
		}
		return err
	}
	m := &machine{id: id, rec: r, has: true, at: r.at()}
	gone := map[string]bool{} // of an attempt: whether it was over
	for _, mo := range r.Moments {
		if mo.Gone {
			if err := a.unfreeze(ctx, m, r, mo); err != nil {
				return err
			}
			gone[mo.Attempt] = mo.Over
		}
	}
	if len(gone) == 0 {
		return nil
	}
	_, err = a.update(ctx, id, nil, func(r *record) error {
		n := len(r.Moments)
		r.Moments = slices.DeleteFunc(r.Moments, func(mo moment) bool {
			over, deleted := gone[mo.Attempt]
			// What ended after we had looked may have made more.
			return mo.Gone && deleted && mo.Over == over
		})
		if len(r.Moments) == n {
			return errUnchanged
		}
		return nil
	})
	return err
}

// forget undoes an attempt to capture that has ended. Others may have given it
// up, deleted what there was of it and forgotten it while it went on: so it is
// recorded again, as over, before what it has made is deleted. Cut off then, the
// next purge finishes it. An attempt that is done after all, because only the
// answer was lost, stays.
func (a *Azure) forget(ctx context.Context, m *machine, r record, mo moment) error {
	mo.Done, mo.Gone, mo.Over = false, true, true
	_, err := a.update(ctx, m.id, nil, func(now *record) error {
		i := slices.IndexFunc(now.Moments, func(x moment) bool { return !x.Base && x.Attempt == mo.Attempt })
		switch {
		case i < 0:
			now.Moments = append(now.Moments, mo)
		case now.Moments[i].Done:
			return errUnchanged
		default:
			now.Moments[i] = mo
		}
		return nil
	})
	if errors.Is(err, dr.ErrNotFound) {
		return a.unfreeze(ctx, m, r, mo) // the machine was removed meanwhile
	}
	return errors.Join(err, a.purge(ctx, m.id))
}

// tells reports whether changes since a moment can still be told: its disks are
// those that the machine has.
func (r *record) tells(mo moment) bool {
	for _, d := range mo.Disks {
		if x := r.disk(d.ID); x == nil || x.Blob != "" || x.Unique != "" && x.Unique != d.Unique {
			return false
		}
	}
	return true
}

// base finds the moment that was kept of a draft's point.
func (r *record) base(p dr.PointID) *moment {
	for i := range r.Moments {
		if m := &r.Moments[i]; m.Base && m.Point == p && !m.Released && !m.Gone {
			return m
		}
	}
	return nil
}

// momentNames are the snapshots that an attempt can have made.
func (a *Azure) momentNames(m *machine, r record, mo moment) []string {
	rounds := []string{"a-", "b-", "c-"}
	if mo.Base {
		rounds = []string{"base-"}
	}
	var names []string
	note := func(disk dr.DiskID) {
		for _, round := range rounds {
			if n := a.snapshotName(m, disk, round+mo.Attempt); !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	for _, d := range r.Disks {
		note(d.ID)
	}
	for _, d := range mo.Disks {
		note(d.ID)
	}
	return names
}

// unfreeze deletes all that an attempt may have made.
func (a *Azure) unfreeze(ctx context.Context, m *machine, r record, mo moment) error {
	if !mo.Base {
		if err := a.unrestore(ctx, restoreName(m.id, mo)); err != nil {
			return err
		}
	}
	list := a.momentNames(m, r, mo)
	return a.all(ctx, len(list), func(ctx context.Context, i int) error { return a.unsnap(ctx, list[i]) }, nil)
}

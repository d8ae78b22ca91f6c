package azure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// tidy deletes what processes that were cut off have made for a machine before
// its record knew of it: blobs that no disk is in, snapshots of no moment,
// managed disks that no machine was given, restore points that nobody reads.
// What it deletes has a name that only this library gives, and that no process
// at work can still want: names hold the number of a draft, or of an attempt to
// capture, and the record tells which are over.
func (a *Azure) tidy(ctx context.Context, id dr.MachineID) error {
	var blobs []string
	for name, err := range a.blobs(ctx, blobPrefix(id)) {
		if err != nil {
			return err
		}
		blobs = append(blobs, name)
	}
	found, err := a.tagged(ctx, a.opts.ResourceGroup, id)
	if err != nil {
		return err
	}
	// The record is read after the lists: what it doesn't know of then was made
	// by somebody whom it has forgotten, and not by one who came later.
	r, _, err := a.load(ctx, id)
	if errors.Is(err, dr.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Group, a.opts.ResourceGroup) {
		more, err := a.tagged(ctx, r.Group, id)
		if err != nil {
			return err
		}
		found["microsoft.compute/disks"] = append(found["microsoft.compute/disks"], more["microsoft.compute/disks"]...)
	}
	over := r.over()
	for _, name := range blobs {
		if gen, ok := generationOf(name); ok && gen <= over && !slices.ContainsFunc(r.Disks, func(d diskRecord) bool { return d.Blob == name }) {
			if err := a.drop(ctx, name); err != nil {
				return err
			}
		}
	}
	if err := a.tidyDisks(ctx, &r, found["microsoft.compute/disks"]); err != nil {
		return err
	}
	if err := a.tidySnapshots(ctx, &r, over, found["microsoft.compute/snapshots"]); err != nil {
		return err
	}
	if len(found["microsoft.compute/restorepointcollections"]) == 0 {
		return nil
	}
	return a.tidyPoints(ctx, id)
}

// over is the newest generation that nobody can be making anything of any more.
func (r *record) over() int {
	if r.Torn || slices.ContainsFunc(r.Disks, func(d diskRecord) bool { return d.Had > 0 }) {
		return r.Gen - 1
	}
	return r.Gen
}

func blobPrefix(id dr.MachineID) string { return "disks/" + string(id) + "/" }

// generationOf is the number in the name of a blob, "DISK-GEN.vhd".
func generationOf(name string) (int, bool) {
	name, ok := strings.CutSuffix(name, ".vhd")
	i := strings.LastIndexByte(name, '-')
	if !ok || i < 0 {
		return 0, false
	}
	n, err := strconv.Atoi(name[i+1:])
	return n, err == nil
}

func (a *Azure) tidyDisks(ctx context.Context, r *record, found []string) error {
	wanted := func(id, name string) bool {
		return slices.ContainsFunc(r.Disks, func(d diskRecord) bool {
			return sameID(d.Disk, id) || d.Blob != "" && strings.EqualFold(diskName(r.Name, d, contentName(d.Blob, r.Gen)), name) ||
				slices.ContainsFunc(d.Replaced, func(old string) bool { return sameID(old, id) })
		})
	}
	for _, id := range unique(found) {
		at, err := parseID(id)
		if err != nil {
			return err
		}
		if !isDiskName(r.Name, at.name) || wanted(id, at.name) {
			continue
		}
		d, err := a.disks.Get(ctx, at.group, at.name, nil)
		if isNotFound(err) || err == nil && deref(d.ManagedBy) != "" {
			continue
		}
		if err != nil {
			return explain(err)
		}
		if err := a.dropDisk(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (a *Azure) tidySnapshots(ctx context.Context, r *record, over int, found []string) error {
	m := &machine{id: r.ID}
	wanted := map[string]bool{}
	for _, d := range r.Disks {
		wanted[a.snapshotName(m, d.ID, "base-"+r.Draft)] = true
		for gen := over + 1; gen <= r.Gen+1; gen++ {
			wanted[a.snapshotName(m, d.ID, fmt.Sprintf("copy-%d", gen))] = true
		}
	}
	for _, mo := range r.Moments {
		for _, name := range a.momentNames(m, *r, mo) {
			wanted[name] = true
		}
		for _, d := range mo.Disks {
			wanted[d.Before], wanted[d.After] = true, true
		}
	}
	list := unique(found)
	return a.all(ctx, len(list), func(ctx context.Context, i int) error {
		at, err := parseID(list[i])
		if err != nil || wanted[at.name] || !strings.HasPrefix(at.name, "lb-") || len(at.name) != len(a.snapshotName(m, "", "")) {
			return err
		}
		return a.unsnap(ctx, at.name)
	}, nil)
}

// tidyPoints deletes restore points of attempts that are over, and the
// collection if none is left and none is being made.
func (a *Azure) tidyPoints(ctx context.Context, id dr.MachineID) error {
	set := restoreSet(id)
	x, err := a.sets.Get(ctx, a.opts.ResourceGroup, set, &armcompute.RestorePointCollectionsClientGetOptions{Expand: to.Ptr(armcompute.RestorePointCollectionExpandOptionsRestorePoints)})
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	r, _, err := a.load(ctx, id) // after the list, as above
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, mo := range r.Moments {
		if !mo.Base && !mo.Released && !mo.Gone {
			wanted[restoreName(id, mo)] = true
		}
	}
	if x.Properties != nil {
		for _, p := range x.Properties.RestorePoints {
			if name := set + "/" + deref(p.Name); !wanted[name] {
				if err := a.unrestore(ctx, name); err != nil {
					return err
				}
			}
		}
	}
	if len(wanted) > 0 {
		return nil
	}
	return a.unrestoreAll(ctx, set)
}

// tolerable tells whether a failure to tidy up is one that only a person can
// end, and that is no reason to fail for what has its effect already.
func tolerable(err error) bool {
	_, code := codeOf(err)
	return errors.Is(err, fs.ErrPermission) || code == "ScopeLocked" || code == "OperationNotAllowed"
}

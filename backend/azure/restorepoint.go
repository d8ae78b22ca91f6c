package azure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// restoreSet names the collection of a machine's restore points, restoreName the
// point of an attempt: "collection/point".
func restoreSet(id dr.MachineID) string { return "lb-" + short("restore", string(id)) }

func restoreName(id dr.MachineID, mo moment) string { return restoreSet(id) + "/p" + mo.Attempt }

// restorePoint makes a restore point of the running machine, of which the
// moment's bytes are read from then on. That Azure makes none now, for whatever
// reason of its own, is dr.ErrNotConsistent.
func (a *Azure) restorePoint(ctx context.Context, m *machine, mo *moment, want dr.Consistency) error {
	refuse := func(err error) error {
		if status, _ := codeOf(err); status >= 500 || status == http.StatusNotFound || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return explain(err)
		}
		if err = explain(err); errors.Is(err, dr.ErrNotConsistent) || errors.Is(err, fs.ErrPermission) {
			return err
		}
		return remedied(fmt.Errorf("%w: %w", dr.ErrNotConsistent, err), "restore points can be made once an hour, application-consistent ones every three; a machine that is off, or has one disk, needs none")
	}
	set := restoreSet(m.id)
	_, err := a.sets.CreateOrUpdate(ctx, a.opts.ResourceGroup, set, armcompute.RestorePointCollection{
		Location: to.Ptr(a.opts.Location), Tags: map[string]*string{tagMachine: to.Ptr(string(m.id))},
		Properties: &armcompute.RestorePointCollectionProperties{Source: &armcompute.RestorePointCollectionSourceProperties{ID: m.vm.ID}}}, nil)
	if err != nil {
		return refuse(err)
	}
	name := "p" + mo.Attempt
	var props armcompute.RestorePointProperties
	if want == dr.CrashConsistent {
		props.ConsistencyMode = to.Ptr(armcompute.ConsistencyModeTypesCrashConsistent)
	}
	p, err := answered(ctx, func(ctx context.Context) (*runtime.Poller[armcompute.RestorePointsClientCreateResponse], error) {
		return a.restores.BeginCreate(ctx, a.opts.ResourceGroup, set, name, armcompute.RestorePoint{Properties: &props}, nil)
	})
	resp, err := await(ctx, a, p, err)
	if err != nil {
		return refuse(err)
	}
	byDisk := map[string]string{}
	meta := resp.Properties.SourceMetadata
	if meta == nil || meta.StorageProfile == nil {
		return fmt.Errorf("Azure tells nothing of the disks of restore point %s/%s", set, name)
	}
	note := func(disk *armcompute.ManagedDiskParameters, rp *armcompute.DiskRestorePointAttributes) {
		if disk != nil && rp != nil {
			if at, err := parseID(deref(rp.ID)); err == nil {
				byDisk[keyOf(deref(disk.ID))] = set + "/" + name + "/" + at.name
			}
		}
	}
	if d := meta.StorageProfile.OSDisk; d != nil {
		note(d.ManagedDisk, d.DiskRestorePoint)
	}
	for _, d := range meta.StorageProfile.DataDisks {
		note(d.ManagedDisk, d.DiskRestorePoint)
	}
	for i := range mo.Disks {
		d := &mo.Disks[i]
		rec := m.rec.disk(d.ID)
		if rec == nil || byDisk[keyOf(rec.Disk)] == "" {
			return fmt.Errorf("restore point %s/%s lacks disk %s", set, name, d.ID)
		}
		d.Restore = byDisk[keyOf(rec.Disk)]
	}
	mo.Set, mo.Time, mo.Consistency = set+"/"+name, time.Now().UTC(), dr.CrashConsistent
	if deref(resp.Properties.ConsistencyMode) != armcompute.ConsistencyModeTypesCrashConsistent {
		// Linux is frozen by file system; applications only by scripts of which
		// Azure tells nothing.
		mo.Consistency = dr.FileSystemConsistent
		if sp := m.vm.Properties.StorageProfile; sp != nil && sp.OSDisk != nil && deref(sp.OSDisk.OSType) == armcompute.OperatingSystemTypesWindows {
			mo.Consistency = dr.ApplicationConsistent
		}
	}
	mo.Consistency = min(mo.Consistency, want)
	return nil
}

// unrestore deletes a restore point, and before that takes back whatever it can
// be read by. One that isn't there is no error.
func (a *Azure) unrestore(ctx context.Context, name string) error {
	set, point, ok := cut(name)
	if !ok {
		return nil
	}
	if err := a.grants.dropAll(ctx, name+"/"); err != nil {
		return err
	}
	for try := 0; ; try++ {
		p, err := a.restores.BeginDelete(ctx, a.opts.ResourceGroup, set, point, nil)
		_, err = await(ctx, a, p, err)
		status, _ := codeOf(err)
		switch {
		case err == nil, isNotFound(err):
			return nil
		case status == http.StatusConflict && try == 0:
			// Another process, dead or not, may have it granted.
			if err := a.revokePoint(ctx, set, point); err != nil {
				return err
			}
		default:
			return explain(err)
		}
	}
}

// revokePoint takes back what the disks of a restore point can be read by.
func (a *Azure) revokePoint(ctx context.Context, set, point string) error {
	for pages := a.restored.NewListByRestorePointPager(a.opts.ResourceGroup, set, point, nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return explain(err)
		}
		for _, d := range page.Value {
			if err := a.grants.take(ctx, set+"/"+point+"/"+deref(d.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unrestoreAll deletes a collection with its points. One that isn't there is no
// error.
func (a *Azure) unrestoreAll(ctx context.Context, set string) error {
	for try := 0; ; try++ {
		p, err := a.sets.BeginDelete(ctx, a.opts.ResourceGroup, set, nil)
		_, err = await(ctx, a, p, err)
		status, _ := codeOf(err)
		switch {
		case err == nil, isNotFound(err):
			return nil
		case status != http.StatusConflict || try > 0:
			return explain(err)
		}
		x, err := a.sets.Get(ctx, a.opts.ResourceGroup, set, &armcompute.RestorePointCollectionsClientGetOptions{Expand: to.Ptr(armcompute.RestorePointCollectionExpandOptionsRestorePoints)})
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return explain(err)
		}
		if x.Properties == nil {
			continue
		}
		for _, point := range x.Properties.RestorePoints {
			if err := a.unrestore(ctx, set+"/"+deref(point.Name)); err != nil {
				return err
			}
		}
	}
}

package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// toBlob makes the content of a disk a page blob that can be written, whatever
// it is now. gen is a number that no blob of the disk had before.
func (a *Azure) toBlob(ctx context.Context, m *machine, d diskRecord, gen int, owner string) (s *staged, name string, err error) {
	name = a.stagedName(m.id, d.ID, gen)
	switch {
	case d.Blob != "":
		s, err = a.open(ctx, d.Blob, d.Size, owner, d.Had > 0)
		return s, d.Blob, err
	case d.Disk == "":
		s, err = a.make(ctx, name, d.Size, owner)
		return s, name, err
	}
	snap := a.snapshotName(m, d.ID, fmt.Sprintf("copy-%d", gen))
	if err := a.snap(ctx, m, d, snap, ""); err != nil {
		return nil, "", err
	}
	url, done, err := a.grants.snapshot(ctx, snap)
	if err != nil {
		return nil, "", err
	}
	defer done()
	if s, err = a.copyFrom(ctx, name, url, d.Size, owner); errors.Is(err, errNoCopy) {
		a.opts.Log.Info("the storage service can't copy a managed disk by itself; it is read and written", "machine", m.id, "disk", d.ID, "why", err)
		var from *pageblob.Client
		if from, err = pageblob.NewClientWithNoCredential(url, a.dataOptions()); err == nil {
			s, err = a.streamFrom(ctx, name, from, d.Size, owner)
		}
	}
	if err != nil {
		return nil, "", err
	}
	done()
	return s, name, a.unsnap(ctx, snap)
}

// toDisks makes managed disks of what the machine's disks hold as page blobs,
// so that they can be attached and captured, and records it. If a draft's point
// was their content, the moment is kept, so that changes since can be told.
func (a *Azure) toDisks(ctx context.Context, m *machine, r record) (record, error) {
	type made struct {
		id   string
		disk *armcompute.Disk
	}
	disks := make([]made, len(r.Disks))
	gen := r.Gen + 1
	err := a.all(ctx, len(r.Disks), func(ctx context.Context, i int) error {
		d := r.Disks[i]
		if d.Blob == "" && d.Disk != "" {
			return nil
		}
		name := d.Blob
		if name == "" { // never written
			s, n, err := a.toBlob(ctx, m, d, gen, leaseID(m.id, "empty"))
			if err != nil {
				return fail("make the disk", m.id, d.ID, -1, err)
			}
			if err := s.release(ctx); err != nil {
				return fail("make the disk", m.id, d.ID, -1, err)
			}
			name = n
		}
		disk, err := a.importDisk(ctx, m, r, d, name)
		if err != nil {
			return fail("make the managed disk", m.id, d.ID, -1, err)
		}
		disks[i] = made{deref(disk.ID), disk}
		return nil
	}, nil)
	if err != nil {
		return r, err
	}
	var gone []string
	r, err = a.update(ctx, m.id, func() (record, error) { return m.current(), nil }, func(now *record) error {
		gone = nil
		if now.Draft != r.Draft || now.Gen != r.Gen {
			return fmt.Errorf("%w: the machine's disks were written meanwhile", dr.ErrConflict)
		}
		for i, d := range disks {
			if d.id == "" {
				continue
			}
			x := now.disk(r.Disks[i].ID)
			if x == nil {
				return fmt.Errorf("%w: the machine's disks changed meanwhile", dr.ErrConflict)
			}
			gone = append(gone, x.Blob)
			x.take(d.disk)
		}
		now.Gen, now.Untidy = gen, true
		return nil
	})
	if err != nil {
		return r, err
	}
	m.rec, m.has = r, true
	if err := a.look(ctx, m); err != nil {
		return r, err
	}
	for i := range r.Disks {
		gone = append(gone, a.stagedName(m.id, r.Disks[i].ID, gen))
	}
	for _, name := range gone {
		if name != "" {
			if err := a.drop(ctx, name); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// importDisk makes a managed disk of a page blob, or finds it made.
func (a *Azure) importDisk(ctx context.Context, m *machine, r record, d diskRecord, blobName string) (*armcompute.Disk, error) {
	disk, err := a.diskOf(m, &r, d)
	if err != nil {
		return nil, err
	}
	// What makes the container's client may be a signature, which is nobody's to
	// read off a disk.
	source := unqueried(a.opts.Staging.NewBlobClient(blobName).URL())
	disk.Properties.CreationData = &armcompute.CreationData{
		CreateOption: to.Ptr(armcompute.DiskCreateOptionImport), SourceURI: to.Ptr(source), StorageAccountID: to.Ptr(a.opts.StorageAccount)}
	name := diskName(r.Name, d, contentName(blobName, r.Gen))
	p, err := a.disks.BeginCreateOrUpdate(ctx, r.Group, name, *disk, nil)
	resp, err := await(ctx, a, p, err)
	if err != nil {
		return nil, explain(err)
	}
	if got, want := deref(resp.Properties.DiskSizeBytes), vhd.Padded(d.Size); got < want {
		return nil, fmt.Errorf("%w: the managed disk %s has %d bytes, and %d were to be imported", dr.ErrCorrupt, name, got, want)
	}
	return &resp.Disk, nil
}

// diskOf is a managed disk as it is asked for, but for where its bytes are from.
func (a *Azure) diskOf(m *machine, r *record, d diskRecord) (*armcompute.Disk, error) {
	o, err := a.optionsOf(r)
	if err != nil {
		return nil, err
	}
	like := dr.Machine{}
	if r.Placement != nil {
		like = r.Placement.Machine
	}
	props := &armcompute.DiskProperties{}
	if d.LUN < 0 {
		props.OSType, props.HyperVGeneration = osType(like.OS), generation(like.Firmware)
		if x, ok := m.live(d.Disk); ok { // what the machine had stays
			props.OSType, props.HyperVGeneration = x.disk.Properties.OSType, x.disk.Properties.HyperVGeneration
		}
		if o.Security == "TrustedLaunch" {
			props.SecurityProfile = &armcompute.DiskSecurityProfile{SecurityType: to.Ptr(armcompute.DiskSecurityTypesTrustedLaunch)}
		}
	}
	disk := armcompute.Disk{Location: to.Ptr(a.opts.Location), Properties: props, Tags: a.tags(r, d.ID, ""),
		SKU: &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypes(o.DiskType))}}
	if x, ok := m.live(d.Disk); ok && x.disk.SKU != nil && o.DiskType == "" {
		disk.SKU = &armcompute.DiskSKU{Name: x.disk.SKU.Name}
	} else if o.DiskType == "" {
		disk.SKU = &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypesStandardSSDLRS)}
	}
	if z := a.zoneOf(m, o); z != "" {
		disk.Zones = []*string{to.Ptr(z)}
	}
	return &disk, nil
}

// diskName names a managed disk after the machine, what it is of it, and its
// content: another content gets another disk.
func diskName(vm string, d diskRecord, content string) string {
	what := "os"
	if d.LUN >= 0 {
		what = fmt.Sprintf("data%d", d.LUN)
	}
	return vm + "-" + what + "-" + short(content)[:8]
}

// contentName is what a blob holds until the next draft: that may write to the
// same one.
func contentName(blobName string, gen int) string { return fmt.Sprintf("%s@%d", blobName, gen) }

var diskNameEnd = regexp.MustCompile(`^-(os|data\d+)-[0-9a-f]{8}$`)

// isDiskName tells whether a managed disk's name is one that diskName gives.
func isDiskName(vm, name string) bool {
	end, ok := strings.CutPrefix(strings.ToLower(name), strings.ToLower(vm))
	return ok && diskNameEnd.MatchString(end)
}

func osType(os string) *armcompute.OperatingSystemTypes {
	if strings.HasPrefix(strings.ToLower(os), "win") {
		return to.Ptr(armcompute.OperatingSystemTypesWindows)
	}
	return to.Ptr(armcompute.OperatingSystemTypesLinux)
}

func generation(f dr.Firmware) *armcompute.HyperVGeneration {
	if f == dr.UEFI {
		return to.Ptr(armcompute.HyperVGenerationV2)
	}
	return to.Ptr(armcompute.HyperVGenerationV1)
}

// dropDisk deletes a managed disk that this library made. One that isn't there
// is no error.
func (a *Azure) dropDisk(ctx context.Context, id string) error {
	at, err := parseID(id)
	if err != nil {
		return err
	}
	p, err := a.disks.BeginDelete(ctx, at.group, at.name, nil)
	if _, err = await(ctx, a, p, err); err != nil {
		if status, _ := codeOf(err); status != http.StatusNotFound {
			return explain(err)
		}
	}
	return nil
}

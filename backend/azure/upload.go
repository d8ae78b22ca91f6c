package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// maxUpload is the largest managed disk, "Scalability targets for VM disks"; a
// page blob holds a quarter of it.
const maxUpload = 32 << 40

// upload makes a managed disk that is written directly, without a page blob
// before it: of a disk that holds nothing yet, because Azure lets only new disks
// be written so. It can't be attached before finish. What was written of it
// when the process dies is given up with it.
func (a *Azure) upload(ctx context.Context, m *machine, r *record, d diskRecord, gen int) (*staged, string, error) {
	name := diskName(r.Name, d, fmt.Sprintf("%s-upload-%d", d.ID, gen))
	id := a.computeID("disks", place{r.Group, name})
	// Noted before it is made, so that what a crash leaves is found.
	if _, err := a.update(ctx, m.id, nil, func(r *record) error {
		x := r.disk(d.ID)
		if x == nil {
			return fmt.Errorf("%w: the machine's disks changed meanwhile", dr.ErrConflict)
		}
		x.Replaced = append(x.Replaced, id)
		return nil
	}); err != nil {
		return nil, "", err
	}
	disk, err := a.diskOf(m, r, d)
	if err != nil {
		return nil, "", err
	}
	disk.Properties.CreationData = &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionUpload), UploadSizeBytes: to.Ptr(vhd.Padded(d.Size) + vhd.FooterSize)}
	p, err := a.disks.BeginCreateOrUpdate(ctx, r.Group, name, *disk, nil)
	if _, err := await(ctx, a, p, err); err != nil {
		return nil, "", explain(err)
	}
	s := &staged{size: d.Size}
	s.renew = func(ctx context.Context) error { return a.grantWrite(ctx, place{r.Group, name}, s) }
	if err := s.renew(ctx); err != nil {
		return nil, "", err
	}
	return s, id, s.seal(ctx, id)
}

// grantWrite gets an address to write by. One that is about to end is revoked
// by Azure itself.
func (a *Azure) grantWrite(ctx context.Context, at place, s *staged) error {
	p, err := a.disks.BeginGrantAccess(ctx, at.group, at.name, armcompute.GrantAccessData{Access: to.Ptr(armcompute.AccessLevelWrite), DurationInSeconds: to.Ptr(int32(a.opts.Grant / time.Second))}, nil)
	r, err := await(ctx, a, p, err)
	if err != nil {
		return explain(err)
	}
	c, err := pageblob.NewClientWithNoCredential(deref(r.AccessSAS), a.dataOptions())
	if err != nil {
		return errors.New("Azure granted an address that makes no sense") // it holds a signature
	}
	s.blob = c
	return nil
}

// finish makes an uploaded disk one that can be attached: revoking is what ends
// the upload.
func (a *Azure) finish(ctx context.Context, id string) (*armcompute.Disk, error) {
	at, err := parseID(id)
	if err != nil {
		return nil, err
	}
	p, err := a.disks.BeginRevokeAccess(ctx, at.group, at.name, nil)
	if _, err := await(ctx, a, p, err); err != nil {
		return nil, explain(err)
	}
	d, err := a.disks.Get(ctx, at.group, at.name, nil)
	return &d.Disk, explain(err)
}

// abandon deletes an uploaded disk that is of no use.
func (a *Azure) abandon(ctx context.Context, id string) error {
	at, err := parseID(id)
	if err != nil {
		return err
	}
	p, err := a.disks.BeginRevokeAccess(ctx, at.group, at.name, nil)
	if _, err := await(ctx, a, p, err); err != nil && !isNotFound(err) {
		if status, _ := codeOf(err); status != http.StatusConflict && status != http.StatusBadRequest {
			return explain(err)
		}
	}
	return a.dropDisk(ctx, id)
}

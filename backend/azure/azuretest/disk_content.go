package azuretest

import (
	"context"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// contents is what disks, snapshots and the disks of restore points have: bytes
// with a footer behind them, and at most one shared access.
type contents struct {
	pages  *pages
	unique string
	access *access
}

func (d *contents) bytes() int64 { return d.pages.length() - vhd.FooterSize }

// gib rounds up.
func gib(bytes int64) int32 { return int32((bytes + 1<<30 - 1) >> 30) }

func footer(size int64) []byte {
	return vhd.Footer{Size: size, ID: uuid.New(), Time: time.Now()}.Bytes()
}

// emptyPages is a fixed VHD of zeros.
func emptyPages(size int64) *pages {
	p := newPages(size + vhd.FooterSize)
	_ = p.writeAt(footer(size), size) // it fits
	return p
}

// grow moves the footer behind the new end.
func (d *contents) grow(size int64) error {
	old := d.bytes()
	if old == size {
		return nil
	}
	if err := d.pages.resize(size + vhd.FooterSize); err != nil {
		return err
	}
	if err := d.pages.clearAt(old, vhd.FooterSize); err != nil {
		return err
	}
	return d.pages.writeAt(footer(size), size)
}

const (
	minUpload = 20_972_032
	maxUpload = 35_183_298_347_520
	maxDisk   = 32 << 40
)

// fill gives a new disk the bytes that its creation data names, and what comes
// with them.
func (c *Cloud) fill(ctx context.Context, d *disk) error {
	p := d.model.Properties
	from := p.CreationData
	asked := int64(val(p.DiskSizeGB)) << 30
	var err error
	switch *from.CreateOption {
	case armcompute.DiskCreateOptionEmpty:
		if asked <= 0 || asked > maxDisk {
			return refuse(http.StatusBadRequest, "InvalidParameter", "the value %d of parameter 'disk.diskSizeGB' is out of range", val(p.DiskSizeGB))
		}
		d.pages = emptyPages(asked)
		return nil
	case armcompute.DiskCreateOptionUpload, armcompute.DiskCreateOptionUploadPreparedSecure:
		n := val(from.UploadSizeBytes)
		if n < minUpload || n > maxUpload || (n-vhd.FooterSize)%vhd.Unit != 0 {
			return refuse(http.StatusBadRequest, "InvalidParameter", "the value %d of parameter 'disk.creationData.uploadSizeBytes' is not that of a fixed VHD", n)
		}
		if p.DiskSizeGB != nil {
			return refuse(http.StatusBadRequest, "InvalidParameter", "diskSizeGB is not allowed with create option Upload")
		}
		d.pages, d.upload = newPages(n), readyToUpload
		return nil
	case armcompute.DiskCreateOptionImport:
		d.pages, err = c.imported(ctx, from)
	case armcompute.DiskCreateOptionCopy, armcompute.DiskCreateOptionRestore:
		d.pages, err = c.copied(d)
	default:
		return refuse(http.StatusBadRequest, "InvalidParameter", "create option %s is not simulated", *from.CreateOption)
	}
	switch {
	case err != nil:
		return err
	case p.DiskSizeGB == nil || *p.DiskSizeGB == gib(d.bytes()):
		return nil
	case asked < d.bytes() || asked > maxDisk:
		return refuse(http.StatusBadRequest, "InvalidParameter", "the value %d of parameter 'disk.diskSizeGB' is out of range: the source has %d bytes", *p.DiskSizeGB, d.bytes())
	}
	return d.grow(asked)
}

// imported reads a page blob. The lock is given up meanwhile.
func (c *Cloud) imported(ctx context.Context, from *armcompute.CreationData) (*pages, error) {
	url := val(from.SourceURI)
	if url == "" || val(from.StorageAccountID) == "" {
		return nil, refuse(http.StatusBadRequest, "InvalidParameter", "Import needs 'sourceUri' and 'storageAccountId'")
	}
	c.mu.Unlock()
	p, err := c.open(ctx, url)
	c.mu.Lock()
	c.touched = nil // by others
	if err != nil {
		return nil, bad("the source blob can't be imported: %v", err)
	}
	size := p.length() - vhd.FooterSize
	if size <= 0 || size%vhd.Unit != 0 {
		return nil, refuse(http.StatusBadRequest, "InvalidParameter", "The source blob has the VHD size of %d bytes, which is not a whole number of MiB.", size)
	}
	b := make([]byte, vhd.FooterSize)
	if _, err := p.readAt(b, size); err != nil {
		return nil, err
	}
	if f, err := vhd.Parse(b); err != nil || f.Size != size {
		return nil, refuse(http.StatusBadRequest, "InvalidVhd", "The specified cookie value in VHD footer indicates that the disk is corrupt or no fixed VHD of %d bytes.", size)
	}
	return p, nil
}

// open returns the bytes of a page blob as a line of their own.
func (c *Cloud) open(ctx context.Context, url string) (*pages, error) {
	if c.o.Source == nil {
		p, err := c.blobs.source(ctx, url)
		if err != nil {
			return nil, err
		}
		return p.copy(), nil
	}
	r, size, err := c.o.Source(ctx, url)
	if err != nil {
		return nil, err
	}
	if size <= 0 || size%pageSize != 0 {
		return nil, bad("%d bytes are no page blob", size)
	}
	p, b := newPages(size), make([]byte, 4<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		b = b[:min(int64(len(b)), size-off)]
		if n, err := r.ReadAt(b, off); n < len(b) {
			return nil, err
		}
		if err := p.writeSparse(b, off); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// writeSparse writes only chunks that are not all zeros, to content that is new.
func (p *pages) writeSparse(b []byte, off int64) error {
	for len(b) > 0 {
		n := min(len(b), chunkSize)
		if !zero(b[:n]) {
			if err := p.writeAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// copied is the content of another disk, a snapshot, or the disk of a restore
// point, and what is inherited from it.
func (c *Cloud) copied(d *disk) (*pages, error) {
	p := d.model.Properties
	id := val(p.CreationData.SourceResourceID)
	inherit := func(os *armcompute.OperatingSystemTypes, gen *armcompute.HyperVGeneration, sec *armcompute.DiskSecurityProfile, unique string) {
		if p.OSType == nil {
			p.OSType = os
		}
		if p.HyperVGeneration == nil {
			p.HyperVGeneration = gen
		}
		if p.SecurityProfile == nil {
			p.SecurityProfile = sec
		}
		p.CreationData.SourceUniqueID = &unique
	}
	if *p.CreationData.CreateOption == armcompute.DiskCreateOptionRestore {
		r, err := refer[*diskRestorePoint](c, id, d.id)
		if err != nil {
			return nil, err
		}
		inherit(r.os, r.generation, r.security, r.unique)
		return r.pages.copy(), nil
	}
	if s, ok := look[*diskSnapshot](c, id); ok {
		if err := c.ready(&s.entry); err != nil {
			return nil, err
		}
		inherit(s.model.Properties.OSType, s.model.Properties.HyperVGeneration, s.model.Properties.SecurityProfile, s.unique)
		return s.pages.copy(), nil
	}
	other, ok := look[*disk](c, id)
	if !ok {
		return nil, refuse(http.StatusNotFound, "ResourceNotFound", "the source '%s' was not found", id)
	}
	if err := c.ready(&other.entry); err != nil {
		return nil, err
	}
	if other.upload != noUpload {
		return nil, notAllowed("disk %s is being uploaded", other.name)
	}
	inherit(other.model.Properties.OSType, other.model.Properties.HyperVGeneration, other.model.Properties.SecurityProfile, other.unique)
	return other.pages.copy(), nil
}

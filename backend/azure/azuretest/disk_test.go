package azuretest_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

func block(b byte) []byte { return bytes.Repeat([]byte{b}, 512) }

func diskModel(option armcompute.DiskCreateOption, with func(*armcompute.DiskProperties)) armcompute.Disk {
	p := &armcompute.DiskProperties{CreationData: &armcompute.CreationData{CreateOption: &option}}
	if with != nil {
		with(p)
	}
	return armcompute.Disk{Location: loc, Properties: p}
}

// pageBlob makes a page blob of a disk's bytes with a footer.
func (w *world) pageBlob(name string, size int64, foot []byte) string {
	w.t.Helper()
	name = "disk-" + name
	_, err := w.Blobs().Container(w.t.Context(), "stage", name)
	require.NoError(w.t, err)
	url, key := w.Blobs().Account("stage")
	cred := must(blob.NewSharedKeyCredential("stage", key))(w.t)
	c := must(pageblob.NewClientWithSharedKeyCredential(url+"/"+name+"/disk.vhd", cred, nil))(w.t)
	_, err = c.Create(w.t.Context(), size, nil)
	require.NoError(w.t, err)
	put := func(b []byte, off int64) {
		_, err := c.UploadPages(w.t.Context(), streaming.NopCloser(bytes.NewReader(b)), blob.HTTPRange{Offset: off, Count: int64(len(b))}, nil)
		require.NoError(w.t, err)
	}
	put(block('x'), 0)
	if foot != nil {
		put(foot, size-512)
	}
	return c.URL()
}

func footer(size int64) []byte {
	return vhd.Footer{Size: size, ID: uuid.New(), Time: time.Now()}.Bytes()
}

func TestDisksAreRefused(t *testing.T) {
	w := newWorld(t, azuretest.Options{Limits: azuretest.Limits{Disks: 2}})
	importOf := func(url string) armcompute.Disk {
		return diskModel(armcompute.DiskCreateOptionImport, func(p *armcompute.DiskProperties) {
			p.CreationData.SourceURI, p.CreationData.StorageAccountID = &url, ptr("/subscriptions/x/storageAccounts/stage")
		})
	}
	upload := func(n int64) armcompute.Disk {
		return diskModel(armcompute.DiskCreateOptionUpload, func(p *armcompute.DiskProperties) { p.CreationData.UploadSizeBytes = &n })
	}
	good := w.pageBlob("good", 20<<20+512, footer(20<<20))
	elsewhere, zone, noAccount := emptyDisk(1), emptyDisk(1), importOf(good)
	elsewhere.Location, zone.Zones, noAccount.Properties.CreationData.StorageAccountID = ptr("northeurope"), []*string{ptr("9")}, nil
	for name, c := range map[string]struct {
		d      armcompute.Disk
		status int
		code   string
	}{
		"no create option":            {armcompute.Disk{Location: loc, Properties: &armcompute.DiskProperties{}}, 400, "InvalidParameter"},
		"another region":              {elsewhere, 400, "LocationNotAvailableForResourceType"},
		"no such zone":                {zone, 400, "InvalidAvailabilityZone"},
		"empty without a size":        {diskModel(armcompute.DiskCreateOptionEmpty, nil), 400, "InvalidParameter"},
		"copy of nothing":             {diskModel(armcompute.DiskCreateOptionCopy, func(p *armcompute.DiskProperties) { p.CreationData.SourceResourceID = ptr("/x") }), 404, "ResourceNotFound"},
		"restore of nothing":          {diskModel(armcompute.DiskCreateOptionRestore, func(p *armcompute.DiskProperties) { p.CreationData.SourceResourceID = ptr("/x") }), 400, "InvalidResourceReference"},
		"upload too small":            {upload(20 << 20), 400, "InvalidParameter"},
		"upload of no whole MiB":      {upload(20<<20 + 1024), 400, "InvalidParameter"},
		"upload too large":            {upload(35_183_298_347_520 + 1<<20), 400, "InvalidParameter"},
		"import without the account":  {noAccount, 400, "InvalidParameter"},
		"import of no blob":           {importOf(good + "x"), 400, "BadRequest"},
		"import of a snapshot":        {importOf(good + "?snapshot=2026-01-01T00:00:00.0000000Z"), 400, "BadRequest"},
		"import without a footer":     {importOf(w.pageBlob("bare", 20<<20+512, nil)), 400, "InvalidVhd"},
		"import of no whole MiB":      {importOf(w.pageBlob("odd", 20<<20+1024, footer(20<<20+512))), 400, "InvalidParameter"},
		"import of another's footer":  {importOf(w.pageBlob("other", 20<<20+512, footer(21<<20))), 400, "InvalidVhd"},
		"import into a smaller disk":  {func() armcompute.Disk { d := importOf(good); d.Properties.DiskSizeGB = ptr(int32(0)); return d }(), 400, "InvalidParameter"},
		"a create option of no disks": {diskModel("FromTheMoon", nil), 400, "InvalidParameter"},
	} {
		_, err := w.disk("d", c.d)
		t.Log(name)
		refused(t, err, c.status, c.code)
	}
	_, err := w.disks.BeginCreateOrUpdate(t.Context(), "nowhere", "d", emptyDisk(1), nil)
	refused(t, err, 404, "ResourceGroupNotFound")
	must(w.disk("one", emptyDisk(1)))(t)
	must(w.disk("two", emptyDisk(1)))(t)
	_, err = w.disk("three", emptyDisk(1))
	refused(t, err, 409, "OperationNotAllowed")
}

func TestDisksAreMadeOfBytes(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	url := w.pageBlob("stage", 20<<20+512, footer(20<<20))
	d := must(w.disk("imported", diskModel(armcompute.DiskCreateOptionImport, func(p *armcompute.DiskProperties) {
		p.CreationData.SourceURI, p.CreationData.StorageAccountID = &url, ptr("/any/stage")
		p.HyperVGeneration, p.OSType = ptr(armcompute.HyperVGenerationV2), ptr(armcompute.OperatingSystemTypesWindows)
	})))(t)
	require.EqualValues(t, 20<<20, *d.Properties.DiskSizeBytes)
	require.EqualValues(t, 1, *d.Properties.DiskSizeGB)
	require.Equal(t, armcompute.DiskStateUnattached, *d.Properties.DiskState)
	require.NotEmpty(t, *d.Properties.UniqueID)
	require.NotNil(t, d.Properties.TimeCreated)
	b := make([]byte, 512)
	require.NoError(t, w.DiskRead(*d.ID, b, 0))
	require.Equal(t, block('x'), b)
	require.Error(t, w.DiskWrite(*d.ID, b, 20<<20), "the footer is out of reach")

	// A copy inherits, and is its own from then on. It is made larger on the way.
	copyModel := diskModel(armcompute.DiskCreateOptionCopy, func(p *armcompute.DiskProperties) {
		p.CreationData.SourceResourceID, p.DiskSizeGB = d.ID, ptr(int32(2))
	})
	k := must(w.disk("copy", copyModel))(t)
	require.Equal(t, armcompute.HyperVGenerationV2, *k.Properties.HyperVGeneration)
	require.Equal(t, *d.Properties.UniqueID, *k.Properties.CreationData.SourceUniqueID)
	require.EqualValues(t, 2<<30, *k.Properties.DiskSizeBytes)
	require.NoError(t, w.DiskWrite(*k.ID, block('y'), 0))
	require.NoError(t, w.DiskRead(*d.ID, b, 0))
	require.Equal(t, block('x'), b)
	require.NoError(t, w.DiskRead(*k.ID, b, 20<<20))
	require.Equal(t, make([]byte, 512), b, "the old footer is no data of the larger disk")

	// The same again is the same; another source or a smaller size is not.
	again := must(w.disk("copy", copyModel))(t)
	require.Equal(t, *k.Properties.UniqueID, *again.Properties.UniqueID)
	_, err := w.disk("copy", emptyDisk(2))
	refused(t, err, 409, "PropertyChangeNotAllowed")
	copyModel.Properties.DiskSizeGB = ptr(int32(1))
	_, err = w.disk("copy", copyModel)
	refused(t, err, 409, "ResizeDiskError")
	p, err := w.disks.BeginUpdate(t.Context(), rg, "COPY", armcompute.DiskUpdate{Properties: &armcompute.DiskUpdateProperties{DiskSizeGB: ptr(int32(5))}}, nil)
	r, err := await(t.Context(), p, err)
	require.NoError(t, err)
	require.EqualValues(t, 5<<30, *r.Properties.DiskSizeBytes)
	require.Equal(t, "copy", *r.Name, "names keep the case they were made in")
	require.NoError(t, w.GrowDisk(*k.ID, 6<<30))
}

func TestAnUploadGoesThroughItsStates(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	d := must(w.disk("up", diskModel(armcompute.DiskCreateOptionUpload, func(p *armcompute.DiskProperties) { p.CreationData.UploadSizeBytes = ptr(int64(20<<20 + 512)) })))(t)
	state := func() armcompute.DiskState {
		return *must(w.disks.Get(t.Context(), rg, "up", nil))(t).Properties.DiskState
	}
	require.Equal(t, armcompute.DiskStateReadyToUpload, state())
	_, err := w.sas("up", armcompute.AccessLevelRead)
	refused(t, err, 409, "OperationNotAllowed")
	url := must(w.sas("up", armcompute.AccessLevelWrite))(t)
	require.Equal(t, armcompute.DiskStateActiveUpload, state())
	n := must(w.nic("n", nicModel(w.subnet("app"), "")))(t)
	_, err = w.vm("v", vmModel(*d.ID, *n.ID))
	refused(t, err, 409, "OperationNotAllowed")
	c := must(pageblob.NewClientWithNoCredential(url, nil))(t)
	for _, at := range []struct {
		b   []byte
		off int64
	}{{block('u'), 512}, {footer(20 << 20), 20 << 20}} {
		_, err = c.UploadPages(t.Context(), streaming.NopCloser(bytes.NewReader(at.b)), blob.HTTPRange{Offset: at.off, Count: 512}, nil)
		require.NoError(t, err)
	}
	require.NoError(t, w.revoke("up"))
	require.Equal(t, armcompute.DiskStateUnattached, state())
	_, err = c.UploadPages(t.Context(), streaming.NopCloser(bytes.NewReader(block('v'))), blob.HTTPRange{Count: 512}, nil)
	require.Error(t, err, "the access is revoked")
	_, err = w.sas("up", armcompute.AccessLevelWrite)
	refused(t, err, 409, "OperationNotAllowed")
	b := make([]byte, 512)
	require.NoError(t, w.DiskRead(*d.ID, b, 512))
	require.Equal(t, block('u'), b)
	must(w.vm("v", vmModel(*d.ID, *n.ID)))(t)
	del := func() error {
		p, err := w.disks.BeginDelete(t.Context(), rg, "up", nil)
		_, err = await(t.Context(), p, err)
		return err
	}
	refused(t, del(), 409, "OperationNotAllowed")
	_, err = w.sas("up", armcompute.AccessLevelRead)
	refused(t, err, 409, "OperationNotAllowed")
	require.NoError(t, w.deleteVM("v"))
	require.NoError(t, del(), "of what is not there")
}

func TestSharedAccessEndsByTheClock(t *testing.T) {
	at := &clock{now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
	w := newWorld(t, azuretest.Options{Clock: at.Now})
	must(w.disk("d", emptyDisk(1)))(t)
	url := must(w.sas("d", armcompute.AccessLevelRead))(t)
	require.Equal(t, url, must(w.sas("d", armcompute.AccessLevelRead))(t), "there is one at a time")
	c := must(pageblob.NewClientWithNoCredential(url, nil))(t)
	p := must(c.GetProperties(t.Context(), nil))(t)
	require.EqualValues(t, 1<<30+512, *p.ContentLength)
	require.Equal(t, armcompute.DiskStateActiveSAS, *must(w.disks.Get(t.Context(), rg, "d", nil))(t).Properties.DiskState)
	at.now = at.now.Add(2 * time.Hour)
	require.Equal(t, armcompute.DiskStateUnattached, *must(w.disks.Get(t.Context(), rg, "d", nil))(t).Properties.DiskState)
	_, err := c.GetProperties(t.Context(), nil)
	require.Error(t, err)
}

package azuretest

import (
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/lease"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/stretchr/testify/require"
)

const (
	leaseA = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
	leaseB = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb"
)

func leaseOf(t *testing.T, c interface{ URL() string }, id string) *lease.BlobClient {
	t.Helper()
	p, ok := c.(*pageblob.Client)
	require.True(t, ok)
	l, err := lease.NewBlobClient(p, &lease.BlobClientOptions{LeaseID: &id})
	require.NoError(t, err)
	return l
}

func holding(id string) *blob.AccessConditions {
	return &blob.AccessConditions{LeaseAccessConditions: &blob.LeaseAccessConditions{LeaseID: &id}}
}

// writesAs tries every kind of write, and tells that all end alike.
func writesAs(t *testing.T, p *pageblob.Client, access *blob.AccessConditions) error {
	t.Helper()
	_, err := p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, &pageblob.UploadPagesOptions{AccessConditions: access})
	alike := func(other error) {
		t.Helper()
		if err == nil {
			require.NoError(t, other)
		} else {
			require.Error(t, other)
		}
	}
	_, other := p.ClearPages(t.Context(), blob.HTTPRange{Count: 512}, &pageblob.ClearPagesOptions{AccessConditions: access})
	alike(other)
	_, other = p.SetMetadata(t.Context(), nil, &blob.SetMetadataOptions{AccessConditions: access})
	alike(other)
	_, other = p.Resize(t.Context(), mib, &pageblob.ResizeOptions{AccessConditions: access})
	alike(other)
	_, other = p.SetHTTPHeaders(t.Context(), blob.HTTPHeaders{}, &blob.SetHTTPHeadersOptions{AccessConditions: access})
	alike(other)
	if access == nil {
		_, other = p.Delete(t.Context(), nil)
		alike(other)
		_, other = p.Create(t.Context(), mib, nil)
		alike(other)
	}
	return err
}

var leaseFacts = []blobFact{
	{"a lease keeps others from writing", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		l := leaseOf(t, p, leaseA)
		r, err := l.AcquireLease(t.Context(), -1, nil)
		require.NoError(t, err)
		require.Equal(t, leaseA, *r.LeaseID)
		refused(t, writesAs(t, p, nil), 412, "LeaseIdMissing")
		refused(t, writesAs(t, p, holding(leaseB)), 412, "LeaseIdMismatchWithBlobOperation")
		require.NoError(t, writesAs(t, p, holding(leaseA)))
		get(t, p, 0, 512)
		_, err = p.GetProperties(t.Context(), &blob.GetPropertiesOptions{AccessConditions: holding(leaseB)})
		refused(t, err, 412, "LeaseIdMismatchWithBlobOperation")
		props, err := p.GetProperties(t.Context(), &blob.GetPropertiesOptions{AccessConditions: holding(leaseA)})
		require.NoError(t, err)
		require.Equal(t, "leased locked infinite", string(*props.LeaseState)+" "+string(*props.LeaseStatus)+" "+string(*props.LeaseDuration))
		snapshot(t, p, nil)
		_, err = l.ReleaseLease(t.Context(), nil)
		require.NoError(t, err)
		props, err = p.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "available unlocked", string(*props.LeaseState)+" "+string(*props.LeaseStatus))
		_, err = p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, &pageblob.UploadPagesOptions{AccessConditions: holding(leaseA)})
		refused(t, err, 412, "LeaseNotPresentWithBlobOperation")
	}},
	{"a lease is one's own", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		a, b := leaseOf(t, p, leaseA), leaseOf(t, p, leaseB)
		_, err := b.RenewLease(t.Context(), nil)
		refused(t, err, 409, "LeaseIdMismatchWithLeaseOperation")
		_, err = b.BreakLease(t.Context(), nil)
		refused(t, err, 409, "LeaseNotPresentWithLeaseOperation")
		_, err = a.AcquireLease(t.Context(), 15, nil)
		require.NoError(t, err)
		_, err = a.AcquireLease(t.Context(), 60, nil)
		require.NoError(t, err, "again")
		_, err = b.AcquireLease(t.Context(), 15, nil)
		refused(t, err, 409, "LeaseAlreadyPresent")
		_, err = b.RenewLease(t.Context(), nil)
		refused(t, err, 409, "LeaseIdMismatchWithLeaseOperation")
		_, err = b.ReleaseLease(t.Context(), nil)
		refused(t, err, 409, "LeaseIdMismatchWithLeaseOperation")
		_, err = a.RenewLease(t.Context(), nil)
		require.NoError(t, err)
		_, err = a.ChangeLease(t.Context(), leaseB, nil)
		require.NoError(t, err)
		_, err = b.RenewLease(t.Context(), nil)
		require.NoError(t, err)
		refused(t, writesAs(t, p, holding(leaseA)), 412, "LeaseIdMismatchWithBlobOperation")
		_, err = b.ReleaseLease(t.Context(), nil)
		require.NoError(t, err)
	}},
	{"a lease lasts 15 to 60 s, or for ever", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		l := leaseOf(t, pageBlob(t, c, "disk", mib), leaseA)
		for _, s := range []int32{0, 14, 61, -2} {
			_, err := l.AcquireLease(t.Context(), s, nil)
			refused(t, err, 400, "InvalidHeaderValue")
		}
	}},
	{"a lease that is broken is over at once, or after a while", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		a, b := leaseOf(t, p, leaseA), leaseOf(t, p, leaseB)
		_, err := a.AcquireLease(t.Context(), -1, nil)
		require.NoError(t, err)
		r, err := b.BreakLease(t.Context(), &lease.BlobBreakOptions{BreakPeriod: ptr(int32(60))})
		require.NoError(t, err)
		require.InDelta(t, 60, *r.LeaseTime, 1)
		_, err = b.AcquireLease(t.Context(), 15, nil)
		refused(t, err, 409, "LeaseAlreadyPresent")
		_, err = a.AcquireLease(t.Context(), 15, nil)
		refused(t, err, 409, "LeaseIsBreakingAndCannotBeAcquired")
		_, err = a.RenewLease(t.Context(), nil)
		refused(t, err, 409, "LeaseIsBrokenAndCannotBeRenewed")
		require.NoError(t, writesAs(t, p, holding(leaseA)))
		r, err = b.BreakLease(t.Context(), &lease.BlobBreakOptions{BreakPeriod: ptr(int32(0))})
		require.NoError(t, err)
		require.Zero(t, *r.LeaseTime)
		props, err := p.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, lease.StateTypeBroken, *props.LeaseState)
		_, err = b.AcquireLease(t.Context(), 15, nil)
		require.NoError(t, err)
	}},
	{"a container that is leased isn't deleted, but written", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		l, err := lease.NewContainerClient(c, &lease.ContainerClientOptions{LeaseID: ptr(leaseA)})
		require.NoError(t, err)
		_, err = l.AcquireLease(t.Context(), 15, nil)
		require.NoError(t, err)
		put(t, c.NewBlockBlobClient("b"), "text")
		_, err = c.SetMetadata(t.Context(), nil)
		require.NoError(t, err)
		_, err = c.Delete(t.Context(), nil)
		refused(t, err, 412, "LeaseIdMissing")
		with := func(id string) *container.DeleteOptions {
			return &container.DeleteOptions{AccessConditions: &container.AccessConditions{LeaseAccessConditions: &container.LeaseAccessConditions{LeaseID: &id}}}
		}
		_, err = c.Delete(t.Context(), with(leaseB))
		refused(t, err, 412, "LeaseIdMismatchWithContainerOperation")
		_, err = c.Delete(t.Context(), with(leaseA))
		require.NoError(t, err)
	}},
}

func TestLeasesExpireByTheClock(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := ours(t, BlobOptions{Clock: func() time.Time { return now }})
	p := pageBlob(t, e.container(t), "disk", mib)
	a, b := leaseOf(t, p, leaseA), leaseOf(t, p, leaseB)
	state := func(want string) {
		t.Helper()
		r, err := p.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.EqualValues(t, want, *r.LeaseState)
	}
	acquire := func(l *lease.BlobClient) {
		t.Helper()
		_, err := l.AcquireLease(t.Context(), 30, nil)
		require.NoError(t, err)
	}
	acquire(a)
	now = now.Add(29 * time.Second)
	state("leased")
	_, err := a.RenewLease(t.Context(), nil)
	require.NoError(t, err)
	now = now.Add(29 * time.Second)
	state("leased")
	now = now.Add(time.Second)
	state("expired")
	_, err = p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, &pageblob.UploadPagesOptions{AccessConditions: holding(leaseA)})
	refused(t, err, 412, "LeaseLost")
	_, err = a.RenewLease(t.Context(), nil)
	require.NoError(t, err, "nobody came between")
	now = now.Add(time.Minute)
	upload(t, p, fill(1, 512), 0)
	state("available")
	_, err = a.RenewLease(t.Context(), nil)
	refused(t, err, 409, "LeaseIdMismatchWithLeaseOperation")

	acquire(a)
	now = now.Add(10 * time.Second)
	r, err := b.BreakLease(t.Context(), nil)
	require.NoError(t, err)
	require.EqualValues(t, 20, *r.LeaseTime)
	state("breaking")
	r, err = b.BreakLease(t.Context(), &lease.BlobBreakOptions{BreakPeriod: ptr(int32(60))})
	require.NoError(t, err)
	require.EqualValues(t, 20, *r.LeaseTime, "never later")
	now = now.Add(20 * time.Second)
	state("broken")
	acquire(b)
	refused(t, writesAs(t, p, holding(leaseA)), 412, "LeaseIdMismatchWithBlobOperation")
	require.NoError(t, writesAs(t, p, holding(leaseB)))
}

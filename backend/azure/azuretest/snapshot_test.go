package azuretest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

func (w *world) snapshotSAS(name string) (string, error) {
	p, err := w.snapshots.BeginGrantAccess(w.t.Context(), rg, name, armcompute.GrantAccessData{Access: ptr(armcompute.AccessLevelRead), DurationInSeconds: ptr(int32(600))}, nil)
	r, err := await(w.t.Context(), p, err)
	if err != nil {
		return "", err
	}
	return *r.AccessSAS, nil
}

// difference lists what changed and what was cleared, as "offset+length".
func difference(t *testing.T, now, before string) (changed, cleared []string) {
	c := must(pageblob.NewClientWithNoCredential(now, nil))(t)
	pager := c.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshotURL: &before})
	for pager.More() {
		page := must(pager.NextPage(t.Context()))(t)
		for _, r := range page.PageRange {
			changed = append(changed, fmt.Sprintf("%d+%d", *r.Start, *r.End-*r.Start+1))
		}
		for _, r := range page.ClearRange {
			cleared = append(cleared, fmt.Sprintf("%d+%d", *r.Start, *r.End-*r.Start+1))
		}
	}
	return changed, cleared
}

func TestSnapshotsOfARunningMachineDiffer(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	require.NoError(t, w.AddVM(rg, "web", azuretest.VM{Subnet: "net/app", Data: map[int]int64{0: 8 << 20}}))
	ids := must(w.Disks(rg, "web"))(t)
	require.NoError(t, w.Write(rg, "web", 0, block(1), 0))
	one := must(w.snapshot("one", ids[1]))(t)
	require.NoError(t, w.Write(rg, "web", 0, block(2), 4096))
	two := must(w.snapshot("two", ids[1]))(t)
	other := must(w.snapshot("other", ids[0]))(t)
	require.Equal(t, *one.Properties.IncrementalSnapshotFamilyID, *two.Properties.IncrementalSnapshotFamilyID)
	require.NotEqual(t, *one.Properties.IncrementalSnapshotFamilyID, *other.Properties.IncrementalSnapshotFamilyID)
	require.EqualValues(t, 100, *two.Properties.CompletionPercent)
	require.Equal(t, *must(w.disks.Get(t.Context(), rg, "web-data0", nil))(t).Properties.UniqueID, *two.Properties.CreationData.SourceUniqueID)

	a, b := must(w.snapshotSAS("one"))(t), must(w.snapshotSAS("two"))(t)
	changed, cleared := difference(t, b, a)
	require.Equal(t, []string{"4096+512"}, changed)
	require.Empty(t, cleared)

	d := must(w.copied("restored", *one.ID))(t)
	buf := make([]byte, 512)
	require.NoError(t, w.DiskRead(*d.ID, buf, 4096))
	require.Equal(t, make([]byte, 512), buf, "the first snapshot does not know what came later")
	require.NoError(t, w.DiskRead(*d.ID, buf, 0))
	require.Equal(t, block(1), buf)

	p, err := w.snapshots.BeginDelete(t.Context(), rg, "one", nil)
	_, err = await(t.Context(), p, err)
	refused(t, err, 409, "OperationNotAllowed")
	r, err := w.snapshots.BeginRevokeAccess(t.Context(), rg, "one", nil)
	_, err = await(t.Context(), r, err)
	require.NoError(t, err)
	p, err = w.snapshots.BeginDelete(t.Context(), rg, "one", nil)
	_, err = await(t.Context(), p, err)
	require.NoError(t, err)
}

func TestSnapshotsHaveLimits(t *testing.T) {
	at := &clock{now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
	w := newWorld(t, azuretest.Options{Clock: at.Now, Limits: azuretest.Limits{SnapshotBurst: 7, SnapshotsADisk: 9}})
	d := must(w.disk("d", emptyDisk(1)))(t)
	for i := range 7 {
		must(w.snapshot(fmt.Sprint("s", i), *d.ID))(t)
	}
	ctx := t.Context()
	o := w.ClientOptions()
	o.Retry.MaxRetries = -1
	eager := must(armcompute.NewSnapshotsClient(w.Subscription(), w.Credential(), o))(t)
	_, err := eager.BeginCreateOrUpdate(ctx, rg, "s7", armcompute.Snapshot{Location: loc, Properties: &armcompute.SnapshotProperties{
		CreationData: &armcompute.CreationData{CreateOption: ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: d.ID}}}, nil)
	refused(t, err, 429, "TooManyRequests")
	at.now = at.now.Add(6 * time.Minute)
	must(w.snapshot("s7", *d.ID))(t)
	must(w.snapshot("s8", *d.ID))(t)
	_, err = w.snapshot("s9", *d.ID)
	refused(t, err, 409, "OperationNotAllowed")
	for i := range 5 {
		must(w.snapshotSAS(fmt.Sprint("s", i)))(t)
	}
	_, err = w.snapshotSAS("s5")
	refused(t, err, 409, "OperationNotAllowed")
	must(w.snapshotSAS("s4"))(t)
}

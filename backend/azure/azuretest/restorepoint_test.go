package azuretest_test

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

type restorePoints struct {
	*world
	points *armcompute.RestorePointsClient
	sets   *armcompute.RestorePointCollectionsClient
}

func newRestorePoints(t *testing.T, o azuretest.Options, vm azuretest.VM) restorePoints {
	w := newWorld(t, o)
	r := restorePoints{w, w.compute.NewRestorePointsClient(), w.compute.NewRestorePointCollectionsClient()}
	vm.Subnet = "net/app"
	require.NoError(t, w.AddVM(rg, "web", vm))
	v := must(w.vms.Get(t.Context(), rg, "web", nil))(t)
	must(r.sets.CreateOrUpdate(t.Context(), rg, "set", armcompute.RestorePointCollection{Location: loc, Properties: &armcompute.RestorePointCollectionProperties{
		Source: &armcompute.RestorePointCollectionSourceProperties{ID: v.ID},
	}}, nil))(t)
	return r
}

func (r restorePoints) make(name string, crash bool, exclude ...string) (armcompute.RestorePoint, error) {
	m := armcompute.RestorePoint{Properties: &armcompute.RestorePointProperties{}}
	if crash {
		m.Properties.ConsistencyMode = ptr(armcompute.ConsistencyModeTypesCrashConsistent)
	}
	for _, x := range exclude {
		m.Properties.ExcludeDisks = append(m.Properties.ExcludeDisks, &armcompute.APIEntityReference{ID: &x})
	}
	p, err := r.points.BeginCreate(r.t.Context(), rg, "set", name, m, nil)
	a, err := await(r.t.Context(), p, err)
	return a.RestorePoint, err
}

// A guest that writes the same number to both disks, the OS disk first, is
// never seen with the data disk ahead, nor more than one behind.
func TestARestorePointIsOneInstant(t *testing.T) {
	r := newRestorePoints(t, azuretest.Options{Limits: azuretest.Limits{CrashInterval: -1}}, azuretest.VM{Data: map[int]int64{3: 8 << 20}})
	stop := make(chan struct{})
	var guest sync.WaitGroup
	guest.Go(func() {
		b := make([]byte, 512)
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			binary.LittleEndian.PutUint64(b, n)
			if r.Write(rg, "web", -1, b, 0) != nil || r.Write(rg, "web", 3, b, 0) != nil {
				return
			}
		}
	})
	defer guest.Wait()
	defer close(stop)
	for i := range 10 {
		p := must(r.make("p"+string(rune('a'+i)), true))(t)
		profile := p.Properties.SourceMetadata.StorageProfile
		read := func(from *armcompute.DiskRestorePointAttributes, name string) uint64 {
			d := must(r.disk(name, diskModel(armcompute.DiskCreateOptionRestore, func(p *armcompute.DiskProperties) { p.CreationData.SourceResourceID = from.ID })))(t)
			b := make([]byte, 512)
			require.NoError(t, r.DiskRead(*d.ID, b, 0))
			return binary.LittleEndian.Uint64(b)
		}
		os, data := read(profile.OSDisk.DiskRestorePoint, *p.Name+"-os"), read(profile.DataDisks[0].DiskRestorePoint, *p.Name+"-data")
		require.GreaterOrEqual(t, os, data)
		require.LessOrEqual(t, os-data, uint64(1))
	}
}

func TestRestorePointsKeepTheirDistance(t *testing.T) {
	at := &clock{now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
	r := newRestorePoints(t, azuretest.Options{Clock: at.Now}, azuretest.VM{OS: "Windows", Data: map[int]int64{0: 8 << 20}})
	p := must(r.make("a", false))(t)
	require.Equal(t, armcompute.ConsistencyModeTypesApplicationConsistent, *p.Properties.ConsistencyMode)
	_, err := r.make("b", false)
	refused(t, err, 409, "OperationNotAllowed")
	c := must(r.make("c", true))(t)
	require.Equal(t, armcompute.ConsistencyModeTypesCrashConsistent, *c.Properties.ConsistencyMode)
	at.now = at.now.Add(59 * time.Minute)
	_, err = r.make("d", true)
	refused(t, err, 409, "OperationNotAllowed")
	at.now = at.now.Add(2 * time.Minute)
	ids := must(r.Disks(rg, "web"))(t)
	d := must(r.make("d", true, ids[1]))(t)
	require.NotNil(t, d.Properties.SourceMetadata.StorageProfile.OSDisk.DiskRestorePoint)
	require.Nil(t, d.Properties.SourceMetadata.StorageProfile.DataDisks[0].DiskRestorePoint, "it was excluded")
	at.now = at.now.Add(2 * time.Hour)
	require.NoError(t, r.Hang(rg, "web", true))
	_, err = r.make("e", false)
	refused(t, err, 200, "VMAgentStatusCommunicationError")
	_, err = r.points.Get(t.Context(), rg, "set", "e", nil)
	refused(t, err, 404, "ResourceNotFound")

	all := must(r.sets.Get(t.Context(), rg, "set", &armcompute.RestorePointCollectionsClientGetOptions{Expand: ptr(armcompute.RestorePointCollectionExpandOptionsRestorePoints)}))(t)
	require.Len(t, all.Properties.RestorePoints, 3)
	_, err = r.points.BeginCreate(t.Context(), rg, "none", "x", armcompute.RestorePoint{}, nil)
	refused(t, err, 404, "ParentResourceNotFound")
}

func TestDisksOfRestorePointsAreReadAndCompared(t *testing.T) {
	r := newRestorePoints(t, azuretest.Options{Limits: azuretest.Limits{CrashInterval: -1}}, azuretest.VM{})
	client := r.compute.NewDiskRestorePointClient()
	sas := func(point string) string {
		page := must(client.NewListByRestorePointPager(rg, "set", point, nil).NextPage(t.Context()))(t)
		require.Len(t, page.Value, 1)
		p, err := client.BeginGrantAccess(t.Context(), rg, "set", point, *page.Value[0].Name, armcompute.GrantAccessData{Access: ptr(armcompute.AccessLevelRead), DurationInSeconds: ptr(int32(60))}, nil)
		return *must(await(t.Context(), p, err))(t).AccessSAS
	}
	must(r.make("a", true))(t)
	require.NoError(t, r.Write(rg, "web", -1, block(7), 1024))
	must(r.make("b", true))(t)
	changed, _ := difference(t, sas("b"), sas("a"))
	require.Equal(t, []string{"1024+512"}, changed)

	del := func() error {
		p, err := r.sets.BeginDelete(t.Context(), rg, "set", nil)
		_, err = await(t.Context(), p, err)
		return err
	}
	refused(t, del(), 409, "OperationNotAllowed")
	for _, point := range []string{"a", "b"} {
		page := must(client.NewListByRestorePointPager(rg, "set", point, nil).NextPage(t.Context()))(t)
		p, err := client.BeginRevokeAccess(t.Context(), rg, "set", point, *page.Value[0].Name, nil)
		must(await(t.Context(), p, err))(t)
	}
	require.NoError(t, del())
	for _, id := range r.Resources() {
		require.NotContains(t, id, "restorepoint")
	}
}

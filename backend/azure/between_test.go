package azure_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// original is a machine of a customer, off, with the errand's content.
func original(t *testing.T) *errand {
	t.Helper()
	e := newErrand(t, t.Name())
	e.customer()
	return e
}

func (e *errand) customer() {
	e.t.Helper()
	var err error
	e.id, err = e.r.add(e.disks)
	require.NoError(e.t, err)
	require.NoError(e.t, e.r.power(e.id, dr.On))
	for _, d := range e.disks {
		require.NoError(e.t, e.r.write(e.id, d.ID, e.want[d.ID], 0))
	}
	require.NoError(e.t, e.r.power(e.id, dr.Off))
}

// pollTo ends a long operation.
func pollTo[T any](t *testing.T, p interface {
	Done() bool
	Poll(context.Context) (*http.Response, error)
	Result(context.Context) (T, error)
}, err error) T {
	t.Helper()
	require.NoError(t, err)
	for !p.Done() {
		_, err := p.Poll(t.Context())
		require.NoError(t, err)
	}
	v, err := p.Result(t.Context())
	require.NoError(t, err)
	return v
}

// Azure had no room: the machine is there, and never ran. Prepared with another
// size it starts.
func TestStartWithAnotherSizeWhereThereWasNoRoom(t *testing.T) {
	e := newErrand(t, t.Name())
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	e.r.cloud.FailLRO(func(c azuretest.Call) string {
		if c.Method == http.MethodPut && strings.Contains(c.Path, "/virtualMachines/") {
			return "AllocationFailed"
		}
		return ""
	})
	err := e.a.Start(t.Context(), e.id)
	require.ErrorIs(t, err, azure.ErrRefused)
	var typed *dr.Error
	require.ErrorAs(t, err, &typed)
	require.Contains(t, typed.Remedy, "size")
	require.Error(t, e.a.Start(t.Context(), e.id)) // there is no room yet
	e.r.cloud.FailLRO(nil)

	m, err := e.a.Machine(t.Context(), e.id)
	require.NoError(t, err)
	require.Equal(t, dr.Off, m.Power)
	p := e.placement()
	p.Options = []byte(`{"size": "Standard_D4s_v5"}`)
	_, err = e.a.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, e.a.Start(t.Context(), e.id))
	e.single()
	e.same()
	m, err = e.a.Machine(t.Context(), e.id)
	require.NoError(t, err)
	require.Equal(t, dr.On, m.Power)
	require.Equal(t, 4, m.CPUs)
	require.NoError(t, e.a.Stop(t.Context(), e.id))
	require.NoError(t, e.a.Start(t.Context(), e.id))
	require.NoError(t, e.a.Remove(t.Context(), e.id))
}

// Disks can't be moved to another zone once they are managed ones.
func TestAnotherZoneIsRefusedOnceThereAreDisks(t *testing.T) {
	e := newErrand(t, t.Name())
	p := e.placement()
	p.Options = []byte(`{"zone": "1"}`)
	_, err := e.a.Prepare(t.Context(), p)
	require.NoError(t, err)
	p.Options = []byte(`{"zone": "2"}`) // nothing is anywhere yet
	r, err := e.a.Prepare(t.Context(), p)
	require.NoError(t, err)
	e.id = r.ID
	e.step("fill", e.fill("p1", nil))
	require.NoError(t, e.a.Start(t.Context(), e.id))
	require.NoError(t, e.a.Stop(t.Context(), e.id))
	p.Options = []byte(`{"zone": "1"}`)
	_, err = e.a.Prepare(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// A machine that somebody else has made under the name meanwhile stays as it is.
func TestForeignMachineOfTheNameIsLeftAlone(t *testing.T) {
	e := newErrand(t, t.Name())
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	require.NoError(t, e.r.cloud.AddVM(group, "web", azuretest.VM{Off: true, Subnet: "prod/default", Generation: "V1"}))
	before, err := e.r.cloud.Disks(group, "web")
	require.NoError(t, err)
	require.ErrorIs(t, e.a.Start(t.Context(), e.id), dr.ErrExists)
	after, err := e.r.cloud.Disks(group, "web")
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, e.a.Remove(t.Context(), e.id))
	after, err = e.r.cloud.Disks(group, "web")
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// A copy that this process does, as the storage service can't, and that is cut
// off, counts for nothing when the service can the next time.
func TestHalfACopyIsNoCopy(t *testing.T) {
	e := original(t)
	d, err := e.a.Draft(t.Context(), e.id, dr.Point{ID: "p1"})
	require.NoError(t, err)
	defer d.Close()
	pages := 0
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Service != azuretest.ServiceBlob || c.Method != http.MethodPut || !strings.Contains(c.Path, "/disks/") {
			return nil
		}
		switch {
		case c.Query == "":
			if pages == 0 {
				pages = 1
				return &azuretest.Fault{Status: http.StatusNotImplemented, Code: "NotImplemented"}
			}
		case strings.Contains(c.Query, "comp=page"):
			if pages++; pages > 2 {
				return &azuretest.Fault{Lost: true}
			}
		}
		return nil
	})
	_, err = d.WriteAt(t.Context(), "os", []byte{1}, 0)
	require.Error(t, err)
	e.r.cloud.OnCall(nil)
	_, err = d.WriteAt(t.Context(), "os", []byte{1}, 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p1"}))
	e.same()
}

// What a person lets a machine write between a commit and the next start is told
// as changed.
func TestChangesWrittenBehindOurBackAreTold(t *testing.T) {
	e := original(t)
	d, err := e.a.Draft(t.Context(), e.id, dr.Point{ID: "p1"})
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p1"})) // nothing differed
	known := e.known()
	require.NoError(t, e.r.power(e.id, dr.On))
	e.scribble(20)
	require.NoError(t, e.r.power(e.id, dr.Off))
	p1 := dr.Point{ID: "p1"}
	require.NoError(t, e.capture("c1", dr.CrashConsistent, &p1, known, nil)(t.Context()))
}

// Two processes capture one machine under one name: whoever wins, the others
// find it or fail, and nothing of theirs is left.
func TestCaptureByTwoProcesses(t *testing.T) {
	e := started(t)
	first := e.a
	e.begin()
	second := e.a
	var wg sync.WaitGroup
	for _, a := range []*azure.Azure{first, second, first, second} {
		wg.Go(func() {
			img, err := a.Capture(context.Background(), e.id, "c1", dr.CrashConsistent)
			if err == nil {
				_, err = img.ReadAt(context.Background(), "os", make([]byte, 4096), 0)
				_ = img.Close()
			}
			_ = err
		})
	}
	wg.Wait()
	require.NoError(t, e.capture("c1", dr.CrashConsistent, nil, nil, nil)(t.Context()))
	require.NoError(t, e.a.Release(t.Context(), e.id, "c1"))
	bases, err := e.a.Bases(t.Context())
	require.NoError(t, err)
	for _, id := range e.r.cloud.Resources() {
		if i := strings.LastIndex(id, "/snapshots/"); i >= 0 {
			require.Contains(t, bases, id[i+len("/snapshots/"):])
		}
	}
}

// What its owner has set of a disk stays when the disk is exchanged.
func TestExchangedDisksKeepTheirSettings(t *testing.T) {
	e := original(t)
	vms := e.compute().NewVirtualMachinesClient()
	vm, err := vms.Get(t.Context(), sources, "vm1", nil)
	require.NoError(t, err)
	data := *vm.Properties.StorageProfile.DataDisks[0]
	data.Caching, data.DeleteOption = to.Ptr(armcompute.CachingTypesReadOnly), to.Ptr(armcompute.DiskDeleteOptionTypesDetach)
	p, err := vms.BeginUpdate(t.Context(), sources, "vm1", armcompute.VirtualMachineUpdate{Properties: &armcompute.VirtualMachineProperties{
		StorageProfile: &armcompute.StorageProfile{DataDisks: []*armcompute.DataDisk{&data}}}}, nil)
	pollTo(t, p, err)
	copy(e.want["data"], "changed")
	e.step("fill", e.fill("p1", map[dr.DiskID][]dr.Extent{"data": {{Len: 7}}}))
	require.NoError(t, e.a.Start(t.Context(), e.id))
	e.same()
	vm, err = vms.Get(t.Context(), sources, "vm1", nil)
	require.NoError(t, err)
	now := vm.Properties.StorageProfile.DataDisks[0]
	require.NotEqual(t, *data.ManagedDisk.ID, *now.ManagedDisk.ID)
	require.Equal(t, armcompute.CachingTypesReadOnly, *now.Caching)
	require.Equal(t, armcompute.DiskDeleteOptionTypesDetach, *now.DeleteOption)
}

// A disk that its owner has detached is not attached again.
func TestDetachedDiskStaysDetached(t *testing.T) {
	e := original(t)
	require.NoError(t, e.capture("c1", dr.CrashConsistent, nil, nil, nil)(t.Context())) // now there is a record
	vms := e.compute().NewVirtualMachinesClient()
	p, err := vms.BeginUpdate(t.Context(), sources, "vm1", armcompute.VirtualMachineUpdate{Properties: &armcompute.VirtualMachineProperties{
		StorageProfile: &armcompute.StorageProfile{DataDisks: []*armcompute.DataDisk{}}}}, nil)
	pollTo(t, p, err)
	m, err := e.a.Machine(t.Context(), e.id)
	require.NoError(t, err)
	require.Len(t, m.Disks, 1)
	require.NoError(t, e.a.Start(t.Context(), e.id))
	ids, err := e.r.cloud.Disks(sources, "vm1")
	require.NoError(t, err)
	require.Len(t, ids, 1)
}

// A replica whose blob, or whose managed disk, somebody has deleted is filled
// anew.
func TestDeletedContentIsFilledAnew(t *testing.T) {
	e := newErrand(t, t.Name())
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	at, err := e.r.disk(e.id, "data")
	require.NoError(t, err)
	_, err = e.r.container.NewBlobClient(at.Blob).Delete(t.Context(), nil)
	require.NoError(t, err)
	e.step("prepare again", e.prepare(""))
	e.step("fill again", e.fill("p1", nil))
	e.step("prepare then", e.prepare("p1"))
	e.same()

	// Captured, it has managed disks, but no machine.
	require.NoError(t, e.capture("c1", dr.CrashConsistent, nil, nil, nil)(t.Context()))
	at, err = e.r.disk(e.id, "data")
	require.NoError(t, err)
	name := at.Disk[strings.LastIndexByte(at.Disk, '/')+1:]
	p, err := e.compute().NewDisksClient().BeginDelete(t.Context(), group, name, nil)
	pollTo(t, p, err)
	e.step("prepare once more", e.prepare(""))
	e.step("fill once more", e.fill("p2", nil))
	e.step("prepare at last", e.prepare("p2"))
	e.same()
	require.NoError(t, e.a.Start(t.Context(), e.id))
	e.same()
	require.NoError(t, e.a.Remove(t.Context(), e.id))
}

// Nothing keeps a failback from its end: the machine runs, though a lock keeps
// what it had before from being deleted.
func TestLockedDisksAreKept(t *testing.T) {
	e := original(t)
	for _, p := range []dr.PointID{"p1", "p2"} {
		copy(e.want["data"], bytes.Repeat([]byte(p), 512))
		e.step("fill", e.fill(p, map[dr.DiskID][]dr.Extent{"data": {{Len: 1024}}}))
		if p == "p2" {
			e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
				if c.Method == http.MethodDelete && strings.Contains(c.Path, "/disks/") && c.Service == azuretest.ServiceARM {
					return &azuretest.Fault{Status: http.StatusConflict, Code: "ScopeLocked"}
				}
				return nil
			})
		}
		require.NoError(t, e.a.Start(t.Context(), e.id))
		require.NoError(t, e.a.Stop(t.Context(), e.id))
	}
	require.Contains(t, e.logs.String(), "ScopeLocked")
	e.r.cloud.OnCall(nil)
	require.NoError(t, e.a.Start(t.Context(), e.id))
	e.single()
	e.same()
}

// A write that has failed reads its caller's buffer no more, though the HTTP
// client may still be at sending it. The race detector tells.
func TestWriteLetsGoOfItsBuffer(t *testing.T) {
	e := newErrand(t, t.Name())
	e.disks = []dr.Disk{{ID: "os", Size: 8 << 20, Boot: true}}
	e.like.Disks = e.disks
	e.step("prepare", e.prepare(""))
	d, err := e.a.Draft(t.Context(), e.id, dr.Point{ID: "p1", Machine: e.like})
	require.NoError(t, err)
	defer d.Close()
	_, err = d.WriteAt(t.Context(), "os", []byte{1}, 0)
	require.NoError(t, err)
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if strings.Contains(c.Query, "comp=page") {
			return &azuretest.Fault{Status: http.StatusServiceUnavailable, Code: "ServerBusy"}
		}
		return nil
	})
	p := bytes.Repeat([]byte{1}, 4<<20)
	for i := range 10 {
		_, err = d.WriteAt(t.Context(), "os", p, 0)
		require.Error(t, err)
		for j := range p {
			p[j] = byte(i + 2)
		}
	}
}

// Machines that are written and started again and again, as those of drills are,
// gather no snapshots.
func TestBasesOfEarlierDraftsGo(t *testing.T) {
	e := newErrand(t, t.Name())
	e.step("prepare", e.prepare(""))
	for _, p := range []dr.PointID{"p1", "p2", "p3", "p4"} {
		e.step("fill", e.fill(p, nil))
		e.step("start", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
		e.step("stop", func(ctx context.Context) error { return e.a.Stop(ctx, e.id) })
		n := 0
		for _, id := range e.r.cloud.Resources() {
			if strings.Contains(id, "/snapshots/") {
				n++
			}
		}
		require.Equal(t, len(e.disks), n, "the bases of %s", p)
	}
}

// Sweeping takes nothing from a process that is at work on the machine.
func TestSweepSparesWhatIsAtWork(t *testing.T) {
	e := started(t)
	worker := e.a
	e.begin()
	all := func(dr.PointID) bool { return true }
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = e.a.Sweep(context.Background(), e.id, all)
			}
		}
	})
	for _, p := range []dr.PointID{"c1", "c2", "c3"} {
		want := dr.CrashConsistent
		if p == "c2" {
			want = dr.ApplicationConsistent
		}
		img, err := worker.Capture(t.Context(), e.id, p, want)
		require.NoError(t, err)
		b := make([]byte, e.disks[0].Size)
		_, err = img.ReadAt(t.Context(), "os", b, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(e.want["os"], b))
		require.NoError(t, img.Close())
		require.NoError(t, worker.Release(t.Context(), e.id, p))
	}
	require.NoError(t, worker.Stop(t.Context(), e.id))
	for _, p := range []dr.PointID{"p2", "p3"} {
		d, err := worker.Draft(t.Context(), e.id, dr.Point{ID: p, Machine: e.like})
		require.NoError(t, err)
		copy(e.want["os"], p)
		for range 4 {
			_, err = d.WriteAt(t.Context(), "os", e.want["os"], 0)
			require.NoError(t, err)
		}
		require.NoError(t, d.Commit(t.Context(), dr.Point{ID: p, Machine: e.like}))
		require.NoError(t, d.Close())
		require.NoError(t, worker.Start(t.Context(), e.id))
		require.NoError(t, worker.Stop(t.Context(), e.id))
	}
	close(stop)
	wg.Wait()
	e.same()
}

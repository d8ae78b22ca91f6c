package azure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// sent is a request's method, path and body.
type sent struct{ method, path, body string }

// listen notes what is sent to the Resource Manager. answer, if set, may change
// an answer's body.
type listen struct {
	azcoreTransport
	mu     sync.Mutex
	all    []sent
	answer func(r *http.Request, body []byte) []byte
}

func (l *listen) Do(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	l.mu.Lock()
	l.all = append(l.all, sent{r.Method, r.URL.Path, string(body)})
	l.mu.Unlock()
	resp, err := l.azcoreTransport.Do(r)
	if err == nil && l.answer != nil {
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		raw = l.answer(r, raw)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
		resp.Header.Del("Content-Length")
	}
	return resp, err
}

// of are the bodies that were put to a kind of resource.
func (l *listen) of(method, kind string) (bodies []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if s.method == method && strings.Contains(s.path, kind) {
			bodies = append(bodies, s.body)
		}
	}
	return bodies
}

func (r *rig) listen(t testing.TB) *listen {
	l := &listen{azcoreTransport: r.opts.ARM.Transport}
	r.opts.ARM.Transport = l
	r.a = r.open(t)
	return l
}

// filled gives a replica's first disk bytes, by a draft.
func (r *rig) filled(t testing.TB, id dr.MachineID, point dr.PointID, b byte) {
	t.Helper()
	ctx := context.Background()
	d, err := r.a.Draft(ctx, id, dr.Point{ID: point})
	require.NoError(t, err)
	_, err = d.WriteAt(ctx, "sda", bytes.Repeat([]byte{b}, 4096), 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx, dr.Point{ID: point}))
	require.NoError(t, d.Close())
}

func (r *rig) vmOf(t testing.TB, id dr.MachineID) armcompute.VirtualMachine {
	t.Helper()
	g, n, err := r.vm(id)
	require.NoError(t, err)
	vm, err := r.compute(t).NewVirtualMachinesClient().Get(context.Background(), g, n, &armcompute.VirtualMachinesClientGetOptions{Expand: to.Ptr(armcompute.InstanceViewTypesInstanceView)})
	require.NoError(t, err)
	return vm.VirtualMachine
}

// Mistakes that tools make on Azure, and that this one doesn't.
func TestPitfalls(t *testing.T) {
	ctx := context.Background()
	t.Run("attaching a disk that is still granted", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		l := r.listen(t)
		id, err := r.prepare(t, "k", web())
		require.NoError(t, err)
		r.filled(t, id, "p", 7)
		require.NoError(t, r.a.Start(ctx, id))
		for _, s := range l.all {
			require.False(t, strings.Contains(s.path, "/disks/") && strings.Contains(s.path, "GetAccess"), "no disk is ever uploaded: %s", s.path)
		}
	})
	t.Run("importing a blob's snapshot, without the account, or with a profile", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		l := r.listen(t)
		id, err := r.prepare(t, "k", web())
		require.NoError(t, err)
		r.filled(t, id, "p", 7)
		require.NoError(t, r.a.Start(ctx, id))
		disks := l.of("PUT", "/disks/")
		require.Len(t, disks, 1)
		require.NotContains(t, disks[0], "snapshot=")
		require.Contains(t, disks[0], `"storageAccountId":"/subscriptions/`)
		vms := l.of("PUT", "/virtualMachines/")
		require.Len(t, vms, 1)
		require.NotContains(t, vms[0], "osProfile")
		require.Contains(t, vms[0], `"createOption":"Attach"`)
	})
	t.Run("a disk of no whole MiB", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		m := web()
		m.Disks[0].Size = 1<<20 + 512
		id, err := r.prepare(t, "k", m)
		require.NoError(t, err)
		r.filled(t, id, "p", 7)
		require.NoError(t, r.a.Start(ctx, id))
		d, err := r.a.Machine(ctx, id)
		require.NoError(t, err)
		require.Equal(t, int64(1<<20+512), d.Disks[0].Size)
		ids, err := r.cloud.Disks(group, "web")
		require.NoError(t, err)
		p := make([]byte, 4096)
		require.NoError(t, r.cloud.DiskRead(ids[0], p, 0))
		require.Equal(t, byte(7), p[4095])
		require.NoError(t, r.cloud.DiskRead(ids[0], p, 2<<20-4096), "the managed disk is of two MiB")
	})
	t.Run("polling by the client, once a second at most", func(t *testing.T) {
		files, err := filepath.Glob("*.go")
		require.NoError(t, err)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			require.False(t, !strings.HasSuffix(f, "_test.go") && strings.Contains(string(text), ".PollUntilDone("), f)
		}
	})
	t.Run("a failed operation that is answered by 200", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		id, err := r.prepare(t, "k", web())
		require.NoError(t, err)
		r.cloud.FailLRO(func(c azuretest.Call) string {
			if strings.Contains(c.Path, "/disks/") {
				return "InternalServerError"
			}
			return ""
		})
		require.ErrorContains(t, r.a.Start(ctx, id), "InternalServerError")
	})
	t.Run("an answer that is lost makes two of everything", func(t *testing.T) {
		want := 0
		for _, kind := range []string{"", "/disks/", "/networkInterfaces/", "/virtualMachines/", "/snapshots/"} {
			r := newRig(t, azuretest.Options{})
			var once sync.Once
			r.cloud.OnCall(func(c azuretest.Call) (f *azuretest.Fault) {
				if kind != "" && c.Method == "PUT" && strings.Contains(c.Path, kind) {
					once.Do(func() { f = &azuretest.Fault{Lost: true, Effect: true} })
				}
				return f
			})
			id, err := r.prepare(t, "k", web())
			require.NoError(t, err)
			again := func(f func() error) { // as an orchestrator does
				err := f()
				for try := 0; err != nil && try < 20; try++ {
					require.ErrorIs(t, err, dr.ErrBusy)
					err = f()
				}
				require.NoError(t, err)
			}
			again(func() error { return r.a.Start(ctx, id) })
			again(func() error {
				img, err := r.a.Capture(ctx, id, "p", dr.CrashConsistent)
				if err == nil {
					err = img.Close()
				}
				return err
			})
			r.cloud.OnCall(nil)
			if n := len(r.cloud.Resources()); kind == "" {
				want = n
			} else {
				require.Equal(t, want, n, kind)
			}
			require.NoError(t, r.a.Remove(ctx, id))
		}
	})
	t.Run("deleting what others made", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		id := r.started(t, "k", web())
		f := r.compute(t)
		p, err := f.NewDisksClient().BeginCreateOrUpdate(ctx, group, "theirs", armcompute.Disk{Location: to.Ptr(r.cloud.Location()), SKU: &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypesStandardLRS)},
			Properties: &armcompute.DiskProperties{DiskSizeGB: to.Ptr(int32(1)), CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionEmpty)}}}, nil)
		require.NoError(t, err)
		d, err := p.PollUntilDone(ctx, nil)
		require.NoError(t, err)
		vm := r.vmOf(t, id)
		vm.Properties.StorageProfile.DataDisks = append(vm.Properties.StorageProfile.DataDisks, &armcompute.DataDisk{Lun: to.Ptr(int32(3)), CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), ManagedDisk: &armcompute.ManagedDiskParameters{ID: d.ID}})
		u, err := f.NewVirtualMachinesClient().BeginUpdate(ctx, group, *vm.Name, armcompute.VirtualMachineUpdate{Properties: &armcompute.VirtualMachineProperties{StorageProfile: vm.Properties.StorageProfile}}, nil)
		require.NoError(t, err)
		_, err = u.PollUntilDone(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, r.a.Remove(ctx, id))
		_, err = f.NewDisksClient().Get(ctx, group, "theirs", nil)
		require.NoError(t, err)
	})
	t.Run("believing what disks held before somebody ran the machine", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		id := r.started(t, "k", web())
		require.NoError(t, r.a.Stop(ctx, id))
		require.NoError(t, r.capture(t, id, "p", dr.CrashConsistent).Close())
		holds := func() dr.PointID {
			rep, err := r.a.Prepare(ctx, backend.Placement{Key: "k", Machine: web()})
			require.NoError(t, err)
			return rep.Holds
		}
		require.Equal(t, dr.PointID("p"), holds())
		require.NoError(t, r.power(id, dr.On))
		require.NoError(t, r.power(id, dr.Off))
		require.Empty(t, holds())
	})
	t.Run("dropping what people wrote on the machine", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		id := r.started(t, "k", web())
		vm := r.vmOf(t, id)
		vm.Tags["cost-center"] = to.Ptr("42")
		u, err := r.compute(t).NewVirtualMachinesClient().BeginUpdate(ctx, group, *vm.Name, armcompute.VirtualMachineUpdate{Tags: vm.Tags}, nil)
		require.NoError(t, err)
		_, err = u.PollUntilDone(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, r.a.Stop(ctx, id))
		r.filled(t, id, "p", 9)
		require.NoError(t, r.a.Start(ctx, id))
		require.Equal(t, "42", *r.vmOf(t, id).Tags["cost-center"])
		require.Equal(t, *vm.Properties.VMID, *r.vmOf(t, id).Properties.VMID, "another machine was made")
	})
	t.Run("removing by a list that lags", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		before := r.everything(t)
		l := r.listen(t)
		l.answer = func(q *http.Request, body []byte) []byte {
			if q.Method == "GET" && strings.HasSuffix(q.URL.Path, "/resources") {
				return []byte(`{"value":[]}`)
			}
			return body
		}
		for _, made := range []bool{true, false} {
			id, err := r.prepare(t, "k", web())
			require.NoError(t, err)
			if !made { // cut off between the cards and the machine
				r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
					if c.Method == "PUT" && strings.Contains(c.Path, "/virtualMachines/") {
						return &azuretest.Fault{Status: 409, Code: "SkuNotAvailable"}
					}
					return nil
				})
				require.Error(t, r.a.Start(ctx, id))
				r.cloud.OnCall(nil)
			} else {
				require.NoError(t, r.a.Start(ctx, id))
				require.NoError(t, r.capture(t, id, "p", dr.CrashConsistent).Close())
				_, err := r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id})
				require.NoError(t, err)
			}
			require.NoError(t, r.a.Remove(ctx, id))
			require.Equal(t, before, r.everything(t))
		}
	})
	t.Run("stopping without giving the host back", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		for i, stop := range []func(context.Context, dr.MachineID) error{r.a.Stop, r.a.Shutdown} {
			id := r.started(t, "k"+string(rune('0'+i)), web())
			require.NoError(t, stop(ctx, id))
			var codes []string
			for _, s := range r.vmOf(t, id).Properties.InstanceView.Statuses {
				codes = append(codes, *s.Code)
			}
			require.Contains(t, codes, "PowerState/deallocated")
		}
	})
	t.Run("leaving addresses to read disks by", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		id := r.started(t, "k", web())
		img := r.capture(t, id, "p", dr.CrashConsistent)
		whole(t, img, web().Disks[0])
		require.NoError(t, img.Close())
		n := 0
		for pages := r.compute(t).NewSnapshotsClient().NewListPager(nil); pages.More(); {
			page, err := pages.NextPage(ctx)
			require.NoError(t, err)
			for _, s := range page.Value {
				n++
				require.NotEqual(t, armcompute.DiskStateActiveSAS, *s.Properties.DiskState)
			}
		}
		require.NotZero(t, n)
	})
	t.Run("names that differ by case, and regions by blanks", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		before := r.everything(t)
		r.opts.ResourceGroup, r.opts.Location, r.opts.Network = "LIFEBOAT", "West Europe", "PROD/Default"
		r.a = r.open(t)
		id := r.started(t, "k", web())
		require.NoError(t, r.capture(t, id, "p", dr.CrashConsistent).Close())
		require.NoError(t, r.a.Stop(ctx, id))
		r.filled(t, id, "q", 3)
		require.NoError(t, r.a.Start(ctx, id))
		require.NoError(t, r.a.Remove(ctx, id))
		require.Equal(t, before, r.everything(t))
	})
	t.Run("another machine of the same name", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		id, _ := r.running(t)
		g, n, err := r.vm(id)
		require.NoError(t, err)
		p, err := r.compute(t).NewVirtualMachinesClient().BeginDelete(ctx, g, n, nil)
		require.NoError(t, err)
		_, err = p.PollUntilDone(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, r.cloud.AddVM(sources, n, azuretest.VM{Subnet: "prod/default"}))
		_, err = r.a.Capture(ctx, id, "p", dr.CrashConsistent)
		require.ErrorIs(t, err, dr.ErrNotFound)
	})
	t.Run("a disk in a zone, the machine in none", func(t *testing.T) {
		r := newRig(t, azuretest.Options{})
		l := r.listen(t)
		r.started(t, "k", web(), options(azure.PlacementOptions{Zone: "1"}))
		var d armcompute.Disk
		require.NoError(t, json.Unmarshal([]byte(l.of("PUT", "/disks/")[0]), &d))
		require.Equal(t, "1", *d.Zones[0])
	})
}

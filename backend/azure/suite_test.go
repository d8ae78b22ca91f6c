package azure_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var seed = flag.Uint64("seed", 1, "seed of what is drawn; 0: a new one")

const (
	group   = "lifeboat"
	sources = "production"
)

// rig is a simulated subscription and a backend of it.
type rig struct {
	cloud     *azuretest.Cloud
	container *container.Client
	a         *azure.Azure
	opts      azure.Options
	made      atomic.Int64
}

func newRig(t testing.TB, o azuretest.Options) *rig {
	t.Helper()
	c := azuretest.New(o)
	t.Cleanup(c.Close)
	c.ResourceGroup(group)
	c.ResourceGroup(sources)
	c.Network(group, "prod", map[string]string{"default": "10.1.0.0/16", "app": "10.2.0.0/24"})
	c.Network(group, "drill", map[string]string{"app": "10.2.0.0/24", "aaa": "10.9.0.0/24"})
	c.Network(sources, "prod", map[string]string{"default": "10.1.0.0/16"})
	cc, err := c.Blobs().Container(context.Background(), "staging", "lifeboat")
	require.NoError(t, err)
	r := &rig{cloud: c, container: cc}
	r.opts = azure.Options{Subscription: c.Subscription(), Credential: c.Credential(), ARM: c.ClientOptions(),
		ResourceGroup: group, Location: c.Location(), Sources: []string{sources}, Staging: cc,
		StorageAccount: "/subscriptions/" + c.Subscription() + "/resourceGroups/" + group + "/providers/Microsoft.Storage/storageAccounts/staging",
		Network:        "prod/default", DrillNetwork: "drill", Poll: time.Millisecond, Bases: 8}
	r.a = r.open(t)
	return r
}

func (r *rig) open(t testing.TB) *azure.Azure {
	t.Helper()
	a, err := azure.Open(r.opts)
	require.NoError(t, err)
	return a
}

// vm is where a machine is: its group, its name, and the LUN of each disk.
func (r *rig) vm(id dr.MachineID) (group, name string, err error) {
	return r.a.Where(context.Background(), id)
}

// add makes a machine as a customer has it, off, with disks of these IDs.
func (r *rig) add(disks []dr.Disk) (dr.MachineID, error) {
	ctx := context.Background()
	name := fmt.Sprintf("vm%d", r.made.Add(1))
	m := azuretest.VM{Off: true, Subnet: "prod/default", BootDiagnostics: true, Generation: "V1", Data: map[int]int64{}}
	for i, d := range disks {
		if i == 0 {
			m.OSDisk = d.Size
		} else {
			m.Data[i-1] = d.Size
		}
	}
	if err := r.cloud.AddVM(sources, name, m); err != nil {
		return "", err
	}
	f, err := armcompute.NewClientFactory(r.cloud.Subscription(), r.cloud.Credential(), r.cloud.ClientOptions())
	if err != nil {
		return "", err
	}
	for i, d := range disks {
		n := name + "-os"
		if i > 0 {
			n = fmt.Sprintf("%s-data%d", name, i-1)
		}
		p, err := f.NewDisksClient().BeginUpdate(ctx, sources, n, armcompute.DiskUpdate{Tags: map[string]*string{"lifeboat-disk": to.Ptr(string(d.ID))}}, nil)
		if err != nil {
			return "", err
		}
		for !p.Done() {
			if _, err := p.Poll(ctx); err != nil {
				return "", err
			}
		}
	}
	vm, err := f.NewVirtualMachinesClient().Get(ctx, sources, name, nil)
	if err != nil {
		return "", err
	}
	return dr.MachineID(strings.ToLower(*vm.Properties.VMID)), nil
}

// disk finds what holds a disk's bytes now.
func (r *rig) disk(id dr.MachineID, disk dr.DiskID) (azure.DiskAt, error) {
	return r.a.DiskAt(context.Background(), id, disk)
}

func (r *rig) write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	g, n, err := r.vm(id)
	if err != nil {
		return err
	}
	d, err := r.disk(id, disk)
	if err != nil {
		return err
	}
	return r.cloud.Write(g, n, int(d.LUN), p, off)
}

func (r *rig) read(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	d, err := r.disk(id, disk)
	switch {
	case err != nil:
		return err
	case d.Blob != "":
		resp, err := r.container.NewBlobClient(d.Blob).DownloadStream(context.Background(), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
			return err
		}
		_, err = io.ReadFull(resp.Body, p)
		return err
	case d.Disk != "":
		return r.cloud.DiskRead(d.Disk, p, off)
	}
	clear(p)
	return nil
}

func (r *rig) power(id dr.MachineID, p dr.Power) error {
	g, n, err := r.vm(id)
	if err != nil {
		return err
	}
	return r.cloud.Power(g, n, p == dr.On)
}

// inventory is everything at Azure and in the container, but for what a tracker
// remembers of machines that are there: the snapshots that are its bases.
func (r *rig) inventory(t testing.TB) ([]string, error) {
	bases, err := r.a.Bases(context.Background())
	if err != nil {
		return nil, err
	}
	var all []string
	for _, id := range r.cloud.Resources() {
		if i := strings.LastIndexByte(id, '/'); !slices.Contains(bases, id[i+1:]) && !strings.Contains(id, "/restorepointcollections/") {
			all = append(all, id)
		}
	}
	for pages := r.container.NewListBlobsFlatPager(nil); pages.More(); {
		page, err := pages.NextPage(context.Background())
		if err != nil {
			return nil, err
		}
		for _, b := range page.Segment.BlobItems {
			if !strings.HasPrefix(*b.Name, "machines/") || strings.HasPrefix(*b.Name, "machines/lb-") {
				all = append(all, *b.Name)
			}
		}
	}
	return all, nil
}

func (r *rig) harness(t testing.TB) backendtest.Harness {
	return backendtest.Harness{
		Backend: r.a,
		Machine: func(_ backendtest.T, disks []dr.Disk) (dr.MachineID, error) { return r.add(disks) },
		Power:   r.power,
		Write:   r.write,
		Read:    r.read,
		Reopen: func() (backend.Backend, error) {
			r.a = r.open(t)
			return r.a, nil
		},
		Grow: func(id dr.MachineID, disk dr.DiskID, size int64) error {
			d, err := r.disk(id, disk)
			if err != nil {
				return err
			}
			return r.cloud.GrowDisk(d.Disk, size)
		},
		LoseChanges: func(id dr.MachineID) error { return r.loseSnapshots(id) },
		Hang: func(id dr.MachineID, hung bool) error {
			g, n, err := r.vm(id)
			if err != nil {
				return err
			}
			return r.cloud.Hang(g, n, hung)
		},
		Duplicate: func(_ backendtest.T, id dr.MachineID) error {
			key, err := r.a.KeyOf(context.Background(), id)
			if err != nil {
				return err
			}
			return r.cloud.AddVM(group, fmt.Sprintf("twin%d", r.made.Add(1)), azuretest.VM{Off: true, Subnet: "prod/default", Tags: map[string]string{"lifeboat-key": key}})
		},
		Inventory:   func() ([]string, error) { return r.inventory(t) },
		SizeUnit:    1 << 20,
		Granularity: 0,
		Forgets:     true,
		Histories:   6,
		Seed:        *seed,
	}
}

// loseSnapshots deletes all snapshots of a machine, as a person who tidies up
// would.
func (r *rig) loseSnapshots(id dr.MachineID) error {
	ctx := context.Background()
	f, err := armcompute.NewClientFactory(r.cloud.Subscription(), r.cloud.Credential(), r.cloud.ClientOptions())
	if err != nil {
		return err
	}
	c := f.NewSnapshotsClient()
	var names []string
	for pages := c.NewListByResourceGroupPager(group, nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, s := range page.Value {
			if m := s.Tags["lifeboat-machine"]; m != nil && *m == string(id) {
				names = append(names, *s.Name)
			}
		}
	}
	for _, name := range names {
		revoke, err := c.BeginRevokeAccess(ctx, group, name, nil)
		if err == nil {
			_, err = revoke.PollUntilDone(ctx, nil)
		}
		remove, err2 := c.BeginDelete(ctx, group, name, nil)
		if err2 == nil {
			_, err2 = remove.PollUntilDone(ctx, nil)
		}
		if err := errors.Join(err, err2); err != nil {
			return err
		}
	}
	return nil
}

func TestContract(t *testing.T) {
	r := newRig(t, azuretest.Options{Limits: generous})
	backendtest.Run(t, r.harness(t))
}

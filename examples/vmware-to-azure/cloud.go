package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// cloud is the recovery site. With a real subscription only what openCloud
// takes of the simulator differs: the credential is one of package azidentity.
type cloud struct {
	sim     *azuretest.Cloud
	azure   *azure.Azure
	staging *container.Client
	points  *container.Client
	witness *witness
	before  []string // resources that were there before anything was replicated

	mu  sync.Mutex
	err error // of a guest that did not find its disks
}

const (
	group   = "recovery"
	account = "lifeboatdemo"
	// Cards go to the one, and those of drills to the other: a network that is
	// connected to nothing.
	subnet, isolated = "landing/servers", "drill"
)

func openCloud(ctx context.Context, w *witness) (*cloud, error) {
	sim := azuretest.New(azuretest.Options{
		// Azure makes a restore point of a running machine with several disks
		// once an hour; a demonstration has no hour.
		Limits: azuretest.Limits{CrashInterval: time.Nanosecond},
	})
	c := &cloud{sim: sim, witness: w}
	sim.ResourceGroup(group)
	sim.Network(group, "landing", map[string]string{"servers": "10.1.0.0/16"})
	sim.Network(group, "drill", map[string]string{"servers": "10.1.0.0/16"})
	sim.OnStart(c.boot)
	var err error
	if c.staging, err = sim.Blobs().Container(ctx, account, "staging"); err == nil {
		c.points, err = sim.Blobs().Container(ctx, account, "points")
	}
	if err == nil {
		c.azure, err = azure.Open(azure.Options{
			Subscription: sim.Subscription(), Credential: sim.Credential(), ARM: sim.ClientOptions(),
			ResourceGroup: group, Location: sim.Location(), Staging: c.staging,
			StorageAccount: fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Storage/storageAccounts/%s", sim.Subscription(), group, account),
			DrillNetwork:   isolated, Poll: 2 * time.Millisecond,
		})
	}
	if err != nil {
		sim.Close()
		return nil, err
	}
	c.before = sim.Resources()
	return c, nil
}

func (c *cloud) close() error {
	err := c.azure.Close(context.Background())
	c.sim.Close()
	return err
}

// atAzure says where and how a machine is made there.
func atAzure() failover.Where {
	o, _ := json.Marshal(azure.PlacementOptions{Zone: "1", DiskType: "Premium_LRS", Tags: map[string]string{"cost-center": "recovery"}})
	return failover.Where{Networks: map[string]string{production: subnet}, Options: o}
}

// boot is the guest of a machine that Azure has started.
func (c *cloud) boot(vm string) {
	part := strings.Split(vm, "/") // /subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/NAME
	group, name := part[4], part[8]
	err := func() error {
		disks, err := c.sim.Disks(group, name)
		if err != nil {
			return err
		}
		return c.witness.boot(computer{
			disks: len(disks), // the OS disk is at LUN -1
			read:  func(disk int, p []byte, off int64) error { return c.sim.Read(group, name, disk-1, p, off) },
			write: func(disk int, p []byte, off int64) error { return c.sim.Write(group, name, disk-1, p, off) },
		})
	}()
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err = errors.Join(c.err, fmt.Errorf("machine %s did not start: %w", name, err))
	}
}

// guests returns what guests have complained of.
func (c *cloud) guests() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// left tells what there is now that was not there before: resources, and blobs
// other than records, which are a few hundred bytes for each machine that there
// ever was.
func (c *cloud) left(ctx context.Context) (left []string, records int, err error) {
	for _, id := range c.sim.Resources() {
		if !slices.Contains(c.before, id) {
			left = append(left, id)
		}
	}
	for _, box := range []*container.Client{c.staging, c.points} {
		for pages := box.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Include: container.ListBlobsInclude{Snapshots: true, UncommittedBlobs: true}}); pages.More(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return left, records, err
			}
			for _, b := range page.Segment.BlobItems {
				if box == c.staging && strings.HasPrefix(*b.Name, "machines/") || box == c.points && strings.HasSuffix(*b.Name, "/head") {
					records++
					continue
				}
				left = append(left, *b.Name)
			}
		}
	}
	return left, records, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/azure/pageblob"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

const (
	home, away = "hq", "azure"
	group      = "recovery"
	account    = "drillexample"
)

// sites are a vCenter and Azure, both simulated in this process.
type sites struct {
	vcenter *vmwaretest.Simulator
	cloud   *azuretest.Cloud
	v       *vmware.VSphere
	azure   *azure.Azure
	points  recoverypoint.PointStore
}

func openSites(ctx context.Context) (s *sites, err error) {
	s = &sites{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.vcenter, err = vmwaretest.Start(vmwaretest.Options{}); err != nil {
		return s, err
	}
	if s.v, err = vmware.Open(ctx, vmware.Options{URL: s.vcenter.URL, Insecure: true}); err != nil {
		return s, err
	}
	s.cloud = azuretest.New(azuretest.Options{})
	s.cloud.ResourceGroup(group)
	s.cloud.Network(group, "drill", map[string]string{"servers": "10.1.0.0/16"})
	staging, err := s.cloud.Blobs().Container(ctx, account, "staging")
	if err != nil {
		return s, err
	}
	points, err := s.cloud.Blobs().Container(ctx, account, "points")
	if err != nil {
		return s, err
	}
	s.points = pageblob.New(points, pageblob.Options{})
	s.azure, err = azure.Open(azure.Options{
		Subscription: s.cloud.Subscription(), Credential: s.cloud.Credential(), ARM: s.cloud.ClientOptions(),
		ResourceGroup: group, Location: s.cloud.Location(), Staging: staging,
		StorageAccount: fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Storage/storageAccounts/%s", s.cloud.Subscription(), group, account),
		DrillNetwork:   "drill", Poll: 2 * time.Millisecond,
	})
	return s, err
}

func (s *sites) known() replication.Sites {
	return replication.Sites{
		home: {Backend: s.v, Points: memstore.New(memstore.Options{})},
		away: {Backend: s.azure, Points: s.points},
	}
}

// protect makes the plan's machines, and their first recovery points.
func (s *sites) protect(ctx context.Context, engine *embedded.Engine, ids []dr.ProtectionID) error {
	for _, id := range ids {
		m := uuid.NewString()
		vm, err := s.vcenter.AddVM(vmwaretest.VMSpec{Name: string(id), GuestID: "ubuntu64Guest", CPUs: 2, MemoryMB: 4096, InstanceUUID: m,
			ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: 16 << 20}}})
		if err != nil {
			return err
		}
		if err := vm.Write(vm.Disks()[0], []byte("the orders of today"), 1<<20); err != nil {
			return err
		}
		p, err := engine.Save(ctx, replication.New(id, dr.Place{Site: home, Machine: dr.MachineID(m)}, away))
		if err != nil {
			return err
		}
		pl, err := replication.Protect(p)
		if err != nil {
			return err
		}
		run := dr.RunID("protect-" + id)
		if err := engine.Start(ctx, run, pl); err != nil {
			return err
		}
		st, err := dr.Wait(ctx, engine, run, nil)
		if err := errors.Join(err, st.Err()); err != nil {
			return err
		}
	}
	return nil
}

func (s *sites) close() (err error) {
	if s.azure != nil {
		err = s.azure.Close(context.Background())
	}
	if s.cloud != nil {
		s.cloud.Close()
	}
	if s.v != nil {
		err = errors.Join(err, s.v.Close(context.Background()))
	}
	if s.vcenter != nil {
		s.vcenter.Close()
	}
	return err
}

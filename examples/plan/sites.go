package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// The two sites are simulators in a process of their own, as real ones would
// outlive whoever works on them.
const (
	home, away = "hq", "azure"
	group      = "recovery"
	account    = "planexample"
	diskSize   = 8 << 20
)

// addresses are what another process needs to reach the sites.
type addresses struct {
	VCenter    string            `json:"vcenter"`
	ARM        string            `json:"arm"`
	Blobs      string            `json:"blobs"`
	Key        string            `json:"key"`
	Machines   map[string]string `json:"machines"` // of the vCenter, by name
	Location   string            `json:"location"`
	Subscriber string            `json:"subscriber"`
}

type sites struct {
	vcenter *vmwaretest.Simulator
	cloud   *azuretest.Cloud
	guests  *guests
}

// serveSites runs both until ctx ends.
func serveSites(ctx context.Context, dir string) (err error) {
	sim, err := vmwaretest.Start(vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "DC0", Folders: []string{"recovered"}, Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0", "esx-1"}}},
		Datastores: []vmwaretest.Datastore{{Name: "vmfs-0"}}, Networks: []string{"production"},
	}}})
	if err != nil {
		return err
	}
	defer sim.Close()
	cloud := azuretest.New(azuretest.Options{Limits: azuretest.Limits{CrashInterval: time.Nanosecond}})
	defer cloud.Close()
	cloud.ResourceGroup(group)
	cloud.Network(group, "landing", map[string]string{"servers": "10.1.0.0/16"})
	cloud.Network(group, "drill", map[string]string{"servers": "10.1.0.0/16"})
	at := addresses{VCenter: sim.URL.String(), ARM: cloud.URL(), Machines: map[string]string{}, Location: cloud.Location(), Subscriber: cloud.Subscription()}
	for _, name := range []string{"staging", "points"} {
		if _, err := cloud.Blobs().Container(ctx, account, name); err != nil {
			return err
		}
	}
	at.Blobs, at.Key = cloud.Blobs().Account(account)

	v, err := vmware.Open(ctx, vmware.Options{URL: sim.URL, Insecure: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close(context.WithoutCancel(ctx))) }()
	s := &sites{vcenter: sim, cloud: cloud, guests: newGuests(sim, v, cloud)}
	for i, name := range []string{"db1", "db2", "app1", "app2", "web1", "web2"} {
		id, err := s.add(name, i)
		if err != nil {
			return err
		}
		at.Machines[name] = string(id)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "sites.sock"))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /disk", s.disk(dir))
	mux.HandleFunc("GET /machines", s.machines)
	server := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	if err := writeFile(filepath.Join(dir, "sites.json"), at); err != nil {
		return err
	}
	err = s.guests.run(ctx)
	return errors.Join(err, server.Close(), notClosed(<-served))
}

func notClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// add makes a machine of the vCenter, with something on its disk.
func (s *sites) add(name string, i int) (dr.MachineID, error) {
	id := uuid.NewString()
	address := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(10 + i)}), 16)
	vm, err := s.vcenter.AddVM(vmwaretest.VMSpec{
		Name: name, GuestID: "ubuntu64Guest", CPUs: 2, MemoryMB: 4096, InstanceUUID: id, Datastore: "vmfs-0", ChangeTracking: true,
		NICs:  []vmwaretest.NICSpec{{Network: "production"}},
		Disks: []vmwaretest.DiskSpec{{Size: diskSize}},
		Guest: vmwaretest.Guest{HostName: name, NICs: []vmwaretest.GuestNIC{{Addresses: []netip.Prefix{address}}}},
	})
	if err != nil {
		return "", err
	}
	return dr.MachineID(id), install(name, func(p []byte, off int64) error { return vm.Write(vm.Disks()[0], p, off) })
}

// disk serves a disk of the vCenter over NBD, in place of nbdkit with VMware's
// VDDK, for as long as the request lasts: so it ends with whoever asked.
func (s *sites) disk(dir string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q diskRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		path := filepath.Join(dir, "nbd-"+uuid.NewString()[:8])
		l, err := net.Listen("unix", path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer os.Remove(path)
		e := vmwaretest.NBDExport{VM: types.ManagedObjectReference{Type: "VirtualMachine", Value: q.VM}, File: q.File}
		if q.Snapshot != "" {
			e.Snapshot = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: q.Snapshot}
		}
		fmt.Fprintln(w, "nbd+unix:///?socket="+path)
		w.(http.Flusher).Flush()
		_ = s.vcenter.ServeNBD(r.Context(), l, e)
	}
}

type diskRequest struct{ VM, Snapshot, File string }

func (s *sites) machines(w http.ResponseWriter, r *http.Request) {
	all, err := s.guests.all(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(all)
}

func writeFile(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// azureName splits the resource ID of a machine.
func azureName(id string) (group, name string) {
	part := strings.Split(id, "/") // /subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/NAME
	if len(part) < 9 {
		return "", ""
	}
	return part[4], part[8]
}

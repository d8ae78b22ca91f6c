package vmwaretest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// VMSpec describes a machine to add. Its zero value is a running BIOS machine
// without disks or cards.
type VMSpec struct {
	Name string
	// Datacenter, Folder (a path below "vm"), Cluster (or a standalone host's
	// name) and Datastore say where; "" is the first of the inventory, the
	// root folder for Folder.
	Datacenter, Folder, Cluster, Datastore string
	// Host is where it runs, by name; "" is any of the cluster's. It says the
	// cluster as well, where that is "".
	Host  string
	Disks []DiskSpec
	NICs  []NICSpec
	// EFI gives EFI firmware, SecureBoot needs it.
	EFI, SecureBoot bool
	CPUs            int32  // 0 is 1
	MemoryMB        int64  // 0 is 1024
	GuestID         string // "" is "otherGuest64"
	// UUID and InstanceUUID are made up if "".
	UUID, InstanceUUID string
	ExtraConfig        map[string]string
	ChangeTracking     bool
	Off                bool
	Guest              Guest
}

// DiskSpec describes a disk of a machine.
type DiskSpec struct {
	Size int64 // bytes; a multiple of 1024
	// Controller is "pvscsi" (""), "lsilogic", "lsilogic-sas", "buslogic",
	// "sata", "nvme" or "ide"; disks that name the same share one.
	Controller string
	Mode       types.VirtualDiskMode // "" is persistent
	UUID       string                // "" is made up
	Shared     bool                  // multi-writer
	RawDevice  bool                  // a physical-mode RDM
	// File attaches a VMDK that exists, by its datastore path.
	File string
}

// NICSpec describes a network card.
type NICSpec struct {
	Network string // "" is "VM Network"
	Type    string // "" is "vmxnet3"
	MAC     string // "" is made up
}

// build makes the inventory through vcsim's own API, in process.
func (s *Simulator) build() error {
	ctx := context.Background()
	client, err := vim25.NewClient(ctx, s.model.Service)
	if err != nil {
		return err
	}
	root := object.NewRootFolder(client)
	seen := map[string]bool{}
	for _, spec := range s.options.Datacenters {
		if len(spec.Datastores) == 0 {
			return fmt.Errorf("datacenter %q has no datastore", spec.Name)
		}
		dc, err := root.CreateDatacenter(ctx, spec.Name)
		if err != nil {
			return fmt.Errorf("datacenter %q: %w", spec.Name, err)
		}
		folders, err := dc.Folders(ctx)
		if err != nil {
			return err
		}
		if err := addFolders(ctx, client, folders.VmFolder, spec.Folders); err != nil {
			return err
		}
		hosts, err := addHosts(ctx, folders.HostFolder, spec)
		if err != nil {
			return err
		}
		for _, d := range spec.Datastores {
			if seen[d.Name] {
				return fmt.Errorf("two datastores are named %q", d.Name)
			}
			seen[d.Name] = true
			if err := s.addDatastore(ctx, hosts, d); err != nil {
				return fmt.Errorf("datastore %q: %w", d.Name, err)
			}
		}
		for _, name := range spec.Networks {
			system, err := hosts[0].ConfigManager().NetworkSystem(ctx)
			if err != nil {
				return err
			}
			if err := system.AddPortGroup(ctx, types.HostPortGroupSpec{Name: name, VswitchName: "vSwitch0"}); err != nil {
				return fmt.Errorf("network %q: %w", name, err)
			}
		}
		s.connect(hosts, dc.Reference())
	}
	return nil
}

// connect makes every host reach all networks of its datacenter, of which vcsim
// tells the first only.
func (s *Simulator) connect(hosts []*object.HostSystem, dc types.ManagedObjectReference) {
	ctx := s.context()
	networks := ctx.Map.Get(dc).(*simulator.Datacenter).Network
	for _, h := range hosts {
		host := ctx.Map.Get(h.Reference()).(*simulator.HostSystem)
		ctx.WithLock(host, func() { host.Network = slices.Clone(networks) })
	}
}

func addFolders(ctx context.Context, client *vim25.Client, root *object.Folder, paths []string) error {
	made := map[string]*object.Folder{"": root}
	for _, p := range paths {
		at := ""
		for _, name := range strings.Split(p, "/") {
			next := strings.TrimPrefix(at+"/"+name, "/")
			if made[next] == nil {
				f, err := made[at].CreateFolder(ctx, name)
				if err != nil {
					return fmt.Errorf("folder %q: %w", next, err)
				}
				made[next] = object.NewFolder(client, f.Reference())
			}
			at = next
		}
	}
	return nil
}

func addHosts(ctx context.Context, folder *object.Folder, spec Datacenter) ([]*object.HostSystem, error) {
	var hosts []*object.HostSystem
	add := func(task *object.Task, err error) error {
		if err != nil {
			return err
		}
		info, err := task.WaitForResult(ctx)
		if err != nil {
			return err
		}
		ref := info.Result.(types.ManagedObjectReference)
		if ref.Type != "HostSystem" {
			found, err := object.NewComputeResource(folder.Client(), ref).Hosts(ctx)
			hosts = append(hosts, found...)
			return err
		}
		hosts = append(hosts, object.NewHostSystem(folder.Client(), ref))
		return nil
	}
	for _, c := range spec.Clusters {
		cluster, err := folder.CreateCluster(ctx, c.Name, types.ClusterConfigSpecEx{})
		if err != nil {
			return nil, fmt.Errorf("cluster %q: %w", c.Name, err)
		}
		for _, h := range c.Hosts {
			if err := add(cluster.AddHost(ctx, types.HostConnectSpec{HostName: h}, true, nil, nil)); err != nil {
				return nil, fmt.Errorf("host %q: %w", h, err)
			}
		}
	}
	for _, h := range spec.Hosts {
		if err := add(folder.AddStandaloneHost(ctx, types.HostConnectSpec{HostName: h}, true, nil, nil)); err != nil {
			return nil, fmt.Errorf("host %q: %w", h, err)
		}
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("datacenter %q has no host", spec.Name)
	}
	return hosts, nil
}

func (s *Simulator) addDatastore(ctx context.Context, hosts []*object.HostSystem, d Datastore) error {
	var home string
	for _, o := range s.model.Map().OptionManager().Setting {
		if v := o.GetOptionValue(); v.Key == "vcsim.home" {
			home = v.Value.(string)
		}
	}
	dir := filepath.Join(home, d.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if d.Type == "" {
		d.Type = "VMFS"
	}
	s.wholeMap[d.Name] = d.Type != "VMFS"
	for _, h := range hosts {
		system, err := h.ConfigManager().DatastoreSystem(ctx)
		if err != nil {
			return err
		}
		if _, err := system.CreateLocalDatastore(ctx, d.Name, dir); err != nil {
			return err
		}
	}
	ds := s.datastore(d.Name)
	ds.Summary.Type = d.Type
	if d.Capacity == 0 && d.Free == 0 {
		return nil
	}
	return s.SetDatastoreSpace(d.Name, d.Capacity, d.Free)
}

// SetDatastoreSpace changes what a datastore says of its capacity and free
// space, in bytes. Nothing is refused for lack of space: a Fault with
// NoDiskSpace does that.
func (s *Simulator) SetDatastoreSpace(name string, capacity, free int64) error {
	ds := s.datastore(name)
	if ds == nil {
		return fmt.Errorf("vmwaretest: no datastore %q", name)
	}
	ctx := s.context()
	s.vcsim.Lock()
	defer s.vcsim.Unlock()
	ctx.WithLock(ds, func() {
		ds.Info.GetDatastoreInfo().FreeSpace = free
		ctx.Update(ds, []types.PropertyChange{
			{Name: "summary.capacity", Val: capacity},
			{Name: "summary.freeSpace", Val: free},
		})
	})
	return nil
}

func networkName(e mo.Entity) string {
	if n, ok := e.(*mo.Network); ok {
		return n.Name
	}
	return e.Entity().Name
}

// AddVM adds a machine and powers it on unless told otherwise. It fails like
// CreateVM: a name or a file that is taken, a network that isn't there.
func (s *Simulator) AddVM(spec VMSpec) (*VM, error) {
	v, err := s.addVM(context.Background(), spec)
	if err != nil {
		return nil, fmt.Errorf("vmwaretest: add machine %q: %w", spec.Name, err)
	}
	return v, nil
}

func (s *Simulator) addVM(ctx context.Context, spec VMSpec) (*VM, error) {
	client, err := vim25.NewClient(ctx, s.model.Service)
	if err != nil {
		return nil, err
	}
	config, err := s.config(&spec)
	if err != nil {
		return nil, err
	}
	finder := find.NewFinder(client)
	dc, err := finder.Datacenter(ctx, spec.Datacenter)
	if err != nil {
		return nil, err
	}
	finder.SetDatacenter(dc)
	folder, err := finder.Folder(ctx, strings.TrimSuffix(dc.InventoryPath+"/vm/"+spec.Folder, "/"))
	if err != nil {
		return nil, err
	}
	compute, err := finder.ComputeResource(ctx, spec.Cluster)
	if err != nil {
		return nil, err
	}
	pool, err := compute.ResourcePool(ctx)
	if err != nil {
		return nil, err
	}
	c := s.context()
	create := &types.CreateVM_Task{This: folder.Reference(), Config: *config, Pool: pool.Reference()}
	if spec.Host != "" {
		host, err := finder.HostSystem(ctx, spec.Host)
		if err != nil {
			return nil, err
		}
		ref := host.Reference()
		create.Host = &ref
	}
	task := s.task(c, folder.Reference(), "CreateVM_Task", func() (types.AnyType, types.BaseMethodFault) {
		return s.create(c, c.Map.Get(folder.Reference()).(*simulator.Folder), create)
	})
	made, fault := s.result(c, task)
	if fault != nil {
		return nil, fmt.Errorf("%T %+v", fault, fault)
	}
	v := s.machine(made.(types.ManagedObjectReference))
	v.SetGuest(spec.Guest)
	if !spec.Off {
		err = v.PowerOn()
	}
	return v, err
}

// clusterOf is the cluster that has a host, or the host's own name.
func (dc *Datacenter) clusterOf(host string) string {
	for _, c := range dc.Clusters {
		if slices.Contains(c.Hosts, host) {
			return c.Name
		}
	}
	return host
}

// config fills spec's defaults and turns it into what CreateVM takes.
func (s *Simulator) config(spec *VMSpec) (*types.VirtualMachineConfigSpec, error) {
	at := 0
	if spec.Datacenter != "" {
		at = slices.IndexFunc(s.options.Datacenters, func(d Datacenter) bool { return d.Name == spec.Datacenter })
	}
	if at < 0 {
		return nil, fmt.Errorf("no datacenter %q", spec.Datacenter)
	}
	dc := s.options.Datacenters[at]
	spec.Datacenter = dc.Name
	if spec.Cluster == "" && spec.Host != "" {
		spec.Cluster = dc.clusterOf(spec.Host)
	}
	if spec.Datastore == "" {
		spec.Datastore = dc.Datastores[0].Name
	}
	if spec.Cluster == "" && len(dc.Clusters) > 0 {
		spec.Cluster = dc.Clusters[0].Name
	} else if spec.Cluster == "" {
		spec.Cluster = dc.Hosts[0]
	}
	if spec.GuestID == "" {
		spec.GuestID = string(types.VirtualMachineGuestOsIdentifierOtherGuest64)
	}
	devices, err := spec.devices()
	if err != nil {
		return nil, err
	}
	config := &types.VirtualMachineConfigSpec{
		Name: spec.Name, GuestId: spec.GuestID, Uuid: spec.UUID, InstanceUuid: spec.InstanceUUID,
		NumCPUs: max(spec.CPUs, 1), MemoryMB: spec.MemoryMB,
		Files:                 &types.VirtualMachineFileInfo{VmPathName: "[" + spec.Datastore + "]"},
		DeviceChange:          devices,
		ChangeTrackingEnabled: types.NewBool(spec.ChangeTracking),
	}
	if config.MemoryMB == 0 {
		config.MemoryMB = 1024
	}
	if spec.EFI {
		config.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
		config.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(spec.SecureBoot)}
	}
	for _, key := range slices.Sorted(maps.Keys(spec.ExtraConfig)) {
		config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: key, Value: spec.ExtraConfig[key]})
	}
	return config, nil
}

package vmwaretest

import (
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// devices lists the controllers, disks and cards that a VMSpec asks for.
func (spec *VMSpec) devices() ([]types.BaseVirtualDeviceConfigSpec, error) {
	var list object.VirtualDeviceList
	var changes []types.BaseVirtualDeviceConfigSpec
	controllers := map[string]types.BaseVirtualController{}
	add := func(d types.BaseVirtualDevice, op types.VirtualDeviceConfigSpecFileOperation) {
		list = append(list, d)
		changes = append(changes, &types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: op, Device: d,
		})
	}
	for i, d := range spec.Disks {
		kind := d.Controller
		if kind == "" {
			kind = "pvscsi"
		}
		if controllers[kind] == nil {
			c, err := newController(list, kind)
			if err != nil {
				return nil, fmt.Errorf("disk %d: %w", i, err)
			}
			c.GetVirtualDevice().Key = int32(-100 - len(controllers))
			add(c, "")
			controllers[kind] = c.(types.BaseVirtualController)
		}
		disk := d.device(int32(2000+i), spec.Datastore)
		list.AssignController(disk, controllers[kind])
		op := types.VirtualDeviceConfigSpecFileOperationCreate
		if d.File != "" {
			op = ""
		}
		add(disk, op)
	}
	for i, n := range spec.NICs {
		card, err := n.device()
		if err != nil {
			return nil, fmt.Errorf("card %d: %w", i, err)
		}
		card.GetVirtualDevice().Key = int32(-200 - i)
		add(card, "")
	}
	return changes, nil
}

func newController(list object.VirtualDeviceList, kind string) (types.BaseVirtualDevice, error) {
	switch kind {
	case "ide":
		return list.CreateIDEController()
	case "nvme":
		return list.CreateNVMEController()
	case "sata", "ahci":
		return list.CreateSATAController()
	}
	return list.CreateSCSIController(kind)
}

func (d DiskSpec) device(key int32, datastore string) *types.VirtualDisk {
	if d.Mode == "" {
		d.Mode = types.VirtualDiskModePersistent
	}
	info := types.VirtualDeviceFileBackingInfo{FileName: d.File}
	if d.File == "" {
		info.FileName = "[" + datastore + "]"
	}
	disk := &types.VirtualDisk{CapacityInBytes: d.Size, CapacityInKB: d.Size / 1024}
	disk.Key = key
	if d.RawDevice {
		disk.Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			VirtualDeviceFileBackingInfo: info, DiskMode: string(d.Mode), Uuid: d.UUID,
			CompatibilityMode: string(types.VirtualDiskCompatibilityModePhysicalMode),
			DeviceName:        fmt.Sprintf("naa.6000%08d", key),
		}
		return disk
	}
	backing := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: info, DiskMode: string(d.Mode), Uuid: d.UUID,
		ThinProvisioned: types.NewBool(true),
	}
	if d.Shared {
		backing.Sharing = string(types.VirtualDiskSharingSharingMultiWriter)
	}
	disk.Backing = backing
	return disk
}

func (n NICSpec) device() (types.BaseVirtualDevice, error) {
	if n.Network == "" {
		n.Network = "VM Network"
	}
	if n.Type == "" {
		n.Type = "vmxnet3"
	}
	card, err := object.EthernetCardTypes().CreateEthernetCard(n.Type, &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: n.Network},
	})
	if err != nil {
		return nil, err
	}
	if n.MAC != "" {
		c := card.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		c.MacAddress, c.AddressType = n.MAC, string(types.VirtualEthernetCardMacTypeManual)
	}
	return card, nil
}

package vmwaretest

import (
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// privileges is what methods ask for, beyond System.Read. ReconfigVM_Task's
// depend on what is changed.
var privileges = map[string]string{
	"CreateSnapshot_Task":             "VirtualMachine.State.CreateSnapshot",
	"CreateSnapshotEx_Task":           "VirtualMachine.State.CreateSnapshot",
	"RemoveSnapshot_Task":             "VirtualMachine.State.RemoveSnapshot",
	"RemoveAllSnapshots_Task":         "VirtualMachine.State.RemoveSnapshot",
	"ConsolidateVMDisks_Task":         "VirtualMachine.State.RemoveSnapshot",
	"RevertToSnapshot_Task":           "VirtualMachine.State.RevertToSnapshot",
	"RevertToCurrentSnapshot_Task":    "VirtualMachine.State.RevertToSnapshot",
	"RenameSnapshot":                  "VirtualMachine.State.RenameSnapshot",
	"QueryChangedDiskAreas":           "VirtualMachine.Provisioning.DiskRandomRead",
	"CloneVM_Task":                    "VirtualMachine.Provisioning.Clone",
	"CustomizeVM_Task":                "VirtualMachine.Provisioning.Customize",
	"MarkAsTemplate":                  "VirtualMachine.Provisioning.MarkAsTemplate",
	"MarkAsVirtualMachine":            "VirtualMachine.Provisioning.MarkAsVM",
	"RelocateVM_Task":                 "Resource.ColdMigrate",
	"CreateVM_Task":                   "VirtualMachine.Inventory.Create",
	"RegisterVM_Task":                 "VirtualMachine.Inventory.Register",
	"UnregisterVM":                    "VirtualMachine.Inventory.Unregister",
	"Destroy_Task":                    "VirtualMachine.Inventory.Delete",
	"PowerOnVM_Task":                  "VirtualMachine.Interact.PowerOn",
	"PowerOffVM_Task":                 "VirtualMachine.Interact.PowerOff",
	"ShutdownGuest":                   "VirtualMachine.Interact.PowerOff",
	"SuspendVM_Task":                  "VirtualMachine.Interact.Suspend",
	"ResetVM_Task":                    "VirtualMachine.Interact.Reset",
	"RebootGuest":                     "VirtualMachine.Interact.Reset",
	"ExportVm":                        "VApp.Export",
	"ExportSnapshot":                  "VApp.Export",
	"ImportVApp":                      "VApp.Import",
	"CreateFolder":                    "Folder.Create",
	"MoveIntoFolder_Task":             "Folder.Move",
	"Rename_Task":                     "VirtualMachine.Config.Rename",
	"MakeDirectory":                   "Datastore.FileManagement",
	"DeleteDatastoreFile_Task":        "Datastore.FileManagement",
	"MoveDatastoreFile_Task":          "Datastore.FileManagement",
	"CopyDatastoreFile_Task":          "Datastore.FileManagement",
	"CreateVirtualDisk_Task":          "Datastore.FileManagement",
	"DeleteVirtualDisk_Task":          "Datastore.FileManagement",
	"CopyVirtualDisk_Task":            "Datastore.FileManagement",
	"MoveVirtualDisk_Task":            "Datastore.FileManagement",
	"ExtendVirtualDisk_Task":          "Datastore.FileManagement",
	"SearchDatastore_Task":            "Datastore.Browse",
	"SearchDatastoreSubFolders_Task":  "Datastore.Browse",
	"SetCustomValue":                  "Global.SetCustomField",
	"AddCustomFieldDef":               "Global.ManageCustomFields",
	"AddStandaloneHost_Task":          "Host.Inventory.AddStandaloneHost",
	"CreateClusterEx":                 "Host.Inventory.CreateCluster",
	"CreateDatacenter":                "Datacenter.Create",
	"AcquireTicket":                   "VirtualMachine.Interact.ConsoleInteract",
	"UpgradeVM_Task":                  "VirtualMachine.Config.UpgradeVirtualHardware",
	"StartProgramInGuest":             "VirtualMachine.GuestOperations.Execute",
	"ListProcessesInGuest":            "VirtualMachine.GuestOperations.Query",
	"TerminateProcessInGuest":         "VirtualMachine.GuestOperations.Execute",
	"CreateTemporaryDirectoryInGuest": "VirtualMachine.GuestOperations.Modify",
	"DeleteDirectoryInGuest":          "VirtualMachine.GuestOperations.Modify",
	"ListFilesInGuest":                "VirtualMachine.GuestOperations.Query",
	"InitiateFileTransferToGuest":     "VirtualMachine.GuestOperations.Modify",
	"InitiateFileTransferFromGuest":   "VirtualMachine.GuestOperations.Query",
	"CreateLocalDatastore":            "Host.Config.Storage",
	"DestroyDatastore":                "Datastore.Delete",
}

// Deny takes privileges from the administrator, by their ids in vSphere, such
// as "VirtualMachine.State.CreateSnapshot"; "*" takes all but System.*. Calls
// that need one are answered NoPermission, and HasPrivilegeOnEntities says so.
// It replaces what was denied before: with no argument everything is allowed.
func (s *Simulator) Deny(privileges ...string) {
	deny := map[string]bool{}
	for _, p := range privileges {
		deny[p] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deny = deny
}

// granted tells whether a user holds a privilege.
func (s *Simulator) granted(user, privilege string) bool {
	if strings.HasPrefix(privilege, "System.") {
		return true
	}
	if user == s.options.Reader && user != "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.deny["*"] && !s.deny[privilege]
}

// denied is the first privilege that a call lacks, "" if it may go on.
func (s *Simulator) denied(user string, m *simulator.Method) string {
	needed := []string{privileges[m.Name]}
	if req, ok := m.Body.(*types.ReconfigVM_Task); ok {
		needed = toReconfigure(&req.Spec)
	}
	for _, p := range needed {
		if p != "" && !s.granted(user, p) {
			return p
		}
	}
	return ""
}

// toReconfigure lists the privileges that a change of a machine needs.
func toReconfigure(spec *types.VirtualMachineConfigSpec) []string {
	var needed []string
	if spec.ChangeTrackingEnabled != nil {
		needed = append(needed, "VirtualMachine.Config.ChangeTracking")
	}
	if spec.ExtraConfig != nil {
		needed = append(needed, "VirtualMachine.Config.AdvancedConfig")
	}
	for _, c := range spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		_, isDisk := change.Device.(*types.VirtualDisk)
		switch {
		case !isDisk && change.Operation == types.VirtualDeviceConfigSpecOperationEdit:
			needed = append(needed, "VirtualMachine.Config.EditDevice")
		case !isDisk:
			needed = append(needed, "VirtualMachine.Config.AddRemoveDevice")
		case change.Operation == types.VirtualDeviceConfigSpecOperationRemove:
			needed = append(needed, "VirtualMachine.Config.RemoveDisk")
		case change.Operation == types.VirtualDeviceConfigSpecOperationEdit:
			needed = append(needed, "VirtualMachine.Config.DiskExtend")
		case change.FileOperation == "":
			needed = append(needed, "VirtualMachine.Config.AddExistingDisk")
		default:
			needed = append(needed, "VirtualMachine.Config.AddNewDisk")
		}
	}
	if needed == nil {
		needed = []string{"VirtualMachine.Config.Settings"}
	}
	return needed
}

func (s *Simulator) availability(user string, ids []string) []types.PrivilegeAvailability {
	list := make([]types.PrivilegeAvailability, 0, len(ids))
	for _, id := range ids {
		list = append(list, types.PrivilegeAvailability{PrivId: id, IsGranted: s.granted(user, id)})
	}
	return list
}

func hasPrivilegeOnEntities(s *Simulator, _ *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.HasPrivilegeOnEntities)
	res := new(types.HasPrivilegeOnEntitiesResponse)
	for _, e := range req.Entity {
		res.Returnval = append(res.Returnval, types.EntityPrivilege{Entity: e, PrivAvailability: s.availability(s.sessionUser(req.SessionId), req.PrivId)})
	}
	return &methods.HasPrivilegeOnEntitiesBody{Res: res}
}

func hasUserPrivilegeOnEntities(s *Simulator, _ *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.HasUserPrivilegeOnEntities)
	res := new(types.HasUserPrivilegeOnEntitiesResponse)
	for _, e := range req.Entities {
		res.Returnval = append(res.Returnval, types.EntityPrivilege{Entity: e, PrivAvailability: s.availability(req.UserName, req.PrivId)})
	}
	return &methods.HasUserPrivilegeOnEntitiesBody{Res: res}
}

func fetchUserPrivilegeOnEntities(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.FetchUserPrivilegeOnEntities)
	manager, ok := ctx.Map.Get(m.This).(*simulator.AuthorizationManager)
	if !ok {
		return nil
	}
	var held []string
	for _, p := range object.AuthorizationRoleList(manager.RoleList).ByName("Admin").Privilege {
		if s.granted(req.UserName, p) {
			held = append(held, p)
		}
	}
	res := new(types.FetchUserPrivilegeOnEntitiesResponse)
	for _, e := range req.Entities {
		res.Returnval = append(res.Returnval, types.UserPrivilegeResult{Entity: e, Privileges: held})
	}
	return &methods.FetchUserPrivilegeOnEntitiesBody{Res: res}
}

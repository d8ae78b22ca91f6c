package vmwaretest

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Customizations are the specifications that CustomizeVM_Task has accepted for
// this machine, oldest first. The guest takes its name and addresses from the
// last one when it is powered on next.
func (v *VM) Customizations() []types.CustomizationSpec {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return slices.Clone(v.customizations)
}

func customizeVM(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.CustomizeVM_Task)
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		if _, fault := s.wait(ctx, vm.CustomizeVMTask(ctx, req)); fault != nil {
			return nil, fault
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		v.customizations = append(v.customizations, req.Spec)
		v.pending = &req.Spec
		return nil, nil
	})
	return &methods.CustomizeVM_TaskBody{Res: &types.CustomizeVM_TaskResponse{Returnval: ref}}
}

// customize gives the guest what was asked for while it was off. s.mu is held.
func (v *VM) customize() {
	spec := v.pending
	if spec == nil {
		return
	}
	v.pending = nil
	domain := ""
	var name types.BaseCustomizationName
	switch id := spec.Identity.(type) {
	case *types.CustomizationLinuxPrep:
		name, domain = id.HostName, id.Domain
	case *types.CustomizationSysprep:
		name = id.UserData.ComputerName
	}
	if fixed, ok := name.(*types.CustomizationFixedName); ok {
		v.guest.HostName = strings.TrimSuffix(fixed.Name+"."+domain, ".")
	}
	nics := slices.Clone(v.guest.NICs)
	for i, card := range spec.NicSettingMap {
		if len(nics) == i {
			nics = append(nics, GuestNIC{})
		}
		nics[i].Domain = card.Adapter.DnsDomain
		if servers := card.Adapter.DnsServerList; servers != nil {
			nics[i].DNS = nil
			for _, server := range servers {
				if a, err := netip.ParseAddr(server); err == nil {
					nics[i].DNS = append(nics[i].DNS, a)
				}
			}
		}
		if ip, ok := card.Adapter.Ip.(*types.CustomizationFixedIp); ok {
			if a, err := netip.ParseAddr(ip.IpAddress); err == nil {
				nics[i].Addresses = []netip.Prefix{netip.PrefixFrom(a, maskBits(card.Adapter.SubnetMask))}
			}
		}
	}
	v.guest.NICs = nics
}

func maskBits(mask string) int {
	if ip := net.ParseIP(mask).To4(); ip != nil {
		if ones, bits := net.IPMask(ip).Size(); bits > 0 {
			return ones
		}
	}
	return 32
}

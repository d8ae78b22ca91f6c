package vmwaretest

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// leaseObject is what clients see of a lease; vcsim reads its properties.
type leaseObject struct{ mo.HttpNfcLease }

// lease is a transfer of a machine's disks by /nfc/ URLs. s.mu guards it.
type lease struct {
	object   *leaseObject
	vm       *VM
	export   bool
	holds    bool // the machine can't be powered on meanwhile
	disks    map[string]*leaseDisk
	deadline time.Time
	over     bool
}

type leaseDisk struct {
	key      string
	export   *content  // what is sent
	file     *vmdkFile // where what is received goes
	sum      []byte
	received int64
}

func exportVM(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	v := s.machine(m.This)
	turn := v.queue()
	turn.wait()
	defer turn.leave()
	body := &methods.ExportVmBody{}
	s.mu.Lock()
	on := v.on
	disks := map[int32]*content{}
	for key, f := range v.disks {
		disks[key] = f.content.clone()
	}
	s.mu.Unlock()
	if on {
		body.Fault_ = simulator.Fault("The machine must be powered off to be exported.", &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: types.VirtualMachinePowerStatePoweredOn,
		})
		return body
	}
	body.Res = &types.ExportVmResponse{Returnval: s.exportLease(ctx, v, disks, true)}
	return body
}

func exportSnapshot(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	sn, ok := ctx.Map.Get(m.This).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return nil // vcsim has the fault for it
	}
	v := s.machine(sn.Vm)
	turn := v.queue()
	turn.wait()
	defer turn.leave()
	s.mu.Lock()
	frozen, ok := v.snapshots[m.This]
	disks := map[int32]*content{}
	for key, f := range frozen {
		disks[key] = f.content
	}
	s.mu.Unlock()
	if !ok {
		return &methods.ExportSnapshotBody{Fault_: simulator.Fault("The snapshot is gone.", &types.ManagedObjectNotFound{Obj: m.This})}
	}
	return &methods.ExportSnapshotBody{Res: &types.ExportSnapshotResponse{Returnval: s.exportLease(ctx, v, disks, false)}}
}

func (s *Simulator) exportLease(ctx *simulator.Context, v *VM, disks map[int32]*content, holds bool) types.ManagedObjectReference {
	l := &lease{vm: v, export: true, holds: holds, disks: map[string]*leaseDisk{}}
	keys := make([]int32, 0, len(disks))
	var total int64
	for key, c := range disks {
		keys = append(keys, key)
		total += c.Size()
	}
	slices.Sort(keys)
	var urls []types.HttpNfcLeaseDeviceUrl
	for i, key := range keys {
		name := fmt.Sprintf("disk-%d.vmdk", i)
		device := fmt.Sprintf("/%s/VirtualDisk:%d", v.ref.Value, key)
		l.disks[name] = &leaseDisk{key: device, export: disks[key]}
		urls = append(urls, types.HttpNfcLeaseDeviceUrl{Key: device, Url: name, Disk: types.NewBool(true), TargetId: name})
	}
	return s.openLease(ctx, l, urls, total)
}

// importVApp makes the machine with its disks, which are then written through
// the lease.
func importVApp(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.ImportVApp)
	body := new(methods.ImportVAppBody)
	spec, ok := req.Spec.(*types.VirtualMachineImportSpec)
	if !ok || req.Folder == nil {
		body.Fault_ = invalid("spec")
		return body
	}
	folder, ok := ctx.Map.Get(*req.Folder).(*simulator.Folder)
	if !ok {
		body.Fault_ = invalid("folder")
		return body
	}
	task := s.task(ctx, folder.Self, "ImportVAppLRO", func() (types.AnyType, types.BaseMethodFault) {
		return s.create(ctx, folder, &types.CreateVM_Task{This: folder.Self, Config: spec.ConfigSpec, Pool: req.This, Host: req.Host})
	})
	made, fault := s.result(ctx, task)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	v := s.machine(made.(types.ManagedObjectReference))
	l := &lease{vm: v, holds: true, disks: map[string]*leaseDisk{}}
	var urls []types.HttpNfcLeaseDeviceUrl
	var total int64
	s.inspect(v.ref, func(_ *simulator.Context, vm *simulator.VirtualMachine) {
		list := object.VirtualDeviceList(vm.Config.Hardware.Device)
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, d := range disksOf(list) {
			name := fmt.Sprintf("disk-%d.vmdk", i)
			key := fmt.Sprintf("/%s/VirtualDisk:%d", v.ref.Value, d.Key)
			imported := fmt.Sprintf("/%s/%s:%d", vm.Name, list.Type(d), i)
			l.disks[name] = &leaseDisk{key: key, file: v.disks[d.Key]}
			total += d.CapacityInBytes
			urls = append(urls, types.HttpNfcLeaseDeviceUrl{Key: key, ImportKey: imported, Url: name, Disk: types.NewBool(true), TargetId: name})
		}
	})
	body.Res = &types.ImportVAppResponse{Returnval: s.openLease(ctx, l, urls, total)}
	return body
}

// openLease registers a lease that is ready at once.
func (s *Simulator) openLease(ctx *simulator.Context, l *lease, urls []types.HttpNfcLeaseDeviceUrl, total int64) types.ManagedObjectReference {
	id := uuid.NewString()
	l.object = new(leaseObject)
	l.object.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: id}
	l.object.State = types.HttpNfcLeaseStateReady
	for i := range urls {
		urls[i].Url = fmt.Sprintf("https://%s/nfc/%s/%s", s.URL.Host, id, urls[i].Url)
	}
	l.object.Info = &types.HttpNfcLeaseInfo{
		Lease: l.object.Self, Entity: l.vm.ref, DeviceUrl: urls, TotalDiskCapacityInKB: total / 1024,
		LeaseTimeout: int32(math.Ceil(s.options.LeaseTimeout.Seconds())),
	}
	s.mu.Lock()
	l.deadline = time.Now().Add(s.options.LeaseTimeout)
	s.leases[id] = l
	if l.holds {
		l.vm.exports++
	}
	s.mu.Unlock()
	ctx.Map.Put(l.object)
	return l.object.Self
}

// alive finds a lease that has not run out; expired says that it has.
func (s *Simulator) alive(id string) (l *lease, expired bool) {
	s.mu.Lock()
	l = s.leases[id]
	expired = l != nil && (l.over || time.Now().After(l.deadline))
	s.mu.Unlock()
	if l == nil || expired {
		if expired {
			s.expire(l)
		}
		return nil, expired
	}
	return l, false
}

// expireOverdue ends the leases that have run out, so that they hold nothing.
func (s *Simulator) expireOverdue() {
	now := time.Now()
	s.mu.Lock()
	var overdue []*lease
	for _, l := range s.leases {
		if !l.over && now.After(l.deadline) {
			overdue = append(overdue, l)
		}
	}
	s.mu.Unlock()
	for _, l := range overdue {
		s.expire(l)
	}
}

func (s *Simulator) expire(l *lease) {
	s.mu.Lock()
	was := l.over
	s.release(l)
	s.mu.Unlock()
	if was {
		return
	}
	ctx := s.context()
	ctx.WithLock(l.object, func() {
		ctx.Update(l.object, []types.PropertyChange{
			{Name: "state", Val: types.HttpNfcLeaseStateError},
			{Name: "error", Val: types.LocalizedMethodFault{Fault: &types.Timedout{}, LocalizedMessage: "lease timed out"}},
		})
	})
}

// release ends a lease's hold on its machine. s.mu is held.
func (s *Simulator) release(l *lease) {
	if !l.over && l.holds {
		l.vm.exports--
	}
	l.over, l.disks = true, nil
}

// leased finds what a URL of a lease names.
func (s *Simulator) leased(id, name string) (*lease, *leaseDisk) {
	l, _ := s.alive(id)
	if l == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return l, l.disks[name]
}

// ExpireLeases ends every lease as if its client had been silent for the
// timeout, and returns how many there were. Transfers under way break off.
func (s *Simulator) ExpireLeases() int {
	s.mu.Lock()
	var open []*lease
	for _, l := range s.leases {
		if !l.over {
			open = append(open, l)
		}
	}
	s.mu.Unlock()
	for _, l := range open {
		s.expire(l)
	}
	return len(open)
}

// Leases is how many leases were neither completed, aborted nor expired.
func (s *Simulator) Leases() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.leases {
		if !l.over && time.Now().Before(l.deadline) {
			n++
		}
	}
	return n
}

func leaseFault(ref types.ManagedObjectReference, expired bool) *soap.Fault {
	if expired {
		return simulator.Fault("The lease has timed out.", &types.Timedout{})
	}
	return simulator.Fault("managed object not found: "+ref.String(), &types.ManagedObjectNotFound{Obj: ref})
}

func leaseProgress(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	body := new(methods.HttpNfcLeaseProgressBody)
	l, expired := s.alive(m.This.Value)
	if l == nil {
		body.Fault_ = leaseFault(m.This, expired)
		return body
	}
	s.mu.Lock()
	l.deadline = time.Now().Add(s.options.LeaseTimeout)
	s.mu.Unlock()
	ctx.WithLock(l.object, func() {
		ctx.Update(l.object, []types.PropertyChange{{Name: "transferProgress", Val: m.Body.(*types.HttpNfcLeaseProgress).Percent}})
	})
	body.Res = new(types.HttpNfcLeaseProgressResponse)
	return body
}

// finish ends a lease for good and removes its object.
func (s *Simulator) finish(ctx *simulator.Context, ref types.ManagedObjectReference) (*lease, *soap.Fault) {
	l, expired := s.alive(ref.Value)
	if l == nil {
		return nil, leaseFault(ref, expired)
	}
	s.mu.Lock()
	s.release(l)
	delete(s.leases, ref.Value)
	s.mu.Unlock()
	ctx.Map.Remove(ctx, ref)
	return l, nil
}

func leaseComplete(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	body := new(methods.HttpNfcLeaseCompleteBody)
	if _, fault := s.finish(ctx, m.This); fault != nil {
		body.Fault_ = fault
		return body
	}
	body.Res = new(types.HttpNfcLeaseCompleteResponse)
	return body
}

// leaseAbort also removes the machine that an import was making.
func leaseAbort(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	body := new(methods.HttpNfcLeaseAbortBody)
	l, fault := s.finish(ctx, m.This)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	if !l.export {
		s.wait(ctx, destroy(s, ctx, &simulator.Method{Name: "Destroy_Task", This: l.vm.ref, Body: &types.Destroy_Task{This: l.vm.ref}}))
	}
	body.Res = new(types.HttpNfcLeaseAbortResponse)
	return body
}

func leaseManifest(s *Simulator, _ *simulator.Context, m *simulator.Method) soap.HasFault {
	body := new(methods.HttpNfcLeaseGetManifestBody)
	l, expired := s.alive(m.This.Value)
	if l == nil {
		body.Fault_ = leaseFault(m.This, expired)
		return body
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	body.Res = new(types.HttpNfcLeaseGetManifestResponse)
	for _, d := range l.disks {
		if d.sum != nil {
			body.Res.Returnval = append(body.Res.Returnval, types.HttpNfcLeaseManifestEntry{
				Key: d.key, Sha1: hex.EncodeToString(d.sum), Size: d.received, Disk: true,
			})
		}
	}
	return body
}

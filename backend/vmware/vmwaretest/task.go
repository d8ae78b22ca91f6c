package vmwaretest

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// outcome is how a task ends: its result, or its fault.
type outcome func() (types.AnyType, types.BaseMethodFault)

// task begins f as a task of ref. vcsim's own tasks hold their entity's lock
// from the call that asks for them to their end, so that nobody can read the
// entity meanwhile; f takes what it needs.
func (s *Simulator) task(ctx *simulator.Context, ref types.ManagedObjectReference, name string, f outcome) types.ManagedObjectReference {
	base := strings.TrimSuffix(name, "_Task")
	t := new(simulator.Task)
	t.Self = types.ManagedObjectReference{Type: "Task", Value: "task-" + uuid.NewString()}
	t.Info = types.TaskInfo{
		Key: t.Self.Value, Task: t.Self, Name: name,
		DescriptionId: ref.Type + "." + strings.ToLower(base[:1]) + base[1:],
		Entity:        &ref, EntityName: ref.Value,
		// Tasks are running from the start, queued or not: a waiting property
		// collector may read them while the state changes, without a lock.
		State:     types.TaskInfoStateRunning,
		Reason:    &types.TaskReasonUser{UserName: s.options.User},
		QueueTime: time.Now(), StartTime: types.NewTime(time.Now()),
	}
	done := make(chan struct{})
	s.mu.Lock()
	s.pending[t.Self] = done
	s.mu.Unlock()
	// Publishing changes the entity's recentTask, and lets views look around.
	s.vcsim.Lock()
	ctx.WithLock(ref, func() { ctx.Map.Put(t) })
	s.vcsim.Unlock()
	go func() {
		result, fault := f()
		s.finishTask(t, result, fault)
		s.mu.Lock()
		delete(s.pending, t.Self)
		s.mu.Unlock()
		close(done)
	}()
	return t.Self
}

func (s *Simulator) finishTask(t *simulator.Task, result types.AnyType, fault types.BaseMethodFault) {
	ctx := s.context()
	ctx.WithLock(t, func() {
		if t.Info.State != types.TaskInfoStateRunning {
			return // it was cancelled
		}
		changes := []types.PropertyChange{
			{Name: "info.completeTime", Val: time.Now()},
			{Name: "info.state", Val: types.TaskInfoStateSuccess},
			{Name: "info.result", Val: result},
		}
		if fault != nil {
			changes[1].Val = types.TaskInfoStateError
			changes[2] = types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{
				Fault: fault, LocalizedMessage: strings.TrimPrefix(fmt.Sprintf("%T", fault), "*types."),
			}}
		}
		ctx.Update(t, changes)
	})
}

// done returns once a task has ended.
func (s *Simulator) done(ctx *simulator.Context, ref types.ManagedObjectReference) {
	s.mu.Lock()
	pending := s.pending[ref]
	s.mu.Unlock()
	if pending != nil {
		<-pending
		return
	}
	t, ok := ctx.Map.Get(ref).(*simulator.Task)
	if !ok {
		return
	}
	// vcsim's own Task.Wait sleeps ten milliseconds at a time. The lock must not
	// be shared with the context in which the task runs.
	own := s.context()
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, time.Millisecond) {
		over := false
		own.WithLock(t, func() {
			over = t.Info.State == types.TaskInfoStateSuccess || t.Info.State == types.TaskInfoStateError
		})
		if over {
			return
		}
		time.Sleep(pause)
	}
}

// wait lets vcsim finish what it answered: a fault, or a task with a result.
func (s *Simulator) wait(ctx *simulator.Context, res soap.HasFault) (types.AnyType, types.BaseMethodFault) {
	if f := res.Fault(); f != nil {
		fault, ok := f.VimFault().(types.BaseMethodFault)
		if !ok {
			fault = &types.SystemError{Reason: f.String}
		}
		return nil, fault
	}
	ref := reflect.ValueOf(res).Elem().FieldByName("Res").Elem().FieldByName("Returnval").Interface().(types.ManagedObjectReference)
	return s.result(ctx, ref)
}

// result is how a task ended; it waits for that.
func (s *Simulator) result(ctx *simulator.Context, ref types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	s.done(ctx, ref)
	task := ctx.Map.Get(ref).(*simulator.Task)
	if task.Info.Error != nil {
		return nil, task.Info.Error.Fault
	}
	return task.Info.Result, nil
}

// turn is a machine's place in the queue of what is done to it. The caller
// waits before it begins and calls leave when it has ended.
type turn struct {
	before, mine chan struct{}
}

func (v *VM) queue() turn {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	t := turn{before: v.last, mine: make(chan struct{})}
	v.last = t.mine
	return t
}

// busy tells whether somebody else is at it.
func (t turn) busy() bool {
	if t.before == nil {
		return false
	}
	select {
	case <-t.before:
		return false
	default:
		return true
	}
}

func (t turn) wait() {
	if t.before != nil {
		<-t.before
	}
}

func (t turn) leave() { close(t.mine) }

// change is a task on one machine: v its bytes, vm its object, which is locked.
type change func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault)

// vmTask changes a machine when everything that was asked of it before is over,
// as vCenter queues what it doesn't refuse with TaskInProgress. What calls for
// a machine that is gone by then fails.
func (s *Simulator) vmTask(ctx *simulator.Context, ref types.ManagedObjectReference, name string, f change) types.ManagedObjectReference {
	return s.vmTaskAfter(ctx, ref, name, nil, f)
}

// vmTaskAfter does first before the machine's object is locked, and what that
// returns after it was unlocked.
func (s *Simulator) vmTaskAfter(ctx *simulator.Context, ref types.ManagedObjectReference, name string, first func(*VM) (last func(), fault types.BaseMethodFault), f change) types.ManagedObjectReference {
	v := s.machine(ref)
	t := v.queue()
	// A guest that was asked to shut down does so, and tests' hands wait.
	refuse := s.options.TaskInProgress && name != "ShutdownGuest" && name != "Power" && t.busy()
	return s.task(ctx, ref, name, func() (result types.AnyType, fault types.BaseMethodFault) {
		if refuse {
			go func() { t.wait(); t.leave() }()
			return nil, &types.TaskInProgress{Task: types.ManagedObjectReference{Type: "Task"}}
		}
		t.wait()
		defer t.leave()
		if first != nil {
			last, fault := first(v)
			if fault != nil {
				return nil, fault
			}
			defer last()
		}
		s.vcsim.Lock()
		defer s.vcsim.Unlock()
		vm, ok := ctx.Map.Get(ref).(*simulator.VirtualMachine)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: ref}
		}
		ctx.WithLock(vm, func() { result, fault = f(v, vm) })
		return result, fault
	})
}

// reading are the types of objects whose methods change no machine, no file and
// no folder. vcsim reads and writes datastores, hosts, pools and folders without
// their locks, so of everything else one runs at a time.
var reading = map[string]bool{
	"PropertyCollector": true, "PropertyFilter": true, "SessionManager": true, "ServiceInstance": true,
	"ContainerView": true, "ListView": true, "Task": true, "OptionManager": true, "AuthorizationManager": true,
}

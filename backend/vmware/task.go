package vmware

import (
	"context"
	"fmt"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Tasks are looked at again and again, rarer and rarer: most take a moment, and
// some take hours. Waiting for updates would tell a little sooner, but a wait
// whose answer is lost, or whose session ends, waits for ever.
const (
	firstLook = 10 * time.Millisecond
	lastLook  = 2 * time.Second
)

// run starts a task and waits until it has ended. Its error is explained. When
// ctx ends first the task goes on: whoever repeats the step finds what it did.
func (v *VSphere) run(ctx context.Context, start func() (*object.Task, error)) (types.AnyType, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := start()
	if err != nil {
		return nil, explain(err)
	}
	return v.await(ctx, t.Reference())
}

// await waits for a task.
func (v *VSphere) await(ctx context.Context, ref types.ManagedObjectReference) (types.AnyType, error) {
	limit, cancel := context.WithTimeoutCause(ctx, v.options.TaskLimit, fmt.Errorf("the task did not end within %s", v.options.TaskLimit))
	defer cancel()
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		var t mo.Task
		err := property.DefaultCollector(v.client).RetrieveOne(limit, ref, []string{"info"}, &t)
		switch {
		case limit.Err() != nil:
			return nil, context.Cause(limit)
		case err != nil:
			return nil, fmt.Errorf("the task %s was lost sight of: %w", ref.Value, explain(err))
		case t.Info.State == types.TaskInfoStateSuccess:
			return t.Info.Result, nil
		case t.Info.State == types.TaskInfoStateError:
			return nil, explain(task.Error{LocalizedMethodFault: t.Info.Error, Description: t.Info.Description})
		}
		select {
		case <-time.After(wait):
		case <-limit.Done():
			return nil, context.Cause(limit)
		}
	}
}

// reconfigure changes a machine's configuration; see fence.go for a machine that
// is changed under fences.
func (v *VSphere) reconfigure(ctx context.Context, m *machine, spec types.VirtualMachineConfigSpec) error {
	if m.guard.asked != nil {
		return v.conditional(ctx, m, spec)
	}
	return v.reconfigureAt(ctx, m, spec)
}

// reconfigureAt is reconfigure with the condition that spec has, if any.
func (v *VSphere) reconfigureAt(ctx context.Context, m *machine, spec types.VirtualMachineConfigSpec) error {
	_, err := v.run(ctx, func() (*object.Task, error) {
		return object.NewVirtualMachine(v.client, m.ref).Reconfigure(ctx, spec)
	})
	return err
}

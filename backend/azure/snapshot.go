package azure

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// snapshotName is never given twice to different content: what holds an
// attempt's or a generation's number. It is the name of a resource.
func (a *Azure) snapshotName(m *machine, disk dr.DiskID, what string) string {
	return "lb-" + short("snapshot", string(m.id), string(disk), what)
}

// snap freezes a managed disk as an incremental snapshot, and waits until it is
// complete. One of the name is that moment already.
func (a *Azure) snap(ctx context.Context, m *machine, d diskRecord, name string, point dr.PointID) error {
	tags := map[string]*string{tagMachine: to.Ptr(string(m.id)), tagDisk: to.Ptr(tagValue(string(d.ID)))}
	if point != "" {
		tags[tagPoint] = to.Ptr(string(point))
	}
	s := armcompute.Snapshot{Location: to.Ptr(a.opts.Location), Tags: tags, Properties: &armcompute.SnapshotProperties{
		Incremental:  to.Ptr(true),
		CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: to.Ptr(d.Disk)}}}
	p, err := answered(ctx, func(ctx context.Context) (*runtime.Poller[armcompute.SnapshotsClientCreateOrUpdateResponse], error) {
		return a.snapshots.BeginCreateOrUpdate(ctx, a.opts.ResourceGroup, name, s, nil)
	})
	resp, err := await(ctx, a, p, err)
	if status, _ := codeOf(err); status == http.StatusTooManyRequests {
		// The subscription is throttled with the same answer; then to wait is
		// right as well.
		return remedied(fmt.Errorf("%w: %w", dr.ErrBusy, explain(err)), remedies["TooManySnapshotRequests"].remedy)
	}
	if err != nil {
		return explain(err)
	}
	for got := resp.Snapshot; got.Properties != nil && got.Properties.CompletionPercent != nil && *got.Properties.CompletionPercent < 100; {
		if e := got.Properties.CopyCompletionError; e != nil {
			return fmt.Errorf("snapshot %s failed: %s: %s", name, deref(e.ErrorCode), deref(e.ErrorMessage))
		}
		if err := sleep(ctx, a.opts.Poll); err != nil {
			return err
		}
		g, err := a.snapshots.Get(ctx, a.opts.ResourceGroup, name, nil)
		if err != nil {
			return explain(err)
		}
		got = g.Snapshot
	}
	return nil
}

// unsnap deletes a snapshot, and before that takes back whatever it can be read
// by. One that isn't there is no error.
func (a *Azure) unsnap(ctx context.Context, name string) error {
	if err := a.grants.drop(ctx, name); err != nil {
		return err
	}
	for try := 0; ; try++ {
		p, err := a.snapshots.BeginDelete(ctx, a.opts.ResourceGroup, name, nil)
		_, err = await(ctx, a, p, err)
		status, _ := codeOf(err)
		switch {
		case err == nil, status == http.StatusNotFound:
			return nil
		case status == http.StatusConflict && try == 0:
			// Another process, dead or not, may have it granted.
			if err := a.revokeSnapshot(ctx, name); err != nil {
				return err
			}
		default:
			return explain(err)
		}
	}
}

func (a *Azure) revokeSnapshot(ctx context.Context, name string) error {
	p, err := a.snapshots.BeginRevokeAccess(ctx, a.opts.ResourceGroup, name, nil)
	if _, err := await(ctx, a, p, err); err != nil && !isNotFound(err) {
		return explain(err)
	}
	return nil
}

// graceTime is what is given to cleaning up when a context has ended.
const graceTime = 30 * time.Second

// answered calls what makes something, and waits for the answer even if ctx ends
// meanwhile, for the grace time at most. A call that is cut off may have its
// effect after what it made was looked for and deleted.
func answered[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		late, end := grace(ctx)
		defer end()
		select {
		case <-late.Done():
			cancel()
		case <-longer.Done():
		}
	})
	defer stop()
	return call(longer)
}

// grace is a context in which one can still clean up.
func grace(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), graceTime)
}

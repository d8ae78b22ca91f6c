package pageblob

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/lease"
	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	leaseSeconds = 60
	leaseRenewed = 20 * time.Second
	// releasing is how long giving leases back may take.
	releasing = 5 * time.Second
)

// leases are held on the page blobs that one pass of Process writes, all of one
// ID. Whoever has another one is refused by the service, whatever he believes.
type leases struct {
	s    *Store
	id   string
	stop func()
	done chan struct{}

	mu    sync.Mutex
	names []string
}

// lease begins to hold leases. They are renewed until release is called; the
// context returned ends when one is lost.
func (s *Store) lease(ctx context.Context) (context.Context, *leases) {
	ctx, cancel := context.WithCancelCause(ctx)
	rctx, stop := context.WithCancel(ctx)
	l := &leases{s: s, id: uuid.NewString(), stop: func() { stop(); cancel(nil) }, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		t := time.NewTicker(leaseRenewed)
		defer t.Stop()
		for {
			select {
			case <-rctx.Done():
				return
			case <-t.C:
			}
			for _, name := range l.held() {
				_, err := l.client(name).RenewLease(rctx, nil)
				switch {
				case err == nil || rctx.Err() != nil:
				case isLeaseLost(err):
					cancel(err)
					return
				default:
					// The next time may do, before it runs out.
					s.log.Warn("a lease was not renewed", "object", name, "error", plain(err).Error())
				}
			}
		}
	}()
	return ctx, l
}

func (l *leases) held() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.names...)
}

func (l *leases) client(name string) *lease.BlobClient {
	c, err := lease.NewBlobClient(l.s.c.NewBlobClient(name), &lease.BlobClientOptions{LeaseID: &l.id})
	if err != nil {
		panic(err) // only for an ID that is none
	}
	return c
}

// take takes a blob's lease, from whoever has it if turn says that it is ours:
// a dead process's lease is not waited for.
func (l *leases) take(ctx context.Context, name string, turn func(context.Context) error) error {
	c := l.client(name)
	const tries = 5
	for range tries {
		_, err := c.AcquireLease(ctx, leaseSeconds, nil)
		if err == nil {
			l.mu.Lock()
			l.names = append(l.names, name)
			l.mu.Unlock()
			return nil
		}
		if !bloberror.HasCode(err, bloberror.LeaseAlreadyPresent) {
			return err
		}
		if err := turn(ctx); err != nil {
			return err
		}
		if err := l.s.breakLease(ctx, name); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the lease of %s is taken again and again", dr.ErrBusy, name)
}

// breakLease ends the lease of a blob, whoever has it.
func (s *Store) breakLease(ctx context.Context, name string) error {
	c, err := lease.NewBlobClient(s.c.NewBlobClient(name), nil)
	if err != nil {
		return err
	}
	_, err = c.BreakLease(ctx, &lease.BlobBreakOptions{BreakPeriod: to.Ptr(int32(0))})
	if bloberror.HasCode(err, bloberror.LeaseNotPresentWithLeaseOperation) {
		return nil
	}
	return err
}

// release gives the leases back. If that fails they run out, or are broken by
// who comes next.
func (l *leases) release(ctx context.Context) {
	l.stop()
	<-l.done
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
	defer cancel()
	for _, name := range l.held() {
		if _, err := l.client(name).ReleaseLease(ctx, nil); err != nil && !isLeaseLost(err) {
			l.s.log.Warn("a lease runs out by itself", "object", name, "error", plain(err).Error())
		}
	}
}

// condition makes a request fail unless the lease is held.
func (l *leases) condition() *blob.AccessConditions {
	return &blob.AccessConditions{LeaseAccessConditions: &blob.LeaseAccessConditions{LeaseID: &l.id}}
}

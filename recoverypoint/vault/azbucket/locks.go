package azbucket

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/lease"
	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

var _ vault.Locker = (*Bucket)(nil)

// lockFolder has the blobs that are leased. Its '!' is no byte of objects' names.
const lockFolder = "!lock/"

// leaseTime is the longest that Azure leases for, and how long a lock outlives a
// process that was killed. It is renewed when a quarter of it has passed.
const leaseTime = 60 * time.Second

// lockTable is what a bucket holds. Holders in one process share a lease, so
// that a point which is open a hundred times is pinned once.
type lockTable struct {
	lease time.Duration // tests make it short

	mu    sync.Mutex
	turns map[string]*sync.Mutex // who takes or lets go of a lock
	held  map[string]*lock
}

// lock is a lease that is renewed until it is let go of, or lost.
type lock struct {
	name      string
	exclusive bool
	holders   int // 0 and no lease: granted without being taken
	blob      *blockblob.Client
	lease     *lease.BlobClient
	stop      func() // ends the renewal and waits for it

	mu    sync.Mutex
	until time.Time // ours for sure until then
	lost  error
}

// Lock implements [vault.Locker] by leases on blobs. An exclusive lock is a lease
// on the lock's one blob, a shared one is a lease on a blob of its own; each
// looks for the other's after its own is there, so that of two who come at once
// one gives way, or both do.
//
// A lease ends by itself, a minute after its holder was killed or cut off. Who
// comes back and finds an exclusive lock lost, or not renewed in time, can't
// change anything in the bucket until he lets go of it: Commit, SwapHead and
// Delete fail with dr.ErrBusy. A shared lock that is lost is not told: what it
// kept may be deleted.
//
// To whom writing isn't permitted, shared locks are granted without being taken:
// see to it that nobody prunes the vault at that time.
func (b *Bucket) Lock(ctx context.Context, name string, exclusive bool) (io.Closer, error) {
	blobName, err := blobName(name)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return nil, err
	}
	t := &b.locks
	t.mu.Lock()
	turn := t.turns[name]
	if turn == nil {
		turn = &sync.Mutex{}
		t.turns[name] = turn
	}
	t.mu.Unlock()
	turn.Lock()
	defer turn.Unlock()

	t.mu.Lock()
	l := t.held[name]
	t.mu.Unlock()
	if l != nil && (exclusive || l.exclusive) {
		return nil, fmt.Errorf("%w: lock %s", dr.ErrBusy, name)
	}
	if l == nil || l.gone() {
		l = &lock{name: name, exclusive: exclusive}
		if err := b.take(ctx, l, lockFolder+blobName); err != nil {
			return nil, err
		}
		t.mu.Lock()
		t.held[name] = l
		t.mu.Unlock()
	}
	l.holders++
	return closer(sync.OnceValue(func() error {
		turn.Lock()
		defer turn.Unlock()
		if l.holders--; l.holders > 0 {
			return nil
		}
		err := b.drop(l)
		t.mu.Lock()
		if t.held[name] == l {
			delete(t.held, name)
		}
		t.mu.Unlock()
		return err
	})), nil
}

type closer func() error

func (f closer) Close() error { return f() }

// take leases the lock's blob and makes sure that nobody else has one.
func (b *Bucket) take(ctx context.Context, l *lock, folder string) (err error) {
	name := folder + "/x"
	if !l.exclusive {
		n := newNonce()
		name = folder + "/s-" + hex.EncodeToString(n[:])
	}
	l.stop = func() {}
	l.blob = b.c.NewBlockBlobClient(name)
	id := uuid.NewString() // with it a second try gets what the first one got
	if l.lease, err = lease.NewBlobClient(l.blob, &lease.BlobClientOptions{LeaseID: &id}); err != nil {
		return failed("lock", l.name, err)
	}
	var asked time.Time
	acquire := func() error {
		asked = time.Now()
		_, err := l.lease.AcquireLease(ctx, int32(b.locks.lease/time.Second), nil)
		return err
	}
	if l.exclusive {
		err = acquire() // the blob stays, once it is made
	}
	if !l.exclusive || missing(err) {
		_, err = l.blob.Upload(ctx, streaming.NopCloser(bytes.NewReader(nil)), &blockblob.UploadOptions{AccessConditions: ifAbsent()})
		if !l.exclusive && bloberror.HasCode(err, bloberror.AuthorizationPermissionMismatch) {
			l.blob = nil
			return nil
		}
		// Somebody else may have made it, and leased it.
		if err == nil || refused(err) || bloberror.HasCode(err, bloberror.LeaseIDMissing) {
			err = acquire()
		}
	}
	switch {
	case bloberror.HasCode(err, bloberror.LeaseAlreadyPresent), missing(err):
		return busy(l.name)
	case err != nil:
		// It may be ours without our knowing.
		return errors.Join(failed("lock", l.name, err), b.drop(l))
	}
	l.until = asked.Add(b.locks.lease)
	if err := b.alone(ctx, l, folder); err != nil {
		return errors.Join(err, b.drop(l))
	}
	// The lock is good until it is closed, whatever ends before.
	renewing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	l.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		l.renew(renewing, b.locks.lease)
	}()
	return nil
}

// gone tells that a lock isn't its holders' any more, or may not be.
func (l *lock) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost != nil || l.blob != nil && passed(l.until)
}

// passed tells whether a moment is over. Some clocks stand still while the
// machine sleeps, the other may be set.
func passed(t time.Time) bool {
	now := time.Now()
	return now.After(t) || now.Round(0).After(t.Round(0))
}

func busy(name string) error { return fmt.Errorf("%w: lock %s", dr.ErrBusy, name) }

// alone looks for leases that exclude l. What others left whose leases have ended
// is removed.
func (b *Bucket) alone(ctx context.Context, l *lock, folder string) error {
	if !l.exclusive {
		p, err := b.c.NewBlobClient(folder+"/x").GetProperties(ctx, nil)
		switch {
		case missing(err):
			return nil
		case err != nil:
			return failed("lock", l.name, err)
		case p.LeaseState == nil || leased(*p.LeaseState):
			return busy(l.name)
		}
		return nil
	}
	prefix := folder + "/s-"
	pages := b.c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix})
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return failed("lock", l.name, err)
		}
		for _, item := range page.Segment.BlobItems {
			if item.Properties.LeaseState == nil || leased(*item.Properties.LeaseState) {
				return busy(l.name)
			}
			// It fails if the blob was leased just now.
			if _, err := b.c.NewBlobClient(*item.Name).Delete(ctx, nil); err != nil && !missing(err) {
				if bloberror.HasCode(err, bloberror.LeaseIDMissing) {
					return busy(l.name)
				}
				return failed("lock", l.name, err)
			}
		}
	}
	return nil
}

func leased(s lease.StateType) bool {
	return s == lease.StateTypeLeased || s == lease.StateTypeBreaking
}

// renew keeps the lease, until it is somebody else's.
func (l *lock) renew(ctx context.Context, length time.Duration) {
	wait := length / 4
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		asked := time.Now()
		try, cancel := context.WithTimeout(ctx, length/4)
		_, err := l.lease.RenewLease(try, nil)
		cancel()
		l.mu.Lock()
		switch {
		case err == nil:
			l.until = asked.Add(length)
			wait = length / 4
		case missing(err), bloberror.HasCode(err, bloberror.LeaseIDMismatchWithLeaseOperation, bloberror.LeaseNotPresentWithLeaseOperation, bloberror.LeaseLost, bloberror.LeaseIsBrokenAndCannotBeRenewed):
			l.lost = failed("renew lock", l.name, err)
			l.mu.Unlock()
			return
		default:
			// As long as nobody else takes it, it can be renewed late.
			wait = length / 20
		}
		l.mu.Unlock()
	}
}

// drop lets go of a lease. One that is lost, or can't be reached, ends by itself.
func (b *Bucket) drop(l *lock) error {
	l.stop()
	if l.blob == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.locks.lease)
	defer cancel()
	if l.exclusive {
		_, _ = l.lease.ReleaseLease(ctx, nil)
		return nil
	}
	_, _ = l.blob.Delete(ctx, &blob.DeleteOptions{AccessConditions: &blob.AccessConditions{LeaseAccessConditions: &blob.LeaseAccessConditions{LeaseID: l.lease.LeaseID()}}})
	return nil
}

// mayChange refuses changes to who lost an exclusive lock. What is on its way at
// that moment may still come after another's changes; that those are not undone by
// it is the business of heads and of the vault.
func (b *Bucket) mayChange() error {
	b.locks.mu.Lock()
	defer b.locks.mu.Unlock()
	for _, l := range b.locks.held {
		if !l.exclusive {
			continue
		}
		l.mu.Lock()
		end, lost := l.until, l.lost
		l.mu.Unlock()
		if lost == nil && passed(end) {
			lost = errors.New("it could not be renewed in time")
		}
		if lost != nil {
			return fmt.Errorf("%w: lock %s was lost, and another process may be writing: %w", dr.ErrBusy, l.name, lost)
		}
	}
	return nil
}

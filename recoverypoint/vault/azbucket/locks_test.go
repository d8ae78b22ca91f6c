package azbucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/lease"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// two are the buckets of two processes on one container.
func two(t testing.TB, service string) (*Bucket, *Bucket) {
	a := New(services[service](t, quick), Options{})
	return a, New(a.c, Options{})
}

func locked(t testing.TB, b *Bucket, name string, exclusive bool) io.Closer {
	t.Helper()
	l, err := b.Lock(t.Context(), name, exclusive)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func isBusy(t testing.TB, b *Bucket, name string, exclusive bool) {
	t.Helper()
	_, err := b.Lock(t.Context(), name, exclusive)
	require.ErrorIs(t, err, dr.ErrBusy)
}

func TestLocksKeepProcessesApart(t *testing.T) { each(t, testLocksKeepProcessesApart) }

func testLocksKeepProcessesApart(t *testing.T, service string) {
	a, b := two(t, service)
	x := locked(t, a, "l", true)
	isBusy(t, b, "l", true)
	isBusy(t, b, "l", false)
	locked(t, b, "other", true)
	require.NoError(t, x.Close())
	require.NoError(t, x.Close())
	s1, s2, s3 := locked(t, a, "l", false), locked(t, b, "l", false), locked(t, b, "l", false)
	for _, s := range []io.Closer{s1, s2, s3} {
		isBusy(t, a, "l", true)
		isBusy(t, b, "l", true)
		require.NoError(t, s.Close())
	}
	require.NoError(t, locked(t, b, "l", true).Close())
	require.NoError(t, locked(t, a, "l", true).Close())
}

// Whoever comes in has what the kind of his lock promises.
func TestLocksUnderContention(t *testing.T) { each(t, testLocksUnderContention) }

func testLocksUnderContention(t *testing.T, service string) {
	first := New(services[service](t, quick), Options{})
	var readers, writers, got atomic.Int32
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			b := New(first.c, Options{})
			exclusive := i%3 == 0
			for range 15 {
				l, err := b.Lock(t.Context(), "l", exclusive)
				if errors.Is(err, dr.ErrBusy) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				got.Add(1)
				if exclusive {
					if writers.Add(1) > 1 || readers.Load() > 0 {
						t.Error("an exclusive lock is not")
					}
				} else if readers.Add(1); writers.Load() > 0 {
					t.Error("shared beside exclusive")
				}
				if exclusive {
					writers.Add(-1)
				} else {
					readers.Add(-1)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, got.Load())
}

// die leaves a bucket as the end of its process does, a minute later.
func die(t testing.TB, b *Bucket) {
	t.Helper()
	b.locks.mu.Lock()
	for _, l := range b.locks.held {
		l.stop()
	}
	b.locks.mu.Unlock()
	prefix := lockFolder
	pages := b.c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix})
	for pages.More() {
		page, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		for _, item := range page.Segment.BlobItems {
			if leased(*item.Properties.LeaseState) {
				takeAway(t, b, *item.Name)
			}
		}
	}
}

// takeAway ends a lease, as time does when its holder is cut off.
func takeAway(t testing.TB, b *Bucket, name string) {
	t.Helper()
	c, err := lease.NewBlobClient(b.c.NewBlobClient(name), nil)
	require.NoError(t, err)
	_, err = c.BreakLease(t.Context(), &lease.BlobBreakOptions{BreakPeriod: to.Ptr(int32(0))})
	require.NoError(t, err)
}

func TestWhoLostTheWritersLockChangesNothing(t *testing.T) {
	each(t, testWhoLostTheWritersLockChangesNothing)
}

func testWhoLostTheWritersLockChangesNothing(t *testing.T, service string) {
	a, b := two(t, service)
	a.locks.lease = 15 * time.Second
	w, err := a.Create(t.Context(), "late")
	require.NoError(t, err)
	_, err = w.WriteAt([]byte("late"), 0)
	require.NoError(t, err)
	require.NoError(t, put(t.Context(), a, "there", []byte("x")))
	v, err := a.SwapHead(t.Context(), "head", "", []byte("one"))
	require.NoError(t, err)

	l := locked(t, a, "writer", true)
	takeAway(t, a, lockFolder+"writer/x")
	other := locked(t, b, "writer", true)
	require.Eventually(t, func() bool {
		err := a.Delete(t.Context(), "there")
		return errors.Is(err, dr.ErrBusy)
	}, 12*time.Second, 50*time.Millisecond, "the renewal finds out before the lease would have ended")
	require.NoError(t, put(t.Context(), b, "there", []byte("x")), "it was deleted before")
	_, err = a.SwapHead(t.Context(), "head", v, []byte("two"))
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "lock writer was lost")
	require.ErrorIs(t, w.Commit(t.Context()), dr.ErrBusy)
	require.NoError(t, l.Close())

	isBusy(t, a, "writer", true)
	require.NoError(t, other.Close(), "and it was not the other's that was released")
	locked(t, a, "writer", true)
	require.NoError(t, put(t.Context(), a, "again", []byte("x")))
	data, _, err := b.ReadHead(t.Context(), "head")
	require.NoError(t, err)
	require.Equal(t, "one", string(data))
}

// A lease that isn't renewed ends, and one that is does not.
func TestALockOutlivesItsProcessByItsLease(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for a lease to end")
	}
	t.Parallel()
	dead, b := two(t, "azurite")
	dead.locks.lease, b.locks.lease = 15*time.Second, 15*time.Second
	locked(t, b, "renewed", true)
	for _, name := range []string{"x", "s"} {
		locked(t, dead, name, name == "x")
		dead.locks.held[name].stop() // as its process's end does
	}
	began := time.Now()
	isBusy(t, b, "x", false)
	isBusy(t, b, "s", true)
	require.Eventually(t, func() bool {
		l, err := b.Lock(t.Context(), "x", true)
		if err == nil {
			l.Close()
			l, err = b.Lock(t.Context(), "s", true)
		}
		if err == nil {
			l.Close()
		}
		return err == nil
	}, 40*time.Second, 200*time.Millisecond)
	require.Greater(t, time.Since(began), 12*time.Second)
	isBusy(t, dead, "renewed", true)
	require.ErrorIs(t, dead.Delete(t.Context(), "nothing"), dr.ErrBusy)
}

// A clock that runs on without a renewal is enough to stop.
func TestALockThatWasNotRenewedInTimeAllowsNothing(t *testing.T) {
	a, _ := two(t, "azurite")
	l := locked(t, a, "writer", true)
	require.NoError(t, a.Delete(t.Context(), "x"))
	held := a.locks.held["writer"]
	held.mu.Lock()
	held.until = time.Now().Add(-time.Nanosecond)
	held.mu.Unlock()
	require.ErrorIs(t, a.Delete(t.Context(), "x"), dr.ErrBusy)
	require.NoError(t, l.Close())
	require.NoError(t, a.Delete(t.Context(), "x"))
}

func TestLocksWhenEachRequestGoesWrongOnce(t *testing.T) {
	each(t, testLocksWhenEachRequestGoesWrongOnce)
}

func testLocksWhenEachRequestGoesWrongOnce(t *testing.T, service string) {
	for _, f := range allFaults {
		t.Run(string(f), func(t *testing.T) {
			b, w := broken(t, service, Options{}, 4)
			for n := 1; ; n++ {
				other := New(b.c, Options{})
				w.arm(n, f, nil)
				for _, exclusive := range []bool{true, false} {
					l, err := b.Lock(t.Context(), fmt.Sprintf("l%d", n), exclusive)
					require.NoError(t, err)
					require.NoError(t, l.Close())
				}
				calls := w.count()
				w.arm(0, "", nil)
				require.NoError(t, locked(t, other, fmt.Sprintf("l%d", n), true).Close(), "nothing is left, call %d", n)
				if calls < n {
					require.Greater(t, n, 7)
					return
				}
			}
		})
	}
}

// With a signature that allows reading only, points are read all the same.
func TestReadingNeedsNoRightToWrite(t *testing.T) {
	s := azurite.Start(t)
	c := s.Container(t, "")
	content := noise(3, diskSize)
	require.NoError(t, store(t.Context(), openVault(t, New(c, Options{}), vault.Options{}), point("1", ""), content))
	url, err := c.GetSASURL(sas.ContainerPermissions{Read: true, List: true}, time.Now().Add(time.Hour), nil)
	require.NoError(t, err)
	reader, err := container.NewClientWithNoCredential(url, nil)
	require.NoError(t, err)
	v := openVault(t, New(reader, Options{}), vault.Options{Existing: true})
	holds(t, v, "1", content)
	err = store(t.Context(), v, point("2", "1"), content)
	require.ErrorContains(t, err, "AuthorizationPermissionMismatch")
	require.NotContains(t, err.Error(), "sig=")
}

func TestAVaultOfTwoProcesses(t *testing.T) { each(t, testAVaultOfTwoProcesses) }

func testAVaultOfTwoProcesses(t *testing.T, service string) {
	a, b := two(t, service)
	va, vb := openVault(t, a, vault.Options{}), openVault(t, b, vault.Options{})
	first, second := noise(1, diskSize), noise(2, diskSize)
	require.NoError(t, store(t.Context(), va, point("1", ""), first))
	img, err := vb.Open(t.Context(), "m", "1")
	require.NoError(t, err)
	d, err := va.Create(t.Context(), point("2", "1"))
	require.NoError(t, err)
	_, err = vb.Create(t.Context(), point("3", "1"))
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "another process is writing")
	_, err = d.WriteAt(t.Context(), "a", second, 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), point("2", "1")))
	require.NoError(t, d.Close())
	require.NoError(t, va.Delete(t.Context(), "m", "1"))
	_, err = va.Prune(t.Context())
	require.NoError(t, err)
	p := make([]byte, diskSize)
	_, err = img.ReadAt(t.Context(), "a", p, 0)
	require.NoError(t, err, "the other process has it open")
	require.True(t, bytes.Equal(first, p))
	require.NoError(t, img.Close())
	_, err = vb.Prune(t.Context())
	require.NoError(t, err)
	_, err = vb.Open(t.Context(), "m", "1")
	require.ErrorIs(t, err, dr.ErrNotFound)
	holds(t, va, "2", second)
}

func TestForeignBlobsArePassedOver(t *testing.T) {
	b := on(t, Options{})
	for _, name := range []string{"some thing", "!x", "a//b", "ä"} {
		_, err := b.c.NewBlockBlobClient(name).UploadBuffer(context.Background(), []byte("x"), &blockblob.UploadBufferOptions{})
		require.NoError(t, err)
	}
	require.NoError(t, put(t.Context(), b, "ours", []byte("x")))
	for o, err := range b.List(t.Context(), "") {
		require.NoError(t, err)
		require.Equal(t, "ours", o.Name)
	}
}

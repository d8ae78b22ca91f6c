package azbucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/pointstoretest"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

func openVault(t testing.TB, b vault.Bucket, o vault.Options) *vault.Store {
	t.Helper()
	v, err := vault.Open(t.Context(), b, o)
	require.NoError(t, err)
	t.Cleanup(func() { v.Close() })
	return v
}

func TestConformance(t *testing.T) {
	each(t, testConformance)
}

func testConformance(t *testing.T, service string) {
	var mu sync.Mutex
	buckets := map[recoverypoint.PointStore]*Bucket{}
	open := func(t testing.TB, c *container.Client) recoverypoint.PointStore {
		b := New(c, Options{})
		v := openVault(t, b, vault.Options{})
		mu.Lock()
		defer mu.Unlock()
		buckets[v] = b
		return v
	}
	pointstoretest.Run(t, pointstoretest.Harness{
		Histories: 3,
		Open: func(t testing.TB) recoverypoint.PointStore {
			return open(t, services[service](t, quick))
		},
		Reopen: func(t testing.TB, s recoverypoint.PointStore) recoverypoint.PointStore {
			mu.Lock()
			b := buckets[s]
			mu.Unlock()
			die(t, b)
			return open(t, b.c)
		},
	})
}

const diskSize = 1 << 20

func point(id, parent dr.PointID) dr.Point {
	return dr.Point{ID: id, Parent: parent, Time: time.Unix(int64(id[0]), 0).UTC(), Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: diskSize}}}}
}

// store puts a point with that content.
func store(ctx context.Context, v *vault.Store, p dr.Point, content []byte) error {
	d, err := v.Create(ctx, p)
	if err != nil {
		return err
	}
	_, err = d.WriteAt(ctx, "a", content, 0)
	if err == nil {
		err = d.Commit(ctx, p)
	}
	return errors.Join(err, d.Close())
}

func holds(t testing.TB, v *vault.Store, id dr.PointID, want []byte) {
	t.Helper()
	img, err := v.Open(t.Context(), "m", id)
	require.NoError(t, err)
	defer img.Close()
	p := make([]byte, len(want))
	_, err = img.ReadAt(t.Context(), "a", p, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, p), "point %s", id)
}

// A fault at each request over a whole life: two points, one deleted, a prune. A
// client that tries again hides it; without that, who runs it again comes
// through, and no point is ever damaged.
func TestAVaultOutlivesEachFault(t *testing.T) { each(t, testVaultOutlivesEachFault) }

func testVaultOutlivesEachFault(t *testing.T, service string) {
	first, second := noise(1, diskSize), noise(2, diskSize)
	step, faults := 1, allFaults
	if service == "azurite" && testing.Short() {
		t.Skip("it is slow, and the other shows it")
	}
	if service == "azurite" {
		step, faults = 4, []fault{lost} // it is slow
	}
	for _, tries := range []int32{1, 3} {
		for _, f := range faults {
			if tries == 1 && f == halved {
				continue // what is read is asked for again all the same
			}
			t.Run(fmt.Sprintf("%s, %d tries", f, tries), func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n += step {
					b, w := broken(t, service, Options{BlockSize: 256 << 10}, tries)
					v := openVault(t, b, vault.Options{})
					require.NoError(t, store(t.Context(), v, point("1", ""), first))
					w.arm(n, f, noLock) // locks have a test of their own
					life := func() error {
						v, err := vault.Open(t.Context(), b, vault.Options{})
						if err != nil {
							return err
						}
						defer v.Close()
						if err := store(t.Context(), v, point("2", "1"), second); err != nil {
							return err
						}
						if err := v.Delete(t.Context(), "m", "1"); err != nil {
							return err
						}
						_, err = v.Prune(t.Context())
						return err
					}
					err := life()
					calls := w.count()
					w.arm(0, "", nil)
					die(t, b) // of a lease nothing may be known
					b = New(b.c, Options{})
					if tries > 1 {
						require.NoError(t, err, "call %d", n)
					} else if err != nil {
						fresh := openVault(t, b, vault.Options{})
						if img, oerr := fresh.Open(t.Context(), "m", "2"); oerr == nil {
							require.NoError(t, img.Close())
							holds(t, fresh, "2", second)
						} else {
							require.ErrorIs(t, oerr, dr.ErrNotFound, "call %d", n)
							holds(t, fresh, "1", first)
						}
						require.NoError(t, rerun(t.Context(), b, second), "call %d", n)
					}
					after := openVault(t, b, vault.Options{})
					holds(t, after, "2", second)
					for damage, err := range after.Scrub(t.Context()) {
						require.NoError(t, err)
						t.Fatalf("call %d: %v", n, damage)
					}
					if calls < n {
						t.Logf("%d requests", calls)
						require.Greater(t, n, 10)
						return
					}
				}
			})
		}
	}
}

func noLock(r *http.Request) bool { return !strings.Contains(r.URL.String(), "lock%2F") }

// rerun does what a life did, whatever of it is done.
func rerun(ctx context.Context, b *Bucket, content []byte) error {
	v, err := vault.Open(ctx, b, vault.Options{})
	if err != nil {
		return err
	}
	defer v.Close()
	for p, err := range v.List(ctx, "m") {
		if err != nil {
			return err
		}
		if p.ID == "2" {
			if err := v.Delete(ctx, "m", "1"); err != nil {
				return err
			}
			_, err = v.Prune(ctx)
			return err
		}
	}
	if err := store(ctx, v, point("2", "1"), content); err != nil {
		return err
	}
	if err := v.Delete(ctx, "m", "1"); err != nil {
		return err
	}
	_, err = v.Prune(ctx)
	return err
}

// another is the process of the test below: it writes a point.
func another(t *testing.T) {
	cred, err := azblob.NewSharedKeyCredential(os.Getenv("AZBUCKET_TEST_ACCOUNT"), os.Getenv("AZBUCKET_TEST_KEY"))
	require.NoError(t, err)
	c, err := container.NewClientWithSharedKeyCredential(os.Getenv("AZBUCKET_TEST_URL"), cred, nil)
	require.NoError(t, err)
	require.NoError(t, store(t.Context(), openVault(t, New(c, Options{}), vault.Options{}), point("1", ""), noise(5, diskSize)))
}

func TestAnotherProcessWroteIt(t *testing.T) {
	if os.Getenv("AZBUCKET_TEST_URL") != "" {
		another(t)
		return
	}
	s := azurite.Start(t)
	c := s.Container(t, "")
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "AZBUCKET_TEST_URL="+c.URL(), "AZBUCKET_TEST_ACCOUNT="+s.Account, "AZBUCKET_TEST_KEY="+s.Key)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	v := openVault(t, New(c, Options{}), vault.Options{Existing: true})
	holds(t, v, "1", noise(5, diskSize))
	require.NoError(t, store(t.Context(), v, point("2", "1"), noise(6, diskSize)))
	holds(t, v, "2", noise(6, diskSize))
}

// The service is stopped and started again with what it kept.
func TestAVaultOutlivesItsService(t *testing.T) {
	dir := t.TempDir()
	s := azurite.StartFresh(t, dir)
	require.NoError(t, store(t.Context(), openVault(t, New(s.Container(t, "vault"), Options{}), vault.Options{}), point("1", ""), noise(5, diskSize)))
	s.Stop()
	v := openVault(t, New(azurite.StartFresh(t, dir).Container(t, "vault"), Options{}), vault.Options{Existing: true})
	holds(t, v, "1", noise(5, diskSize))
}

func BenchmarkPut(b *testing.B) {
	bucket := on(b, Options{})
	data := noise(1, 32<<20)
	b.SetBytes(int64(len(data)))
	i := 0
	for b.Loop() {
		require.NoError(b, put(b.Context(), bucket, fmt.Sprintf("o%d", i), data))
		require.NoError(b, bucket.Delete(b.Context(), fmt.Sprintf("o%d", i)))
		i++
	}
}

func BenchmarkGet(b *testing.B) {
	for _, size := range []int{68 << 10, 1 << 20, 32 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			bucket := on(b, Options{})
			require.NoError(b, put(b.Context(), bucket, "o", noise(1, 32<<20)))
			p := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				n, err := bucket.ReadAt(b.Context(), "o", p, 0)
				if err != io.EOF {
					require.NoError(b, err)
				}
				require.Equal(b, size, n)
			}
		})
	}
}

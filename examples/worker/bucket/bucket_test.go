package bucket_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/examples/worker/bucket"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault/buckettest"
)

func TestMemory(t *testing.T) {
	buckettest.Run(t, func(testing.TB) vault.Bucket { return bucket.New() })
}

// The contract holds at the far end of a connection.
func TestServed(t *testing.T) {
	buckettest.Run(t, func(t testing.TB) vault.Bucket { return serve(t, bucket.New()) })
}

// A part of a bucket is one, and knows nothing of the others.
func TestPrefix(t *testing.T) {
	buckettest.Run(t, func(t testing.TB) vault.Bucket {
		b := bucket.New()
		w, err := b.Create(t.Context(), "v/other/a")
		require.NoError(t, err)
		require.NoError(t, w.Commit(t.Context()))
		return bucket.Prefix(b, "v/m-1/")
	})
}

func serve(t testing.TB, b vault.Bucket) *bucket.Client {
	s := httptest.NewServer(bucket.Handler(b))
	c := bucket.Dial(s.URL, s.Client())
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		s.Close()
	})
	return c
}

// A worker that is gone keeps nobody out.
func TestLocksEndWithTheirSession(t *testing.T) {
	b := bucket.New()
	s := httptest.NewServer(bucket.Handler(b))
	defer s.Close()
	one, other := bucket.Dial(s.URL, s.Client()), bucket.Dial(s.URL, s.Client())
	defer other.Close()
	_, err := one.Lock(t.Context(), "l", true)
	require.NoError(t, err)
	_, err = other.Lock(t.Context(), "l", true)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.NoError(t, one.Close())
	require.Eventually(t, func() bool {
		l, err := other.Lock(t.Context(), "l", true)
		return err == nil && l.Close() == nil
	}, time.Minute, time.Millisecond)
}

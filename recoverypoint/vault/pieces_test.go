package vault_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// failingReads is a bucket that can't be read for a while.
type failingReads struct {
	vault.Bucket
	err error
}

func (b *failingReads) Unwrap() any { return b.Bucket }

func (b *failingReads) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return b.Bucket.ReadAt(ctx, name, p, off)
}

// A chunk written in part waits in memory until others need its place. Bringing
// it to the log then may fail for a while, as its map page has to be read; it
// must not be forgotten over that.
func TestPiecesOutliveErrors(t *testing.T) {
	const pages = 800 // more than a draft holds
	ctx := t.Context()
	b := &failingReads{Bucket: newMem()}
	v, err := vault.Open(ctx, b, vault.Options{PageCache: 1})
	require.NoError(t, err)
	defer v.Close()
	p := dr.Point{ID: "1", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: pages * 512 * chunk}}}}
	d, err := v.Create(ctx, p)
	require.NoError(t, err)
	defer d.Close()
	full := make([]byte, chunk)
	full[7] = 1
	for page := range int64(pages) {
		_, err = d.WriteAt(ctx, "a", full, (page*512+1)*chunk)
		require.NoError(t, err)
		if page == 0 {
			_, err = d.WriteAt(ctx, "a", []byte("first"), 100)
			require.NoError(t, err)
		}
	}
	b.err = errors.New("the network is down")
	failed := 0
	for i := range int64(200) {
		_, err = d.WriteAt(ctx, "a", []byte("piece"), ((pages-1)*512+100+i)*chunk+5)
		if err != nil {
			require.ErrorIs(t, err, b.err)
			failed++
			if failed == 3 {
				b.err = nil
			}
			_, err = d.WriteAt(ctx, "a", []byte("piece"), ((pages-1)*512+100+i)*chunk+5)
			if b.err == nil {
				require.NoError(t, err)
			}
		}
	}
	require.GreaterOrEqual(t, failed, 3)
	require.NoError(t, d.Commit(ctx, p))

	img, err := v.Open(ctx, "m", "1")
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, 5)
	_, err = img.ReadAt(ctx, "a", got, 100)
	require.NoError(t, err)
	require.Equal(t, "first", string(got))
	for i := range int64(200) {
		_, err = img.ReadAt(ctx, "a", got, ((pages-1)*512+100+i)*chunk+5)
		require.NoError(t, err)
		require.Equal(t, "piece", string(got), "piece %d", i)
	}
}

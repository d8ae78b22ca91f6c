package vault_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// openWriters counts the objects that are being written.
type openWriters struct {
	vault.Bucket
	n atomic.Int64
}

func (b *openWriters) Unwrap() any { return b.Bucket }

func (b *openWriters) Create(ctx context.Context, name string) (vault.Writer, error) {
	w, err := b.Bucket.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	b.n.Add(1)
	return &openWriter{Writer: w, b: b}, nil
}

type openWriter struct {
	vault.Writer
	b    *openWriters
	done atomic.Bool
}

func (w *openWriter) end() {
	if !w.done.Swap(true) {
		w.b.n.Add(-1)
	}
}

func (w *openWriter) Commit(ctx context.Context) error { w.end(); return w.Writer.Commit(ctx) }
func (w *openWriter) Abort() error                     { w.end(); return w.Writer.Abort() }

// A draft whose parent can't be read is refused each cycle: nothing may pile up.
func TestCreateThatFailsLeavesNothingOpen(t *testing.T) {
	ctx := t.Context()
	mem := newMem()
	b := &openWriters{Bucket: mem}
	v, err := vault.Open(ctx, b, vault.Options{NoCompression: true})
	require.NoError(t, err)
	defer v.Close()
	p := dr.Point{ID: "1", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 3 * chunk}, {ID: "b", Size: 3 * chunk}}}}
	d, err := v.Create(ctx, p)
	require.NoError(t, err)
	for _, disk := range []dr.DiskID{"a", "b"} {
		_, err = d.WriteAt(ctx, disk, []byte(strings.Repeat(string(disk), 3*chunk)), 0)
		require.NoError(t, err)
	}
	require.NoError(t, d.Commit(ctx, p))
	require.NoError(t, d.Close())
	require.Zero(t, b.n.Load())

	// The last chunk of disk b is read because it gets another length, that of
	// disk a before it was written by then.
	for _, name := range mem.names("seg/") {
		if data := mem.objects[name]; len(data) > 6*chunk {
			data[64+5*chunk+100] ^= 1
		}
	}
	next := dr.Point{ID: "2", Parent: "1", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 3*chunk - 1}, {ID: "b", Size: 3*chunk - 1}}}}
	for range 3 {
		_, err = v.Create(ctx, next)
		require.ErrorIs(t, err, dr.ErrCorrupt)
		require.Zero(t, b.n.Load(), "objects that nobody will end")
	}
	// Nor is the machine blocked.
	next.Parent = ""
	d, err = v.Create(ctx, next)
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

// Manifests are JSON, which has no other bytes: two disks could become one.
func TestDiskNamesAreText(t *testing.T) {
	v, err := vault.Open(t.Context(), newMem(), vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	p := dr.Point{ID: "1", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d\xff", Size: 1}, {ID: "d\xfe", Size: 1}}}}
	_, err = v.Create(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrInvalid)
	p.Machine.Disks = p.Machine.Disks[:1]
	p.Machine.Disks[0].ID = "d"
	p.Cursors = map[dr.DiskID]dr.Cursor{"d": "\xff"}
	_, err = v.Create(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

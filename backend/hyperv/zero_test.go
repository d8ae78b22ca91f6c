package hyperv

import (
	"bytes"
	"context"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// untold is a host that can't tell where a disk holds data, as the real one.
type untold struct {
	host.Disks
	wrote *int64
}

type untoldDisk struct {
	host.Disk
	wrote *int64
}

func (u untold) Open(ctx context.Context, path string, write bool) (host.Disk, error) {
	d, err := u.Disks.Open(ctx, path, write)
	if err != nil {
		return nil, err
	}
	return untoldDisk{d, u.wrote}, nil
}

func (untoldDisk) Allocated(context.Context) iter.Seq2[host.Range, error] {
	return func(yield func(host.Range, error) bool) { yield(host.Range{}, host.ErrUnsupported) }
}

func (d untoldDisk) WriteAt(p []byte, off int64) (int, error) {
	*d.wrote += int64(len(p))
	return d.Disk.WriteAt(p, off)
}

// A disk doesn't grow by zeros that it has, also where the host can't tell that.
func TestZerosThatAreThereAreNotWritten(t *testing.T) {
	const mib = 1 << 20
	for _, tells := range []bool{true, false} {
		s := newSite(t, hypervtest.Options{})
		o := s.options()
		wrote := new(int64)
		if !tells {
			o.Nodes[0].Disks = untold{o.Nodes[0].Disks, wrote}
		}
		v, err := Open(t.Context(), o)
		require.NoError(t, err)
		r, err := v.Prepare(t.Context(), backend.Placement{Key: "k", Machine: dr.Machine{Name: "web", Disks: []dr.Disk{{ID: "a", Size: 64 * mib}}}})
		require.NoError(t, err)
		d, err := v.Draft(t.Context(), r.ID, dr.Point{ID: "p"})
		require.NoError(t, err)
		z, ok := dr.As[dr.Zeroer](d)
		require.True(t, ok)
		_, err = d.WriteAt(t.Context(), "a", bytes.Repeat([]byte{1}, mib), 8*mib)
		require.NoError(t, err)
		*wrote = 0
		require.NoError(t, z.Zero(t.Context(), "a", 0, 64*mib))
		if !tells {
			require.LessOrEqual(t, *wrote, int64(2*mib), "only what held data")
		}
		require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p"}))
		require.NoError(t, d.Close())
		img, err := v.Capture(t.Context(), r.ID, "q", dr.CrashConsistent)
		require.NoError(t, err)
		got := make([]byte, 64*mib)
		_, err = img.ReadAt(t.Context(), "a", got, 0)
		require.NoError(t, err)
		require.Equal(t, make([]byte, 64*mib), got)
		require.NoError(t, img.Close())
		m, err := v.find(t.Context(), r.ID)
		require.NoError(t, err)
		info, err := m.node.disks.Stat(t.Context(), m.disks[0].at)
		require.NoError(t, err)
		require.Less(t, info.Allocated, int64(16*mib))
	}
}

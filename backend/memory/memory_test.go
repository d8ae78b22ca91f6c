package memory_test

import (
	"context"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func machine(id dr.MachineID, sizes ...int64) dr.Machine {
	m := dr.Machine{ID: id, Name: string(id), Power: dr.On}
	for i, size := range sizes {
		m.Disks = append(m.Disks, dr.Disk{ID: dr.DiskID("d" + string(rune('0'+i))), Size: size, Boot: i == 0})
	}
	return m
}

// One machine goes out and its changes follow: what every flow is made of.
func TestReplicaTakesChanges(t *testing.T) {
	ctx := t.Context()
	here, there := memory.New(memory.Options{}), memory.New(memory.Options{Site: "cloud"})
	require.NoError(t, here.Add(machine("web", 1<<20)))
	require.NoError(t, here.Write("web", "d0", []byte("hello"), 100))

	p1, err := here.Capture(ctx, "web", "p1", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, here.Write("web", "d0", []byte("later"), 300<<10))
	p2, err := here.Capture(ctx, "web", "p2", dr.ApplicationConsistent)
	require.NoError(t, err)

	tracker, ok := dr.As[dr.ChangeTracker](p2)
	require.True(t, ok)
	var got []dr.Extent
	for e, err := range tracker.Changes(ctx, "d0", p1.Point()) {
		require.NoError(t, err)
		got = append(got, e)
	}
	require.Equal(t, []dr.Extent{{Off: 256 << 10, Len: 64 << 10}}, got)

	r, err := there.Prepare(ctx, backend.Placement{Key: "k", Machine: p1.Point().Machine})
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: "cloud-1", New: true}, r)
	d, err := there.Draft(ctx, r.ID, p2.Point())
	require.NoError(t, err)
	buf := make([]byte, 1<<20)
	_, err = p2.ReadAt(ctx, "d0", buf, 0)
	require.NoError(t, err)
	_, err = d.WriteAt(ctx, "d0", buf, 0)
	require.NoError(t, err)
	require.ErrorIs(t, there.Start(ctx, r.ID), dr.ErrTorn)
	require.NoError(t, d.Commit(ctx, p2.Point()))
	require.NoError(t, there.Start(ctx, r.ID))

	disk, err := there.Disk(r.ID, "d0")
	require.NoError(t, err)
	content, err := io.ReadAll(disk)
	require.NoError(t, err)
	require.Equal(t, buf, content)
}

// A sparse terabyte costs its data: in room, and in time for every operation
// that a copy makes.
func TestSparseTerabyte(t *testing.T) {
	const size = 1 << 40
	ctx := t.Context()
	b := memory.New(memory.Options{})
	require.NoError(t, b.Add(machine("big", size)))
	for off := int64(0); off < size; off += size / 64 {
		require.NoError(t, b.Write("big", "d0", []byte{1}, off))
	}
	img, err := b.Capture(ctx, "big", "p", dr.CrashConsistent)
	require.NoError(t, err)
	mapper, ok := dr.As[dr.Mapper](img)
	require.True(t, ok)
	var data, total int64
	for e, err := range mapper.Extents(ctx, "d0") {
		require.NoError(t, err)
		require.Equal(t, total, e.Off)
		total = e.End()
		if !e.Zero {
			data += e.Len
		}
	}
	require.EqualValues(t, size, total)
	require.EqualValues(t, 64*dr.SumBlock, data)

	r, err := b.Prepare(ctx, backend.Placement{Key: "k", Machine: img.Point().Machine})
	require.NoError(t, err)
	d, err := b.Draft(ctx, r.ID, img.Point())
	require.NoError(t, err)
	z, ok := dr.As[dr.Zeroer](d)
	require.True(t, ok)
	require.NoError(t, z.Zero(ctx, "d0", 0, size))

	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	require.Less(t, stats.HeapAlloc, uint64(64<<20))
	runtime.KeepAlive(b)
}

func TestCrashKillsHandlesAndNothingElse(t *testing.T) {
	ctx := context.Background()
	b := memory.New(memory.Options{})
	require.NoError(t, b.Add(machine("web", 1<<20)))
	img, err := b.Capture(ctx, "web", "p", dr.CrashConsistent)
	require.NoError(t, err)
	r, err := b.Prepare(ctx, backend.Placement{Key: "k", Machine: img.Point().Machine})
	require.NoError(t, err)
	d, err := b.Draft(ctx, r.ID, img.Point())
	require.NoError(t, err)
	_, err = d.WriteAt(ctx, "d0", []byte("half"), 0)
	require.NoError(t, err)

	b.Crash()
	_, err = img.ReadAt(ctx, "d0", make([]byte, 1), 0)
	require.Error(t, err)
	_, err = d.WriteAt(ctx, "d0", []byte("late"), 0)
	require.Error(t, err)
	require.Error(t, d.Commit(ctx, img.Point()))
	names, err := b.Captures("web")
	require.NoError(t, err)
	require.Equal(t, []dr.PointID{"p"}, names)
	require.ErrorIs(t, b.Start(ctx, r.ID), dr.ErrTorn)

	d, err = b.Draft(ctx, r.ID, img.Point())
	require.NoError(t, err)
	resumer, ok := dr.As[dr.Resumer](d)
	require.True(t, ok)
	var durable []dr.Extent
	for e, err := range resumer.Durable(ctx, "d0") {
		require.NoError(t, err)
		durable = append(durable, e)
	}
	require.Equal(t, []dr.Extent{{Off: 0, Len: 4}}, durable)
}

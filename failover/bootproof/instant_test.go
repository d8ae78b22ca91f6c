package bootproof

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/qemu/bootsector"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func (w *world) recover(folder string) *Instant {
	v, err := Recover(w.t.Context(), w.store, "m", "p1", folder, InstantOptions{})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, v.Close()) })
	return v
}

// A machine goes on from its point, over a restart of the process that runs it; its
// content becomes new points of the same store, by deltas, while it runs.
func TestInstantGoesOnAndBecomesPoints(t *testing.T) {
	needs(t)
	w := newWorld(t)
	w.keep(machine(t, bootsector.New("well\r\n", bootsector.Count)), "p1")
	// The guest counts on the first disk, in the order of booting.
	number := func(id dr.PointID) uint16 {
		return binary.LittleEndian.Uint16(content(t, w.open("m", id), "system")[bootsector.CountAt:])
	}
	folder := t.TempDir()
	v := w.recover(folder)
	_, err := Recover(t.Context(), w.store, "m", "p1", folder, InstantOptions{})
	require.ErrorIs(t, err, dr.ErrBusy)
	require.NoError(t, v.Start(t.Context()))
	require.NoError(t, v.Start(t.Context()))
	_, err = v.Wait(within(t, 30*time.Second), says("well"))
	require.NoError(t, err)
	cycle := &replication.Cycle{Source: v, Points: w.store}
	last := uint16(0)
	for _, id := range []dr.PointID{"p2", "p3", "p4", "p5", "p6"} {
		require.Eventually(t, func() bool { return top(t, v, "system") > last }, time.Minute, time.Millisecond)
		rep, err := cycle.ReplicateAs(t.Context(), "m", id, dr.ApplicationConsistent, replication.CycleOptions{})
		require.NoError(t, err)
		require.Empty(t, rep.Full)
		require.LessOrEqual(t, rep.Read, int64(64<<10))
		require.Equal(t, dr.CrashConsistent, rep.Point.Consistency)
		require.Greater(t, number(id), last)
		last = number(id)
		t.Logf("%s: %d, %d bytes read", id, last, rep.Read)
	}
	require.LessOrEqual(t, len(v.record().Layers), recent+2, "layers are merged")
	require.NoError(t, v.Close())

	v = w.recover(folder)
	require.GreaterOrEqual(t, top(t, v, "system"), last)
	require.NoError(t, v.Start(t.Context()))
	_, err = v.Wait(within(t, 30*time.Second), says("well"))
	require.NoError(t, err)
	cycle = &replication.Cycle{Source: v, Points: w.store}
	rep, err := cycle.ReplicateAs(t.Context(), "m", "p7", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.Empty(t, rep.Full)
	require.LessOrEqual(t, rep.Read, int64(64<<10), "and is a delta still")
	require.Zero(t, number("p1"), "the point is as it was")
	require.NoError(t, v.Discard())
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(folder, instantLock)}, left)
	w.whole()

	other := t.TempDir()
	require.NoError(t, w.recover(other).Close())
	_, err = Recover(t.Context(), w.store, "m", "p2", other, InstantOptions{})
	require.ErrorIs(t, err, dr.ErrExists)
}

// top is what the guest has counted to now.
func top(t testing.TB, v *Instant, id dr.DiskID) uint16 {
	for _, s := range v.disks {
		if s.disk.ID == id {
			var b [2]byte
			_, err := s.ReadAt(t.Context(), b[:], bootsector.CountAt)
			require.NoError(t, err)
			return binary.LittleEndian.Uint16(b[:])
		}
	}
	return 0
}

// Random histories of writes, captures, releases, points and restarts, against
// copies of what there was.
func TestInstantRandomHistories(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	for round := range 8 {
		rnd := rand.New(rand.NewPCG(seed, uint64(round)))
		t.Run(fmt.Sprint(round), func(t *testing.T) { history(t, rnd) })
	}
}

func history(t *testing.T, rnd *rand.Rand) {
	w := newWorld(t)
	const size = 3<<20 + 1536
	m := physical.Machine{ID: "m"}
	now := map[dr.DiskID][]byte{}
	for _, id := range []dr.DiskID{"a", "b"} {
		b := make([]byte, size)
		for range 6 {
			off := rnd.IntN(size)
			for i := range b[off:min(size, off+200<<10)] {
				b[off+i] = byte(rnd.Uint32())
			}
		}
		path := filepath.Join(t.TempDir(), "disk")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		m.Disks = append(m.Disks, physical.Disk{ID: id, Path: path})
		now[id] = b
	}
	w.keep(m, "p1")
	was := map[dr.PointID]map[dr.DiskID][]byte{"p1": clone(now)}
	points := map[dr.PointID]dr.Point{"p1": w.open("m", "p1").Point()}

	folder := t.TempDir()
	v := w.recover(folder)
	open := map[dr.PointID]dr.Image{}
	check := func() {
		for id, img := range open {
			for disk, want := range was[id] {
				require.True(t, bytes.Equal(want, content(t, img, disk)), "point %s, disk %s", id, disk)
				for since, p := range points {
					if was[since] == nil {
						continue
					}
					covered := bytes.Clone(was[since][disk])
					lost := false
					for e, err := range img.(dr.ChangeTracker).Changes(t.Context(), disk, p) {
						if err != nil {
							require.ErrorIs(t, err, dr.ErrChangesLost)
							lost = true
							break
						}
						copy(covered[e.Off:e.End()], want[e.Off:e.End()])
					}
					require.True(t, lost || bytes.Equal(want, covered), "changes of %s since %s, disk %s", id, since, disk)
					require.False(t, lost && since == "p1")
				}
			}
		}
	}
	for step := range 60 {
		switch rnd.IntN(10) {
		case 0: // a capture
			id := dr.PointID(fmt.Sprintf("c%d", step))
			img, err := v.Capture(t.Context(), "m", id, dr.CrashConsistent)
			require.NoError(t, err)
			again, err := v.Capture(t.Context(), "m", id, dr.CrashConsistent)
			require.NoError(t, err)
			require.Equal(t, img.Point(), again.Point())
			require.NoError(t, again.Close())
			open[id], was[id], points[id] = img, clone(now), img.Point()
		case 1: // one is released, with or without being closed before
			for id, img := range open {
				if rnd.IntN(2) == 0 {
					require.NoError(t, v.Release(t.Context(), "m", id))
				}
				require.NoError(t, img.Close())
				delete(open, id)
				require.NoError(t, v.Release(t.Context(), "m", id))
				break
			}
		case 2: // the process ends
			for _, img := range open {
				require.NoError(t, img.Close())
			}
			require.NoError(t, v.Close())
			v = w.recover(folder)
			for id := range open {
				img, err := v.Capture(t.Context(), "m", id, dr.CrashConsistent)
				require.NoError(t, err)
				require.Equal(t, points[id], img.Point())
				open[id] = img
			}
			check()
		default:
			s := v.disks[rnd.IntN(2)]
			off := rnd.IntN(size)
			n := min(size-off, 1+rnd.IntN(1<<rnd.IntN(19)))
			part := now[s.disk.ID][off:][:n]
			if rnd.IntN(3) == 0 {
				clear(part)
				require.NoError(t, s.Zero(t.Context(), int64(off), int64(n)))
			} else {
				for i := range part {
					part[i] = byte(rnd.Uint32())
				}
				_, err := s.WriteAt(t.Context(), part, int64(off))
				require.NoError(t, err)
			}
		}
	}
	check()
	for _, s := range v.disks {
		b := make([]byte, size)
		_, err := s.ReadAt(t.Context(), b, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(now[s.disk.ID], b))
	}
	for _, img := range open {
		require.NoError(t, img.Close())
	}
}

func clone(m map[dr.DiskID][]byte) map[dr.DiskID][]byte {
	out := map[dr.DiskID][]byte{}
	for id, b := range m {
		out[id] = bytes.Clone(b)
	}
	return out
}

// A copy reads a moment while the guest writes, and while layers are merged.
func TestInstantIsReadWhileItGoesOn(t *testing.T) {
	w := newWorld(t)
	w.keep(machine(t, nil), "p1")
	v := w.recover(t.TempDir())
	s := v.disks[0]
	ctx, cancel := context.WithCancel(t.Context())
	wrote := make(chan error, 1)
	go func() {
		var err error
		for n := uint64(1); ctx.Err() == nil && err == nil; n++ {
			// The same number on both disks, one after the other.
			b := binary.LittleEndian.AppendUint64(nil, n)
			at := int64(n%50) * 4096
			for _, s := range v.disks {
				if _, e := s.WriteAt(t.Context(), b, at); e != nil {
					err = e
				}
				if _, e := s.WriteAt(t.Context(), b, 1<<20); e != nil {
					err = e
				}
			}
		}
		wrote <- err
	}()
	for i := range 30 {
		name := dr.PointID(fmt.Sprintf("c%d", i))
		img, err := v.Capture(t.Context(), "m", name, dr.CrashConsistent)
		require.NoError(t, err)
		first, second := content(t, img, s.disk.ID), content(t, img, v.disks[1].disk.ID)
		a, b := binary.LittleEndian.Uint64(first[1<<20:]), binary.LittleEndian.Uint64(second[1<<20:])
		require.True(t, a == b || a == b+1, "%d on the first disk, %d on the second: no moment", a, b)
		merged := make(chan error, 1)
		go func() { merged <- v.Release(t.Context(), "m", dr.PointID(fmt.Sprintf("c%d", i-1))) }()
		for range 3 {
			require.Equal(t, first, content(t, img, s.disk.ID))
		}
		require.NoError(t, <-merged)
		require.Equal(t, second, content(t, img, v.disks[1].disk.ID))
		require.NoError(t, img.Close())
	}
	cancel()
	require.NoError(t, <-wrote)
	require.LessOrEqual(t, len(v.record().Layers), recent+4)
}

// A moment that was released stays as it is for who has it open, and a layer that
// was merged away while it is read stays readable.
func TestInstantMomentsLastAsLongAsTheyAreOpen(t *testing.T) {
	w := newWorld(t)
	w.keep(machine(t, nil), "p1")
	v := w.recover(t.TempDir())
	s := v.disks[0]
	block := func(i byte) []byte { return bytes.Repeat([]byte{i}, 4096) }
	step := func(i byte) dr.Image {
		_, err := s.WriteAt(t.Context(), block(i), 0)
		require.NoError(t, err)
		img, err := v.Capture(t.Context(), "m", dr.PointID(fmt.Sprintf("c%d", i)), dr.CrashConsistent)
		require.NoError(t, err)
		require.NoError(t, v.Release(t.Context(), "m", img.Point().ID))
		return img
	}
	read := func(img dr.Image) []byte {
		b := make([]byte, 4096)
		_, err := img.ReadAt(t.Context(), s.disk.ID, b, 0)
		require.NoError(t, err)
		return b
	}
	kept := step(1)
	for i := byte(2); i < 10; i++ {
		require.NoError(t, step(i).Close())
	}
	require.Equal(t, block(1), read(kept))

	// The one before it is merged away with this layer while it is read.
	require.NoError(t, kept.Close())
	img := step(10).(*moment)
	_, over, err := img.disk(s.disk.ID)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	for i := byte(11); i < 20; i++ {
		require.NoError(t, step(i).Close())
	}
	require.NotEmpty(t, s.retired)
	b := make([]byte, 4096)
	_, err = over.ReadAt(t.Context(), b, 0)
	require.NoError(t, err, "its file is open")
	s.leave()
	require.Empty(t, s.retired)
}

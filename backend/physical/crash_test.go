package physical

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
)

// What a machine may be found as, beside "holds POINT".
const (
	asNew     = "new"
	asTorn    = "torn"
	asUnknown = "unknown" // it may have run
)

// story is one life of a replica and an original on a file system that fails.
// After each step it knows what each machine must be found as; during a step,
// what it may be.
type story struct {
	fs      *crashfs.FS
	content map[dr.PointID]map[dr.DiskID][]byte
	points  map[dr.PointID]dr.Point
	may     map[string][]string // by "replica" and "original"
	steps   int
}

const originalDisk = "/disks/o.raw"

func newStory(t *testing.T, seed uint64) *story {
	s := &story{fs: crashfs.New(seed), content: map[dr.PointID]map[dr.DiskID][]byte{}, points: map[dr.PointID]dr.Point{},
		may: map[string][]string{"replica": {asNew}, "original": {asUnknown}}}
	rng := rand.New(rand.NewPCG(seed, 0))
	add := func(id dr.PointID, disks ...dr.Disk) {
		s.points[id] = dr.Point{ID: id, Time: time.Unix(1000, 0).UTC(), Machine: dr.Machine{ID: "m", Name: "m", Disks: disks}}
		s.content[id] = map[dr.DiskID][]byte{}
		for _, d := range disks {
			b := make([]byte, d.Size)
			for i := len(b) / 4; i < len(b); i++ {
				b[i] = byte(rng.Uint32())
			}
			s.content[id][d.ID] = b
		}
	}
	add("p1", dr.Disk{ID: "a", Size: 70<<10 + 512}, dr.Disk{ID: "b", Size: 9 << 10})
	add("p2", dr.Disk{ID: "a", Size: 70<<10 + 512}, dr.Disk{ID: "b", Size: 9 << 10})
	add("p3", dr.Disk{ID: "a", Size: 40 << 10}, dr.Disk{ID: "c/1", Size: 17 << 10})
	add("o", dr.Disk{ID: "o", Size: 33 << 10})
	add("home", dr.Disk{ID: "o", Size: 33 << 10})
	require.NoError(t, s.fs.MkdirAll("/disks", 0o700))
	f, err := s.fs.OpenFile(originalDisk, os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	_, err = f.WriteAt(s.content["o"]["o"], 0)
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.Sync(), f.Close(), s.fs.SyncDir("/disks"), s.fs.SyncDir("/")))
	return s
}

func (s *story) open() (*Host, error) {
	return Open(Config{Root: "/root", FS: s.fs, Machines: []Machine{{ID: "orig", Power: dr.Off, Disks: []Disk{{ID: "o", Path: originalDisk}}}}})
}

// do runs a step that turns who into to.
func (s *story) do(who, to string, step func() error) error {
	s.steps++
	before := s.may[who]
	s.may[who] = append(slices.Clone(before), to)
	if err := step(); err != nil {
		return fmt.Errorf("step %d, %s to be %s: %w", s.steps, who, to, err)
	}
	s.may[who] = []string{to}
	return nil
}

// copyTo drafts and commits a point.
func (s *story) copyTo(h *Host, who string, id dr.MachineID, p dr.PointID) error {
	ctx := context.Background()
	var d dr.Draft
	err := s.do(who, asTorn, func() (err error) { d, err = h.Draft(ctx, id, s.points[p]); return err })
	if err != nil {
		return err
	}
	defer d.Close()
	for disk, b := range s.content[p] {
		if err := d.(dr.Zeroer).Zero(ctx, disk, 0, int64(len(b))); err != nil {
			return err
		}
		for off := len(b) / 4; off < len(b); off += 20000 {
			if _, err := d.WriteAt(ctx, disk, b[off:min(off+20000, len(b))], int64(off)); err != nil {
				return err
			}
		}
	}
	return s.do(who, "holds "+string(p), func() error { return d.Commit(ctx, s.points[p]) })
}

// tell runs the whole story.
func (s *story) tell() (err error) {
	ctx := context.Background()
	h, err := s.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	var r backend.Replica
	prepare := func(p dr.PointID) func() error {
		return func() (err error) {
			r, err = h.Prepare(ctx, backend.Placement{Key: "k", Machine: s.points[p].Machine})
			return err
		}
	}
	if err := s.do("replica", asNew, prepare("p1")); err != nil {
		return err
	}
	if err := s.copyTo(h, "replica", r.ID, "p1"); err != nil {
		return err
	}
	if err := s.do("replica", asUnknown, func() error { return h.Start(ctx, r.ID) }); err != nil {
		return err
	}
	if err := s.do("replica", asUnknown, func() error { return h.Stop(ctx, r.ID) }); err != nil {
		return err
	}
	if err := s.copyTo(h, "replica", r.ID, "p2"); err != nil {
		return err
	}
	// Disk c is made now, a is larger than wanted and b is not wanted: the
	// draft sees to these.
	if err := s.do("replica", asUnknown, prepare("p3")); err != nil {
		return err
	}
	if err := s.copyTo(h, "replica", r.ID, "p3"); err != nil {
		return err
	}
	if err := s.do("original", "holds o", func() error {
		img, err := h.Capture(ctx, "orig", "o", dr.CrashConsistent)
		if err != nil {
			return err
		}
		return img.Close()
	}); err != nil {
		return err
	}
	if err := s.copyTo(h, "original", "orig", "home"); err != nil {
		return err
	}
	return s.do("replica", asNew, func() error { return h.Remove(ctx, r.ID) })
}

// check opens what is left and compares it with what must be.
func (s *story) check(t *testing.T) {
	ctx := context.Background()
	h, err := s.open()
	require.NoError(t, err)
	original, err := h.Prepare(ctx, backend.Placement{Original: "orig", Machine: s.points["o"].Machine})
	require.NoError(t, err)
	s.found(t, h, "original", original)

	id := replicaID(backend.Placement{Key: "k", Machine: s.points["p1"].Machine})
	require.NoError(t, ignoreNotFound(h.Stop(ctx, id)))
	want := s.points["p1"].Machine
	if m, err := h.Machine(ctx, id); err == nil {
		want = m // as it is: nothing needs to grow
	}
	replica, err := h.Prepare(ctx, backend.Placement{Key: "k", Machine: want})
	require.NoError(t, err)
	require.Equal(t, id, replica.ID)
	s.found(t, h, "replica", replica)

	// Whatever it was, it can be made whole, and removed without a trace.
	s.may["replica"] = nil
	require.NoError(t, s.copyTo(h, "replica", id, "p3"))
	replica, err = h.Prepare(ctx, backend.Placement{Key: "k", Machine: s.points["p3"].Machine})
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: id, Holds: "p3"}, replica)
	s.found(t, h, "replica", replica)
	require.NoError(t, h.Remove(ctx, id))
	require.NoError(t, h.Close())
	left, err := s.fs.ReadDir("/root")
	require.NoError(t, err)
	for _, e := range left {
		require.Contains(t, []string{lockName, "orig"}, e.Name())
	}
}

func (s *story) found(t *testing.T, h *Host, who string, r backend.Replica) {
	state, content := asUnknown, map[dr.DiskID][]byte(nil)
	switch {
	case r.Torn:
		state = asTorn
		require.Empty(t, r.Holds)
		require.ErrorIs(t, h.Start(context.Background(), r.ID), dr.ErrTorn)
	case r.Holds != "":
		state, content = "holds "+string(r.Holds), s.content[r.Holds]
	case r.New:
		state = asNew
	}
	require.Contains(t, s.may[who], state, "%s in step %d", who, s.steps)
	m, err := h.Machine(context.Background(), r.ID)
	require.NoError(t, err)
	for _, d := range m.Disks {
		if state == asTorn || state == asUnknown {
			continue
		}
		want, ok := content[d.ID]
		if state == asNew {
			want, ok = make([]byte, d.Size), true
		}
		require.True(t, ok, "%s has a disk %s that point %s lacks", who, d.ID, r.Holds)
		f, err := s.fs.OpenFile(diskPath(h, r.ID, d.ID), os.O_RDONLY, 0)
		require.NoError(t, err)
		got := make([]byte, d.Size)
		_, err = io.ReadFull(io.NewSectionReader(f, 0, d.Size), got)
		require.NoError(t, errors.Join(err, f.Close()))
		require.True(t, string(want) == string(got), "%s in step %d is %s, and disk %s differs", who, s.steps, state, d.ID)
	}
}

func ignoreNotFound(err error) error {
	if errors.Is(err, dr.ErrNotFound) {
		return nil
	}
	return err
}

// Power is cut at every operation, before it and in the middle of it.
func TestPowerCutAnywhere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	cuts := 0
	for _, torn := range []bool{false, true} {
		for n := 1; ; n++ {
			s := newStory(t, seed)
			s.fs.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: torn})
			err := s.tell()
			if s.fs.Fired() == 0 {
				require.NoError(t, err)
				break
			}
			s.fs = s.fs.Restart()
			s.check(t)
			cuts++
		}
	}
	t.Logf("%d cuts", cuts)
	require.Greater(t, cuts, 100)
}

// Every operation fails once; the process goes on, and another one after it.
func TestErrorAnywhere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, fault := range []crashfs.Fault{{Err: syscall.EIO}, {Err: syscall.ENOSPC, Match: crashfs.Mutating, Torn: true}} {
		for n := 1; ; n++ {
			s := newStory(t, seed)
			fault.N = n
			s.fs.Inject(fault)
			err := s.tell()
			if s.fs.Fired() == 0 {
				require.NoError(t, err)
				break
			}
			if err != nil {
				require.ErrorIs(t, err, fault.Err)
			}
			s.check(t)
		}
	}
}

// A disk that can't be synced has lost what nobody can know: no commit of that
// draft may succeed, however often it is tried.
func TestFailedSyncIsFinal(t *testing.T) {
	s := newStory(t, 1)
	ctx := t.Context()
	h, err := s.open()
	require.NoError(t, err)
	r, err := h.Prepare(ctx, backend.Placement{Key: "k", Machine: s.points["p1"].Machine})
	require.NoError(t, err)
	d, err := h.Draft(ctx, r.ID, s.points["p1"])
	require.NoError(t, err)
	for disk, b := range s.content["p1"] {
		_, err := d.WriteAt(ctx, disk, b, 0)
		require.NoError(t, err)
	}
	s.fs.Inject(crashfs.Fault{Match: crashfs.On(filepath.Join("/root", string(r.ID), "a.img"), crashfs.Sync), Err: syscall.EIO})
	require.ErrorIs(t, d.Commit(ctx, s.points["p1"]), syscall.EIO)
	require.ErrorIs(t, d.Commit(ctx, s.points["p1"]), syscall.EIO)
	require.NoError(t, d.Close())
	require.ErrorIs(t, h.Start(ctx, r.ID), dr.ErrTorn)
	require.NoError(t, s.copyTo(h, "replica", r.ID, "p1"))
	require.NoError(t, h.Start(ctx, r.ID))
	require.NoError(t, h.Close())
}

// A removal that failed half way is no removal: repeating it removes the rest,
// or fails again.
func TestRemoveThatFailsIsRepeated(t *testing.T) {
	for n := 1; ; n++ {
		s := newStory(t, 1)
		h, err := s.open()
		require.NoError(t, err)
		r, err := h.Prepare(t.Context(), backend.Placement{Key: "k", Machine: s.points["p1"].Machine})
		require.NoError(t, err)
		s.fs.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Err: syscall.EIO})
		err = h.Remove(t.Context(), r.ID)
		if s.fs.Fired() == 0 {
			require.NoError(t, err)
			break
		}
		if err == nil {
			continue
		}
		require.NoError(t, h.Remove(t.Context(), r.ID))
		left, err := s.fs.ReadDir(filepath.Join("/root", string(r.ID)))
		require.ErrorIs(t, err, fs.ErrNotExist, "left by call %d: %v", n, left)
		require.NoError(t, h.Close())
	}
}

// A commit that failed may have been durable all the same. What is written
// after it would be found as part of the point once power is cut.
func TestWriteAfterAFailedCommit(t *testing.T) {
	for n := 1; ; n++ {
		s := newStory(t, 1)
		h, err := s.open()
		require.NoError(t, err)
		r, err := h.Prepare(t.Context(), backend.Placement{Key: "k", Machine: s.points["p1"].Machine})
		require.NoError(t, err)
		d, err := h.Draft(t.Context(), r.ID, s.points["p1"])
		require.NoError(t, err)
		for disk, b := range s.content["p1"] {
			_, err := d.WriteAt(t.Context(), disk, b, 0)
			require.NoError(t, err)
		}
		s.fs.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Err: syscall.EIO})
		err = d.Commit(t.Context(), s.points["p1"])
		if s.fs.Fired() == 0 {
			require.NoError(t, err)
			break
		}
		if err == nil {
			continue
		}
		if _, err := d.WriteAt(t.Context(), "a", make([]byte, 60<<10), 0); err == nil {
			f, err := s.fs.OpenFile(filepath.Join("/root", string(r.ID), "a.img"), os.O_RDWR, 0)
			require.NoError(t, err)
			require.NoError(t, f.Sync()) // as any other program may
			require.NoError(t, f.Close())
		}
		s.fs.Cut()
		s.fs = s.fs.Restart()
		h, err = s.open()
		require.NoError(t, err)
		r, err = h.Prepare(t.Context(), backend.Placement{Key: "k", Machine: s.points["p1"].Machine})
		require.NoError(t, err)
		s.may["replica"] = []string{asTorn, "holds p1"}
		s.found(t, h, "replica", r)
		require.NoError(t, h.Close())
	}
}

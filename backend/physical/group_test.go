package physical

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// records keeps protections for one process.
type records struct{ all sync.Map }

func (r *records) Load(_ context.Context, id dr.ProtectionID) (dr.Protection, error) {
	p, ok := r.all.Load(id)
	if !ok {
		return dr.Protection{}, dr.ErrNotFound
	}
	return p.(dr.Protection), nil
}

func (r *records) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	r.all.Store(p.ID, p)
	return p, nil
}

// group is two hosts with a machine each, and the store of their points.
type group struct {
	env   *replication.Env
	store *memstore.Store
	ids   []dr.ProtectionID
}

func newGroup(t *testing.T, host func(i int) *Host) *group {
	g := &group{store: memstore.New(memstore.Options{})}
	r := &records{}
	g.env = &replication.Env{Sites: replication.Sites{"away": {Points: g.store}}, Records: r}
	for i := range 2 {
		h := host(i)
		t.Cleanup(func() { require.NoError(t, h.Close()) })
		site := fmt.Sprint("home", i)
		g.env.Sites[site] = replication.Site{Backend: h}
		p := replication.New(dr.ProtectionID(fmt.Sprint("p", i)), dr.Place{Site: site, Machine: groupMachine(i)}, "away")
		p.Group, p.State = "g", dr.Protected
		_, err := r.Save(t.Context(), p)
		require.NoError(t, err)
		g.ids = append(g.ids, p.ID)
	}
	return g
}

func groupMachine(i int) dr.MachineID { return dr.MachineID(fmt.Sprint("m", i)) }

// counters is a writer of numbers, to the first machine and then to the second:
// at any one moment the first is as far as the second, or one ahead.
func counters(t *testing.T, write func(i int, n uint64) error) (stop func()) {
	var over atomic.Bool
	done := make(chan error, 1)
	require.NoError(t, errors.Join(write(0, 1), write(1, 1)))
	go func() {
		for n := uint64(2); !over.Load(); n++ {
			for i := range 2 {
				if err := write(i, n); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	return sync.OnceFunc(func() {
		over.Store(true)
		require.NoError(t, <-done)
	})
}

func oneMoment(a, b uint64) bool { return b > 0 && (a == b || a == b+1) }

// content returns the machine's stored disk.
func (g *group) content(t *testing.T, i int, id dr.PointID) []byte {
	t.Helper()
	img, err := g.store.Open(t.Context(), groupMachine(i), id)
	require.NoError(t, err)
	defer img.Close()
	p := make([]byte, img.Point().Machine.Disks[0].Size)
	_, err = img.ReadAt(t.Context(), "d", p, 0)
	require.NoError(t, err)
	return p
}

// Machines that run are captured pass by pass; the last passes of a group's
// machines are of one moment, with a tracker and without, and no two machines'
// own points are.
func TestGroupOfLiveMachines(t *testing.T) {
	for name, tracked := range map[string]bool{"with a tracker": true, "comparing whole disks": false} {
		t.Run(name, func(t *testing.T) {
			var gates [2]sync.RWMutex
			var trackers [2]*BitmapTracker
			var files [2]*os.File
			g := newGroup(t, func(i int) *Host {
				path := filepath.Join(t.TempDir(), "disk")
				require.NoError(t, os.WriteFile(path, make([]byte, 4<<20), 0o600))
				var err error
				files[i], err = os.OpenFile(path, os.O_RDWR, 0)
				require.NoError(t, err)
				t.Cleanup(func() { files[i].Close() })
				cfg := Config{Root: t.TempDir(), Machines: []Machine{{ID: groupMachine(i), Power: dr.On, Disks: []Disk{{ID: "d", Path: path}}}}}
				trackers[i] = NewBitmapTracker(0)
				if tracked {
					cfg.Tracker = trackers[i]
				}
				cfg.Hooks.Freeze = func(context.Context, Event) error { gates[i].Lock(); return nil }
				cfg.Hooks.Thaw = func(context.Context, Event) error { gates[i].Unlock(); return nil }
				h, err := Open(cfg)
				require.NoError(t, err)
				return h
			})
			const at = 1 << 20
			stop := counters(t, func(i int, n uint64) error {
				gates[i].RLock()
				defer gates[i].RUnlock()
				trackers[i].Mark(groupMachine(i), "d", at, 8)
				_, err := files[i].WriteAt(binary.LittleEndian.AppendUint64(nil, n), at)
				trackers[i].Mark(groupMachine(i), "d", at, 8)
				return err
			})
			defer stop()
			read := func(a, b dr.PointID) (uint64, uint64) {
				return binary.LittleEndian.Uint64(g.content(t, 0, a)[at:]), binary.LittleEndian.Uint64(g.content(t, 1, b)[at:])
			}
			apart := false
			for range 10 {
				r, err := g.env.ReplicateGroup(t.Context(), g.ids, dr.FileSystemConsistent, replication.GroupOptions{})
				require.NoError(t, err)
				require.NoError(t, r.Err())
				require.NoError(t, r.Why)
				require.True(t, r.Whole)
				require.Equal(t, dr.FileSystemConsistent, r.Consistency)
				a, b := read(r.Machines[0].Report.Point.ID, r.Machines[1].Report.Point.ID)
				require.True(t, oneMoment(a, b), "%d and %d at mark %s", a, b, r.Mark.ID)
				var own [2]dr.PointID
				for i := range own {
					rep, err := g.env.Replicate(t.Context(), g.ids[i], dr.FileSystemConsistent, nil)
					require.NoError(t, err)
					own[i] = rep.Point.ID
				}
				apart = apart || !oneMoment(read(own[0], own[1]))
			}
			require.True(t, apart, "the machines' own points are never of different moments: the writer doesn't write")
		})
	}
}

// A live machine's draft has the mark before that is earned: when it is not, the
// draft goes, and every machine has an ordinary point. Nothing stays frozen.
func TestGroupOfLiveMachinesWithoutAMoment(t *testing.T) {
	broken := errors.New("the database doesn't answer")
	for name, fails := range map[string]func(event string, i, call int) error{
		"a freeze fails": func(event string, i, call int) error {
			if event == "freeze" && i == 1 && call == 1 {
				return broken
			}
			return nil
		},
		"a thaw fails": func(event string, i, call int) error {
			if event == "thaw" && i == 1 && call == 1 {
				return broken
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var frozen [2]atomic.Int64
			g := newGroup(t, func(i int) *Host {
				path := filepath.Join(t.TempDir(), "disk")
				require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
				cfg := Config{Root: t.TempDir(), Tracker: NewBitmapTracker(0),
					Machines: []Machine{{ID: groupMachine(i), Power: dr.On, Disks: []Disk{{ID: "d", Path: path}}}}}
				var freezes, thaws atomic.Int64
				cfg.Hooks.Freeze = func(context.Context, Event) error {
					err := fails("freeze", i, int(freezes.Add(1)))
					if err == nil {
						frozen[i].Add(1)
					}
					return err
				}
				cfg.Hooks.Thaw = func(context.Context, Event) error {
					frozen[i].Store(0)
					return fails("thaw", i, int(thaws.Add(1)))
				}
				h, err := Open(cfg)
				require.NoError(t, err)
				return h
			})
			for _, earned := range []bool{false, true} {
				r, err := g.env.ReplicateGroup(t.Context(), g.ids, dr.FileSystemConsistent, replication.GroupOptions{})
				require.NoError(t, err)
				require.NoError(t, r.Err())
				require.Equal(t, earned, r.Whole)
				require.Equal(t, earned, !r.Mark.IsZero())
				if !earned {
					require.ErrorIs(t, r.Why, broken)
				}
				for i := range g.ids {
					require.Zero(t, frozen[i].Load())
					require.Equal(t, r.Mark.ID, r.Machines[i].Report.Point.Group.ID)
					n := 0
					for p, err := range g.store.List(t.Context(), groupMachine(i)) {
						require.NoError(t, err)
						require.Equal(t, earned && p.ID == r.Machines[i].Report.Point.ID, !p.Group.IsZero())
						n++
					}
					require.Equal(t, map[bool]int{false: 1, true: 2}[earned], n)
					for range g.store.Pending(t.Context(), groupMachine(i)) {
						t.Fatal("a draft is left")
					}
				}
			}
		})
	}
}

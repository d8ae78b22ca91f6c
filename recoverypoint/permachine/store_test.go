package permachine_test

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/permachine"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/pointstoretest"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// It is a store like any other.
func TestContract(t *testing.T) {
	pointstoretest.Run(t, pointstoretest.Harness{Histories: 5, Open: func(testing.TB) recoverypoint.PointStore {
		return permachine.New(permachine.Options{Open: func(context.Context, dr.MachineID) (recoverypoint.PointStore, error) {
			return memstore.New(memstore.Options{Deferred: true}), nil
		}})
	}})
}

func vaults(t *testing.T, root string) *permachine.Store {
	s := permachine.New(permachine.Options{Open: func(_ context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
		return vault.OpenDir(filepath.Join(root, permachine.Name(m)), vault.Options{PageCache: 1 << 20})
	}})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func point(m dr.MachineID) dr.Point {
	return dr.Point{ID: "p", Machine: dr.Machine{ID: m, Disks: []dr.Disk{{ID: "os", Size: 1 << 20}}}}
}

// Two processes write at once, each for its machine: one vault refuses that.
func TestManyWriters(t *testing.T) {
	root := t.TempDir()
	one, other := vaults(t, root), vaults(t, root)
	a, err := one.Create(t.Context(), point("a"))
	require.NoError(t, err)
	b, err := other.Create(t.Context(), point("b"))
	require.NoError(t, err, "another machine's store is another")
	_, err = other.Create(t.Context(), point("a"))
	require.ErrorIs(t, err, dr.ErrBusy)
	for _, d := range []dr.Draft{a, b} {
		require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p"}))
		require.NoError(t, d.Close())
	}
	for _, m := range []dr.MachineID{"a", "b"} {
		p, err := recoverypoint.Newest(t.Context(), one, m)
		require.NoError(t, err)
		require.Equal(t, m, p.Machine.ID)
	}
	_, err = one.Prune(t.Context())
	require.NoError(t, err)
	for d, err := range one.Scrub(t.Context()) {
		t.Fatal(d, err)
	}
}

func TestOpenedOnce(t *testing.T) {
	var mu sync.Mutex
	opened := 0
	bad := errors.New("not now")
	s := permachine.New(permachine.Options{Open: func(context.Context, dr.MachineID) (recoverypoint.PointStore, error) {
		mu.Lock()
		defer mu.Unlock()
		if opened++; opened == 1 {
			return nil, bad
		}
		return memstore.New(memstore.Options{}), nil
	}})
	require.ErrorIs(t, s.Process(t.Context(), "a"), bad)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { _ = s.Process(t.Context(), "a") })
	}
	all.Wait()
	require.Equal(t, 2, opened, "one that failed is tried again, one that didn't is kept")
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Process(t.Context(), "a"), fs.ErrClosed)
	require.ErrorIs(t, s.Process(t.Context(), "b"), fs.ErrClosed)
}

// What isn't used is closed, what is in use isn't, and a draft outlives it.
func TestKeepsFew(t *testing.T) {
	root := t.TempDir()
	open := map[dr.MachineID]int{}
	s := permachine.New(permachine.Options{Keep: 2, Open: func(_ context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
		open[m]++
		return vault.OpenDir(filepath.Join(root, permachine.Name(m)), vault.Options{})
	}})
	draft, err := s.Create(t.Context(), point("a"))
	require.NoError(t, err)
	for _, m := range []dr.MachineID{"b", "c", "d", "d"} {
		for range s.List(t.Context(), m) {
			t.Fatal("a point of nowhere")
		}
	}
	require.NoError(t, draft.Commit(t.Context(), dr.Point{ID: "p"}))
	require.NoError(t, draft.Close())
	_, err = recoverypoint.Newest(t.Context(), s, "a")
	require.NoError(t, err)
	require.Equal(t, map[dr.MachineID]int{"a": 2, "b": 1, "c": 1, "d": 1}, open)
	require.NoError(t, s.Close())
}

func TestName(t *testing.T) {
	seen := map[string]dr.MachineID{}
	for _, m := range []dr.MachineID{"a", "A", "b/c", "b-c", "b.c", "h-1", "m-a", "", "_41", dr.MachineID(strings.Repeat("x", 198)), dr.MachineID(strings.Repeat("x", 199)), "../..", "ä"} {
		n := permachine.Name(m)
		require.NotContains(t, seen, strings.ToLower(n), "%q", m)
		seen[strings.ToLower(n)] = m
		require.Empty(t, strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789-_"), n)
		require.LessOrEqual(t, len(n), 200)
		back, ok := permachine.Machine(n)
		require.Equal(t, strings.HasPrefix(n, "m-"), ok, n)
		if ok {
			require.Equal(t, m, back)
		}
	}
}

// A name is a machine's, or nobody's.
func FuzzMachine(f *testing.F) {
	for _, n := range []string{"m-a", "m-_41", "m-_4", "m-__", "h-00", "m-_61", ""} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if m, ok := permachine.Machine(name); ok && permachine.Name(m) != name {
			t.Fatal(name, m)
		}
	})
}

// slowPruner is a store whose pruning the test counts, and cuts off.
type slowPruner struct {
	recoverypoint.PointStore
	prune func()
}

func (p slowPruner) Prune(ctx context.Context) (int64, error) { p.prune(); return 0, ctx.Err() }

// A prune that is always cut off comes to all machines in the end, and not only to
// the first again and again.
func TestPruneGoesOn(t *testing.T) {
	all := []dr.MachineID{"a", "b", "c", "d", "e", "f", "g"}
	pruned := map[dr.MachineID]int{}
	var cut func()
	s := permachine.New(permachine.Options{
		Open: func(_ context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
			return slowPruner{memstore.New(memstore.Options{}), func() {
				if pruned[m]++; len(pruned)%2 == 0 {
					cut()
				}
			}}, nil
		},
		Machines: func(context.Context) iter.Seq2[dr.MachineID, error] {
			return func(yield func(dr.MachineID, error) bool) {
				for _, m := range all {
					if !yield(m, nil) {
						return
					}
				}
			}
		},
	})
	for range 4 {
		var ctx context.Context
		ctx, cut = context.WithCancel(t.Context())
		_, err := s.Prune(ctx)
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		cut()
	}
	for _, m := range all {
		require.Positive(t, pruned[m], "%s of %v", m, pruned)
	}
}

// damaged is a store with a damage to tell.
type damaged struct{ recoverypoint.PointStore }

func (damaged) Scrub(context.Context) iter.Seq2[recoverypoint.Damage, error] {
	return func(yield func(recoverypoint.Damage, error) bool) {
		yield(recoverypoint.Damage{Object: "segment"}, nil)
	}
}

// One machine's store that can't be opened doesn't keep those behind it from being
// scrubbed, today and each time.
func TestScrubGoesOn(t *testing.T) {
	bad := errors.New("not readable")
	s := permachine.New(permachine.Options{
		Open: func(_ context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
			if m == "b" {
				return nil, bad
			}
			return damaged{memstore.New(memstore.Options{})}, nil
		},
		Machines: func(context.Context) iter.Seq2[dr.MachineID, error] {
			return func(yield func(dr.MachineID, error) bool) {
				_ = yield("a", nil) && yield("b", nil) && yield("c", nil)
			}
		},
	})
	found, last := 0, error(nil)
	for _, err := range s.Scrub(t.Context()) {
		require.NoError(t, last, "an error is the end")
		if last = err; err == nil {
			found++
		}
	}
	require.Equal(t, 2, found)
	require.ErrorIs(t, last, bad)
	require.ErrorContains(t, last, "machine b")
	for range s.Scrub(t.Context()) {
		break // and who has seen enough is not told more
	}
}

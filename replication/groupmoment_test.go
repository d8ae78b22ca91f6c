package replication_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// trace writes down when the calls of a moment began and ended.
type trace struct {
	mu    sync.Mutex
	calls []traced
}

type traced struct {
	backendtest.Call
	began, ended time.Time
	err          error
}

func (tr *trace) intercept(_ context.Context, c backendtest.Call, do func() error) error {
	x := traced{Call: c, began: time.Now()}
	x.err = do()
	x.ended = time.Now()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.calls = append(tr.calls, x)
	return x.err
}

// requireEarned checks the promise of a mark in the order of the calls: every
// capture began after the last quiesce and ended before the first thaw, and every
// thaw said that it was the first.
func (tr *trace) requireEarned(t *testing.T, machines int, name dr.PointID) {
	t.Helper()
	var lastQuiesce, firstCapture, lastCapture, firstThaw time.Time
	n := map[backendtest.Op]int{}
	for _, c := range tr.calls {
		if c.Op == backendtest.OpCapture && c.Point != name {
			continue
		}
		n[c.Op]++
		switch c.Op {
		case backendtest.OpQuiesce:
			require.NoError(t, c.err)
			lastQuiesce = later(lastQuiesce, c.ended)
		case backendtest.OpCapture:
			require.NoError(t, c.err)
			if firstCapture.IsZero() || c.began.Before(firstCapture) {
				firstCapture = c.began
			}
			lastCapture = later(lastCapture, c.ended)
		case backendtest.OpThaw:
			require.NoError(t, c.err)
			if firstThaw.IsZero() || c.began.Before(firstThaw) {
				firstThaw = c.began
			}
		}
	}
	for _, op := range []backendtest.Op{backendtest.OpQuiesce, backendtest.OpCapture, backendtest.OpThaw} {
		require.Equal(t, machines, n[op], "%s", op)
	}
	require.False(t, firstCapture.Before(lastQuiesce), "a capture began %v before the last quiesce had returned", lastQuiesce.Sub(firstCapture))
	require.False(t, firstThaw.Before(lastCapture), "a thaw began %v before the last capture had returned", lastCapture.Sub(firstThaw))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// TestGroupMomentIsInOrder runs cycles whose calls take all kinds of times, some
// longer than the group's deadline or the platform's: a mark that is given was
// earned, and most that could be are.
func TestGroupMomentIsInOrder(t *testing.T) {
	const seed = 5
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	earned, late := 0, 0
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			tr := &trace{}
			longest := time.Duration(0)
			slow := backendtest.Latency(func(c backendtest.Call) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				if !slices.Contains([]backendtest.Op{backendtest.OpQuiesce, backendtest.OpCapture, backendtest.OpThaw}, c.Op) {
					return 0
				}
				d := time.Duration(rng.Int64N(int64(time.Second)))
				if rng.IntN(12) == 0 {
					d *= 10
				}
				longest = max(longest, d)
				return d
			})
			n := 1 + rng.IntN(4)
			f := newFleet(t, n, memory.Options{QuiesceLimit: 8 * time.Second}, memstore.Options{}, around(tr.intercept, slow))
			before := time.Now()
			r := f.replicate(t.Context(), dr.ApplicationConsistent, replication.GroupOptions{Freeze: 5 * time.Second})
			require.NoError(t, r.Err())
			f.quiet()
			if r.Mark.IsZero() {
				late++
				require.Error(t, r.Why)
				require.Greater(t, longest, time.Second)
				for i := range n {
					for _, p := range f.points(i) {
						require.True(t, p.Group.IsZero())
					}
				}
				return
			}
			earned++
			tr.requireEarned(t, n, dr.PointID(r.Mark.ID))
			require.True(t, r.Whole)
			require.Equal(t, dr.ApplicationConsistent, r.Consistency)
			require.Positive(t, r.Frozen)
			require.LessOrEqual(t, r.Frozen, time.Since(before))
			require.Len(t, r.Mark.Members, n)
			for i, m := range r.Machines {
				require.LessOrEqual(t, m.Frozen, r.Frozen)
				require.Equal(t, r.Mark, m.Report.Point.Group)
				p, err := f.rec.Load(t.Context(), f.ids[i])
				require.NoError(t, err)
				require.Equal(t, m.Report.Point, p.Last)
				require.Equal(t, r.Mark, f.points(i)[0].Group)
			}
		})
	}
	t.Logf("%d marks were earned, %d not", earned, late)
	require.Greater(t, earned, 50)
	require.Greater(t, late, 20)
}

// lyingQuiescer thaws at once and says that it didn't.
type lyingQuiescer struct{ backend.Backend }

func (l lyingQuiescer) Unwrap() any { return l.Backend }

func (l lyingQuiescer) Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	q, _ := dr.As[backend.Quiescer](l.Backend)
	got, thaw, err := q.Quiesce(ctx, id, want)
	if err == nil {
		err = thaw(ctx)
	}
	return got, func(context.Context) error { return nil }, err
}

// hastyCapturer captures before it quiesces, and gives that out later.
type hastyCapturer struct {
	lyingQuiescer
	early dr.Image
}

type renamed struct {
	dr.Image
	name dr.PointID
}

func (r renamed) Unwrap() any { return r.Image }

func (r renamed) Point() dr.Point {
	p := r.Image.Point()
	p.ID = r.name
	return p
}

func (h *hastyCapturer) Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	img, err := h.Backend.Capture(ctx, id, "early", want)
	if err != nil {
		return 0, nil, err
	}
	h.early = img
	time.Sleep(time.Millisecond) // for the guest to go on
	q, _ := dr.As[backend.Quiescer](h.Backend)
	return q.Quiesce(ctx, id, want)
}

func (h *hastyCapturer) Capture(_ context.Context, _ dr.MachineID, name dr.PointID, _ dr.Consistency) (dr.Image, error) {
	return renamed{h.early, name}, nil
}

// TestGroupProofCanFail shows that the writer of the thousand points would see
// platforms that don't hold what they promise, which is what a group's cycle
// that did things in another order would come to. One machine alone that isn't
// held breaks nothing, as the other, which is, holds up the writer; so the
// liars are on both sides.
func TestGroupProofCanFail(t *testing.T) {
	slowOn := func(i int, d time.Duration) func(int, backend.Backend) backend.Backend {
		return func(j int, b backend.Backend) backend.Backend {
			if i != j {
				return b
			}
			return backendtest.Wrap(b, backendtest.Latency(func(c backendtest.Call) time.Duration {
				if c.Op == backendtest.OpCapture {
					return d
				}
				return 0
			}))
		}
	}
	slow := slowOn(1, 2*time.Millisecond)
	mutants := map[string]struct {
		o    memory.Options
		wrap func(int, backend.Backend) backend.Backend
	}{
		"thaws too early": {wrap: func(i int, b backend.Backend) backend.Backend { return lyingQuiescer{slow(i, b)} }},
		"one is captured before it is quiesced": {wrap: func(i int, b backend.Backend) backend.Backend {
			if i == 0 {
				return &hastyCapturer{lyingQuiescer: lyingQuiescer{b}}
			}
			return b
		}},
		"hides that it thawed by itself": {memory.Options{QuiesceLimit: 100 * time.Microsecond}, func(i int, b backend.Backend) backend.Backend {
			return backendtest.Wrap(slow(i, b), func(_ context.Context, c backendtest.Call, do func() error) error {
				err := do()
				if c.Op == backendtest.OpThaw {
					return nil
				}
				return err
			})
		}},
	}
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 2, m.o, memstore.Options{}, m.wrap)
			_, worst := f.tries(300)
			require.Error(t, worst, "the proof sees nothing")
			t.Log(worst)
		})
	}
	t.Run("says that it thawed by itself", func(t *testing.T) {
		f := newFleet(t, 2, memory.Options{QuiesceLimit: 100 * time.Microsecond}, memstore.Options{}, slow)
		marks, worst := f.tries(20)
		require.NoError(t, worst)
		// A limit whose timer comes late on a busy machine hasn't thawed anything
		// yet: such a mark is earned, as worst says. They are few.
		require.Less(t, marks, 10)
	})
}

// cut is a store whose drafts fail when told.
type cutStore struct {
	recoverypoint.PointStore
	machine dr.MachineID
	err     error
}

func (s *cutStore) Unwrap() any { return s.PointStore }

func (s *cutStore) Create(ctx context.Context, p dr.Point) (dr.Draft, error) {
	d, err := s.PointStore.Create(ctx, p)
	if err == nil && s.err != nil && p.Machine.ID == s.machine {
		return cutDraft{d, s.err}, nil
	}
	return d, err
}

type cutDraft struct {
	dr.Draft
	err error
}

func (d cutDraft) Commit(context.Context, dr.Point) error { return d.err }

func (f *fleet) cut(i int, err error) {
	s := f.env.Sites["away"]
	s.Points = &cutStore{f.store, f.vm(i), err}
	f.env.Sites["away"] = s
}

func (f *fleet) heal() {
	s := f.env.Sites["away"]
	s.Points = f.store
	f.env.Sites["away"] = s
}

// common is the point of each machine that a plan would choose.
func (f *fleet) common() ([]recoverypoint.Selection, error) {
	var all []recoverypoint.Candidate
	for i := range f.homes {
		all = append(all, recoverypoint.Candidate{Machine: f.vm(i), Group: "g", Points: f.points(i)})
	}
	return recoverypoint.ChooseAll(all, recoverypoint.Choice{Option: recoverypoint.LatestMultiVMProcessed})
}

// TestGroupGoesOn: a copy that was interrupted is gone on with by the next cycle,
// the group's or the machine's own, and its point has the mark; not when the
// source has let go of the moment meanwhile.
func TestGroupGoesOn(t *testing.T) {
	broken := errors.New("the link is down")
	for name, c := range map[string]struct {
		next  func(f *fleet) error
		lose  bool
		whole bool
	}{
		"with the group's next cycle": {next: func(f *fleet) error {
			return f.replicate(f.t.Context(), dr.CrashConsistent, replication.GroupOptions{}).Err()
		}, whole: true},
		"with the machine's own next cycle": {next: func(f *fleet) error {
			_, err := f.env.Replicate(f.t.Context(), f.ids[1], dr.CrashConsistent, nil)
			return err
		}, whole: true},
		"when the capture is lost": {next: func(f *fleet) error {
			_, err := f.env.Replicate(f.t.Context(), f.ids[1], dr.CrashConsistent, nil)
			return err
		}, lose: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 2, memory.Options{}, memstore.Options{}, nil)
			require.NoError(t, f.homes[1].Write(f.vm(1), "a", []byte("then"), blk))
			f.cut(1, broken)
			r := f.replicate(t.Context(), dr.CrashConsistent, replication.GroupOptions{})
			require.NoError(t, r.Why, "the moment was earned; what came after is another matter")
			require.ErrorIs(t, r.Err(), broken)
			require.False(t, r.Whole)
			require.Len(t, r.Mark.Members, 2, "those that were captured")
			sel, err := f.common()
			require.NoError(t, err)
			require.ErrorIs(t, sel[0].Err, dr.ErrNoPoint, "a mark that one lacks is not chosen")
			require.NoError(t, f.homes[1].Write(f.vm(1), "a", []byte("now!"), blk))
			if c.lose {
				require.NoError(t, f.homes[1].Release(t.Context(), f.vm(1), dr.PointID(r.Mark.ID)))
			}
			f.heal()
			require.NoError(t, c.next(f))
			var marked []dr.Point
			for _, p := range f.points(1) {
				if p.Group.ID == r.Mark.ID {
					marked = append(marked, p)
				}
			}
			if !c.whole {
				require.Empty(t, marked, "another moment never gets the mark")
				return
			}
			require.Len(t, marked, 1)
			require.Equal(t, r.Mark, marked[0].Group)
			img, err := f.store.Open(t.Context(), f.vm(1), marked[0].ID)
			require.NoError(t, err)
			defer img.Close()
			p := make([]byte, 4)
			_, err = img.ReadAt(t.Context(), "a", p, blk)
			require.NoError(t, err)
			require.Equal(t, "then", string(p))
			sel, err = f.common()
			require.NoError(t, err)
			require.NoError(t, errors.Join(sel[0].Err, sel[1].Err))
			require.Equal(t, sel[0].Point.Group.ID, sel[1].Point.Group.ID)
		})
	}
}

// TestGroupOfHeldMachines: what keeps one machine from the common moment costs
// the mark, and no other machine's point; and nothing is frozen for it.
func TestGroupOfHeldMachines(t *testing.T) {
	amend := func(change func(*dr.Protection)) func(*fleet) {
		return func(f *fleet) {
			_, err := f.env.Amend(f.t.Context(), f.ids[1], func(p *dr.Protection) error { change(p); return nil })
			require.NoError(f.t, err)
		}
	}
	for name, c := range map[string]struct {
		prepare func(*fleet)
		o       memory.Options
		why     error
		err     error // of the machine
	}{
		"paused":          {prepare: func(f *fleet) { require.NoError(f.t, f.env.Pause(f.t.Context(), f.ids[1])) }, why: dr.ErrNotAllowed, err: dr.ErrNotAllowed},
		"held by a flow":  {prepare: amend(func(p *dr.Protection) { p.Run = "run" }), why: dr.ErrNotAllowed, err: dr.ErrNotAllowed},
		"gone":            {prepare: func(f *fleet) { delete(f.rec.all, f.ids[1]) }, why: dr.ErrNotFound, err: dr.ErrNotFound},
		"cannot quiesce":  {o: memory.Options{NoQuiesce: true}, why: dr.ErrUnsupported},
		"of another type": {prepare: amend(func(p *dr.Protection) { p.Last.Machine.OS = "windows9_64Guest"; p.Last.ID = "x" }), why: dr.ErrInvalid},
		"of no group":     {prepare: amend(func(p *dr.Protection) { p.Group = "" }), why: dr.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			tr := &trace{}
			f := newFleet(t, 3, c.o, memstore.Options{}, around(tr.intercept))
			_, err := f.env.Amend(t.Context(), f.ids[0], func(p *dr.Protection) error { p.Last.Machine.OS = "debian12_64Guest"; return nil })
			require.NoError(t, err)
			if c.prepare != nil {
				c.prepare(f)
			}
			r := f.replicate(t.Context(), dr.CrashConsistent, replication.GroupOptions{})
			require.ErrorIs(t, r.Why, c.why)
			require.True(t, r.Mark.IsZero())
			require.Zero(t, r.Frozen)
			for i, m := range r.Machines {
				if i == 1 && c.err != nil {
					require.ErrorIs(t, m.Err, c.err)
					require.Empty(t, f.points(i))
					continue
				}
				require.NoError(t, m.Err)
				require.Len(t, f.points(i), 1)
				require.True(t, m.Report.Point.Group.IsZero())
			}
			for _, call := range tr.calls {
				require.NotEqual(t, backendtest.OpQuiesce, call.Op)
			}
		})
	}
}

// TestGroupIsHeldOrCancelled in its window: all thaw, at once, whatever hangs.
func TestGroupIsHeldOrCancelled(t *testing.T) {
	for _, op := range []backendtest.Op{backendtest.OpQuiesce, backendtest.OpCapture} {
		for name, stop := range map[string]func(f *fleet, cancel context.CancelFunc){
			"held":      func(f *fleet, _ context.CancelFunc) { require.NoError(f.t, f.env.Pause(f.t.Context(), f.ids[0])) },
			"cancelled": func(_ *fleet, cancel context.CancelFunc) { cancel() },
			"too late":  func(*fleet, context.CancelFunc) { time.Sleep(3 * time.Second) },
		} {
			t.Run(string(op)+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hang := make(chan struct{}) // a call that hears of no context
					first := true
					stuck := func(_ context.Context, c backendtest.Call, do func() error) error {
						if c.Op == op && c.Machine == "vm1" && first {
							first = false
							<-hang
						}
						return do()
					}
					f := newFleet(t, 2, memory.Options{QuiesceLimit: time.Hour}, memstore.Options{}, around(stuck))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					done := make(chan replication.GroupReport)
					go func() {
						done <- f.replicate(ctx, dr.CrashConsistent, replication.GroupOptions{Freeze: 2 * time.Second})
					}()
					synctest.Wait()
					require.False(t, writes(f, 0), "it is frozen")
					stop(f, cancel)
					synctest.Wait()
					require.True(t, writes(f, 0))
					if op == backendtest.OpCapture && name != "held" {
						require.True(t, writes(f, 1), "a capture that hangs holds no guest")
					}
					close(hang)
					r := <-done
					require.Error(t, r.Why)
					require.True(t, r.Mark.IsZero())
					require.True(t, writes(f, 1))
					switch name {
					case "held":
						require.ErrorIs(t, r.Machines[0].Err, dr.ErrBusy)
						require.NoError(t, r.Machines[1].Err)
					case "cancelled":
						require.ErrorIs(t, r.Machines[1].Err, context.Canceled)
						require.Empty(t, f.left(), "nothing can go on with the captures")
					default:
						require.NoError(t, r.Err())
						require.Empty(t, f.left())
					}
				})
			})
		}
	}
}

// writes tells whether the guest can write now.
func writes(f *fleet, i int) bool {
	done := make(chan error, 1)
	go func() { done <- f.homes[i].Write(f.vm(i), "b", []byte{1}, 0) }()
	synctest.Wait()
	select {
	case err := <-done:
		require.NoError(f.t, err)
		return true
	default:
		return false
	}
}

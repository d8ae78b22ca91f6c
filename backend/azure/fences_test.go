package azure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

const claim = "protection/web"

// under is a context of the claim's holder.
func (e *errand) under(epoch uint64) context.Context {
	return dr.WithFences(e.t.Context(), map[string]uint64{claim: epoch})
}

// A draft that was passed over writes to no disk any more once the next one was
// begun, also to those that the next one leaves alone.
func TestPassedOverDraftWritesNothing(t *testing.T) {
	e := newErrand(t, t.Name())
	require.NoError(t, e.prepare("")(t.Context()))
	p := dr.Point{ID: "p1", Machine: e.like}
	first, err := e.a.Draft(t.Context(), e.id, p)
	require.NoError(t, err)
	for _, d := range e.disks {
		_, err = first.WriteAt(t.Context(), d.ID, e.want[d.ID], 0)
		require.NoError(t, err)
	}
	require.NoError(t, first.Close())

	old, err := e.a.Draft(e.under(1), e.id, p)
	require.NoError(t, err)
	for _, d := range e.disks {
		_, err = old.WriteAt(e.under(1), d.ID, e.want[d.ID][:512], 0)
		require.NoError(t, err)
	}
	e.begin()
	next, err := e.a.Draft(e.under(2), e.id, p)
	require.NoError(t, err)
	_, err = old.WriteAt(e.under(1), "data", []byte("late"), 0)
	require.ErrorIs(t, err, dr.ErrFenced)
	require.NoError(t, next.Commit(e.under(2), p))
	require.NoError(t, next.Close())
	_, err = old.WriteAt(e.under(1), "os", []byte("late"), 0)
	require.ErrorIs(t, err, dr.ErrFenced)
	require.ErrorIs(t, old.Commit(e.under(1), p), dr.ErrFenced)
	e.same()
	require.NoError(t, old.Close())
}

// late tells whether a call changes anything that another owner could mind: not
// what gives something back, nor what fills a draft's own blob, which nothing
// refers to, nor a change of the record, which is conditional.
func late(c azuretest.Call) bool {
	if strings.Contains(c.Path, "/disks/lb-") && strings.Contains(c.Query, "comp=page") || strings.Contains(c.Path, "/lifeboat/machines/") {
		return false
	}
	return c.Method != http.MethodGet && c.Method != http.MethodHead && !strings.HasSuffix(c.Path, "/endGetAccess") && !strings.Contains(c.Query, "comp=lease")
}

// paused lets a worker work until it is about to make its n-th call, lets its
// successor act meanwhile, and returns what it did from then on: the call that
// was on its way already, and what came after it, of that what was no reading.
func (e *errand) paused(old *azure.Azure, n int, work func(*azure.Azure) error, act func()) (inFlight azuretest.Call, after []azuretest.Call, err error) {
	calls, acting := 0, false
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if acting { // one call comes after the other
			return nil
		}
		switch calls++; {
		case calls == n:
			inFlight, acting = c, true
			act()
			acting = false
		case calls > n && late(c):
			after = append(after, c)
		}
		return nil
	})
	defer e.r.cloud.OnCall(nil)
	return inFlight, after, work(old)
}

// Wherever a worker stands still while another takes its machine over: what was
// on its way arrives, and nothing else.
func TestPausedWorkerDoesNothingMore(t *testing.T) {
	p1, p2 := dr.PointID("p1"), dr.PointID("p2")
	fill := func(e *errand, a *azure.Azure, epoch uint64, p dr.PointID, content map[dr.DiskID][]byte) error {
		ctx := e.under(epoch)
		r, err := a.Prepare(ctx, e.placement())
		if err != nil {
			return err
		}
		e.id = r.ID
		d, err := a.Draft(ctx, r.ID, dr.Point{ID: p, Machine: e.like})
		if err != nil {
			return err
		}
		defer d.Close()
		for _, x := range e.disks {
			if _, err := d.WriteAt(ctx, x.ID, content[x.ID], 0); err != nil {
				return err
			}
		}
		return d.Commit(ctx, dr.Point{ID: p, Machine: e.like})
	}
	bring := func(e *errand, a *azure.Azure, epoch uint64, p dr.PointID, content map[dr.DiskID][]byte) error {
		if err := fill(e, a, epoch, p, content); err != nil {
			return err
		}
		return a.Start(e.under(epoch), e.id)
	}
	away := func(e *errand, a *azure.Azure, epoch uint64) error {
		if err := a.Stop(e.under(epoch), e.id); err != nil {
			return err
		}
		return a.Remove(e.under(epoch), e.id)
	}
	for name, c := range map[string]struct {
		before func(e *errand) // what the machine is like when the old worker begins
		old    func(e *errand, old map[dr.DiskID][]byte) func(*azure.Azure) error
		act    func(e *errand) error
		check  func(e *errand, inFlight azuretest.Call)
	}{
		"brings it up, and another brings up another point": {
			func(e *errand) {},
			func(e *errand, old map[dr.DiskID][]byte) func(*azure.Azure) error {
				return func(a *azure.Azure) error { return bring(e, a, 1, p1, old) }
			},
			func(e *errand) error {
				if err := e.a.Stop(e.under(2), e.id); err != nil && !errors.Is(err, dr.ErrNotFound) {
					return err
				}
				return bring(e, e.a, 2, p2, e.want)
			},
			func(e *errand, _ azuretest.Call) {
				e.same()
				m, err := e.a.Machine(t.Context(), e.id)
				require.NoError(t, err)
				require.Equal(t, dr.On, m.Power, e.what)
			},
		},
		"writes another point over the one that it holds, and another writes a third one": {
			func(e *errand) { require.NoError(e.t, fill(e, e.a, 1, "p0", e.want)) },
			func(e *errand, old map[dr.DiskID][]byte) func(*azure.Azure) error {
				return func(a *azure.Azure) error { return fill(e, a, 1, p1, old) }
			},
			func(e *errand) error { return fill(e, e.a, 2, p2, e.want) },
			func(e *errand, _ azuretest.Call) {
				require.NoError(t, e.a.Start(e.under(2), e.id), e.what)
				e.same()
			},
		},
		"takes it away, and another keeps it": {
			func(e *errand) { require.NoError(e.t, bring(e, e.a, 1, p1, e.want)) },
			func(e *errand, _ map[dr.DiskID][]byte) func(*azure.Azure) error {
				return func(a *azure.Azure) error { return away(e, a, 1) }
			},
			func(e *errand) error {
				for { // what the other one has begun comes to its end
					switch err := e.a.Start(e.under(2), e.id); {
					case errors.Is(err, dr.ErrNotFound): // it was away already
						id := e.id
						e.id = ""
						return e.a.Remove(e.under(2), id)
					case !errors.Is(err, dr.ErrBusy):
						return err
					}
				}
			},
			func(e *errand, inFlight azuretest.Call) {
				if e.id != "" && !late(inFlight) {
					e.same()
					m, err := e.a.Machine(t.Context(), e.id)
					require.NoError(t, err)
					require.Equal(t, dr.On, m.Power, e.what)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			refused, arrived := 0, 0
			step := 3 // a sample, unless -faults is given
			if *everyFault {
				step = 1
			}
			for n := 1 + rand.IntN(step); ; n += step {
				e := newErrand(t, fmt.Sprintf("paused before call %d", n))
				e.id = azure.ReplicaID("errand")
				c.before(e)
				old := e.a
				e.begin()
				old.Serially()
				old.Distrust()
				e.a.Serially()
				stale := map[dr.DiskID][]byte{}
				for id, b := range e.want {
					stale[id] = bytes.Repeat([]byte{0xee}, len(b))
				}
				acted := false
				inFlight, after, err := e.paused(old, n, c.old(e, stale), func() {
					acted = true
					require.NoError(t, c.act(e), e.what)
				})
				if !acted {
					break
				}
				e.what = fmt.Sprintf("paused before call %d, %v", n, inFlight)
				require.Empty(t, after, e.what)
				if err != nil {
					refused++
				}
				if late(inFlight) {
					arrived++
				}
				c.check(e, inFlight)
			}
			require.Greater(t, refused, 3)
			t.Logf("refused after %d pauses; %d times a change was on its way", refused, arrived)
		})
	}
}

// A start that was cut off has made disks of a point. The next draft writes to
// the same blobs: its start makes others of them.
func TestDiskOfAnEarlierDraftIsNotTaken(t *testing.T) {
	e := newErrand(t, t.Name())
	require.NoError(t, e.prepare("")(t.Context()))
	require.NoError(t, e.fill("p1", nil)(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if strings.Contains(c.Path, "/networkInterfaces/") || strings.HasSuffix(c.Path, ".json") && c.Method == http.MethodPut && e.imported() == 2 {
			cancel()
			return &azuretest.Fault{Lost: true}
		}
		return nil
	})
	require.Error(t, e.a.Start(ctx, e.id))
	e.r.cloud.OnCall(nil)
	require.Equal(t, 2, e.imported())
	e.begin()
	for id := range e.want {
		copy(e.want[id], "of another point")
	}
	require.NoError(t, e.fill("p2", nil)(t.Context()))
	require.NoError(t, e.a.Start(t.Context(), e.id))
	e.same()
	require.Equal(t, 2, e.imported(), "the others are deleted")
}

// imported counts the managed disks.
func (e *errand) imported() (n int) {
	for _, id := range e.r.cloud.Resources() {
		if strings.Contains(strings.ToLower(id), "/microsoft.compute/disks/") {
			n++
		}
	}
	return n
}

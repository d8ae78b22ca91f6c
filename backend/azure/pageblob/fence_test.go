package pageblob

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// stalled holds the n-th request back, before it is sent or before it is
// answered, until it is let go.
type stalled struct {
	n       int64
	after   bool
	calls   atomic.Int64
	reached chan struct{}
	let     chan struct{}
}

func newStalled(n int, after bool) *stalled {
	return &stalled{n: int64(n), after: after, reached: make(chan struct{}), let: make(chan struct{})}
}

func (s *stalled) Do(r *http.Request) (*http.Response, error) {
	now := s.calls.Add(1) == s.n
	if now && !s.after {
		close(s.reached)
		<-s.let
	}
	resp, err := web.Do(r)
	if now && s.after {
		close(s.reached)
		<-s.let
	}
	return resp, err
}

// fourPoints are written over each other, of a machine with one disk if alone:
// then no other disk's lease warns of what is wrong.
func fourPoints(alone bool) (base, old, next, last planned) {
	disks := func(all map[dr.DiskID]sketch) map[dr.DiskID]sketch {
		if alone {
			return map[dr.DiskID]sketch{"a": all["a"]}
		}
		return all
	}
	base = plan("base", planned{}, disks(map[dr.DiskID]sketch{
		"a": sketch{size: 256 << 10}.with(0, noise(1, 100_000)), "b": sketch{size: 4096},
	}))
	old = plan("old", base, disks(map[dr.DiskID]sketch{
		// Zeros are written without being read from the stage first.
		"a": base.disks["a"].with(5000, make([]byte, 60_000)), "b": base.disks["b"].with(1, noise(3, 3)),
		"c": sketch{size: 1024}.with(0, noise(4, 700)),
	}))
	next = plan("next", old, disks(map[dr.DiskID]sketch{
		"a": old.disks["a"].with(2000, noise(5, 50_000)), "b": old.disks["b"], "c": old.disks["c"].with(5, noise(6, 600)),
	}))
	// The last one is written beside all others, and heals nothing.
	last = plan("last", next, disks(map[dr.DiskID]sketch{
		"a": next.disks["a"].with(200_000, noise(7, 5000)), "b": next.disks["b"].with(0, noise(8, 4096)), "c": next.disks["c"],
	}))
	return base, old, next, last
}

// A process that wakes up when another has done its work, and more, changes
// nothing.
func TestAStaleProcessChangesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, client func(policy.Transporter) *container.Client) {
		stride := 1
		if t.Name() == "TestAStaleProcessChangesNothing/azurite" {
			stride = 9
		} else if testing.Short() {
			stride = 8
		}
		for variant := range 4 {
			after, alone := variant%2 == 1, variant > 1
			base, old, next, last := fourPoints(alone)
			for n := 1; ; n += stride {
				s := tuned(client(nil))
				require.NoError(t, put(t.Context(), s, base))
				require.NoError(t, s.Process(t.Context(), "m"))
				d, err := s.Create(t.Context(), old.Point)
				require.NoError(t, err)
				require.NoError(t, d.(dr.Zeroer).Zero(t.Context(), "a", 5000, 60_000))
				for _, disk := range old.Machine.Disks[1:] {
					id := disk.ID
					_, err := d.WriteAt(t.Context(), id, old.disks[id].read(0, 900), 0)
					require.NoError(t, err)
				}
				require.NoError(t, d.Commit(t.Context(), old.Point))
				require.NoError(t, d.Close())
				via := newStalled(n, after)
				done := make(chan error, 1)
				stale := tuned(client(via))
				go func() { done <- stale.Process(t.Context(), "m") }()
				over := false
				select {
				case <-via.reached:
					require.NoError(t, s.Process(t.Context(), "m"))
					require.NoError(t, put(t.Context(), s, next))
					require.NoError(t, s.Process(t.Context(), "m"))
				case err := <-done:
					require.NoError(t, err)
					over = true
				}
				close(via.let)
				if !over {
					err := <-done
					if err != nil {
						require.ErrorIs(t, err, dr.ErrFenced, "call %d", n)
					}
					require.NoError(t, put(t.Context(), s, last))
					require.NoError(t, s.Process(t.Context(), "m"))
					require.Equal(t, []dr.PointID{"base", "old", "next", "last"}, listed(t, s), "call %d", n)
					for _, p := range []planned{base, old, next, last} {
						holds(t, s, p)
					}
					sound(t, s)
				}
				_, err = s.Prune(t.Context())
				require.NoError(t, err)
				onlyNeeded(t, s)
				gone(t, s)
				if over {
					break
				}
			}
		}
	})
}

// Of two that process the same points at once, the one that was given the turn
// last goes on, and the other learns that it is fenced.
func TestTwoThatProcessAtOnce(t *testing.T) {
	client := simulated.start(t)
	base := plan("base", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 256 << 10}.with(0, noise(1, 100_000)), "b": {size: 4096}})
	p := plan("p", base, map[dr.DiskID]sketch{
		"a": base.disks["a"].with(3000, noise(2, 130_000)), "b": base.disks["b"].with(1, noise(3, 3)), "c": sketch{size: 1024}.with(0, noise(4, 700)),
	})
	q := plan("q", base, map[dr.DiskID]sketch{"a": base.disks["a"].with(1, noise(5, 5000)), "b": base.disks["b"]})
	first, second, stride := 0, 0, 1
	if testing.Short() {
		stride = 6
	}
	for n := 1; ; n += stride {
		s := tuned(client(nil))
		require.NoError(t, put(t.Context(), s, base))
		require.NoError(t, s.Process(t.Context(), "m"))
		require.NoError(t, put(t.Context(), s, p))
		require.NoError(t, put(t.Context(), s, q))
		run := func(via policy.Transporter) chan error {
			done := make(chan error, 1)
			go func() { done <- tuned(client(via)).Process(t.Context(), "m") }()
			return done
		}
		a := newStalled(n, n%2 == 0)
		aDone := run(a)
		over := false
		select {
		case <-a.reached:
		case err := <-aDone:
			require.NoError(t, err)
			over = true
		}
		if over {
			gone(t, s)
			break
		}
		b := newStalled(-1, false)
		bDone := run(round(func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("comp") == "page" && b.calls.Add(1) == 1 {
				close(b.reached)
				<-b.let
			}
			return web.Do(r)
		}))
		select {
		case <-b.reached:
		case err := <-bDone:
			require.NoError(t, err)
			bDone <- err
		}
		close(a.let)
		aErr := <-aDone
		close(b.let)
		bErr := <-bDone
		for _, err := range []error{aErr, bErr} {
			if err != nil {
				require.ErrorIs(t, err, dr.ErrFenced, "call %d", n)
			}
		}
		require.False(t, aErr != nil && bErr != nil, "call %d: both stopped: %v, %v", n, aErr, bErr)
		if aErr != nil {
			first++
		}
		if bErr != nil {
			second++
		}
		require.Equal(t, []dr.PointID{"base", "p", "q"}, listed(t, s))
		for _, x := range []planned{base, p, q} {
			holds(t, s, x)
		}
		_, err := s.Prune(t.Context())
		require.NoError(t, err)
		onlyNeeded(t, s)
		sound(t, s)
		gone(t, s)
	}
	require.NotZero(t, first)
	t.Logf("the first was fenced %d times, the second %d times", first, second)
}

func TestADraftThatWasTakenOverIsFenced(t *testing.T) {
	onBoth(t, func(t *testing.T, client func(policy.Transporter) *container.Client) {
		p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 300_000}.with(0, noise(1, 300_000))})
		q := plan("q", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 4096}.with(0, noise(2, 4096))})
		for _, second := range []planned{p, q} {
			old, s := tuned(client(nil)), tuned(client(nil))
			d, err := old.Create(t.Context(), p.Point)
			require.NoError(t, err)
			_, err = d.WriteAt(t.Context(), "a", noise(1, 200_000), 0)
			require.NoError(t, err)
			e, err := s.Create(t.Context(), second.Point)
			require.NoError(t, err)
			_, err = s.Create(t.Context(), q.Point)
			require.ErrorIs(t, err, dr.ErrBusy)

			_, err = d.WriteAt(t.Context(), "a", noise(9, 100), 250_000) // it may go on, to nobody's harm
			require.NoError(t, err)
			require.ErrorIs(t, d.Commit(t.Context(), p.Point), dr.ErrFenced)
			require.NoError(t, d.Close())

			require.NoError(t, fill(t.Context(), e, second))
			require.NoError(t, e.Commit(t.Context(), second.Point))
			require.NoError(t, e.Close())
			require.Error(t, d.Commit(t.Context(), p.Point))
			require.NoError(t, s.Process(t.Context(), "m"))
			require.Equal(t, []dr.PointID{second.ID}, listed(t, s))
			holds(t, s, second)
			gone(t, s)
		}
	})
}

// A draft's writer finds out too when the draft is deleted under it.
func TestADraftDeletedElsewhereIsFenced(t *testing.T) {
	client := simulated.start(t)
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": {size: 4096}})
	s := tuned(client(nil))
	d, err := s.Create(t.Context(), p.Point)
	require.NoError(t, err)
	require.NoError(t, tuned(client(nil)).Delete(t.Context(), "m", "p"))
	require.ErrorIs(t, d.Commit(t.Context(), p.Point), dr.ErrFenced)
	require.NoError(t, d.Close())
	gone(t, s)
}

// A lease that is lost while nobody else has the turn is no reason to stop for
// good.
func TestALeaseBrokenByHandIsAConflict(t *testing.T) {
	client := simulated.start(t)
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 4096}.with(0, noise(1, 4096))})
	s := tuned(client(nil))
	require.NoError(t, put(t.Context(), s, p))
	broken := errors.New("never")
	slow := tuned(client(round(func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("comp") == "page" && broken != nil {
			broken = s.breakLease(context.Background(), machineDir("m")+headBlob(t, s))
		}
		return web.Do(r)
	})))
	err := slow.Process(t.Context(), "m")
	require.NoError(t, broken)
	require.ErrorIs(t, err, dr.ErrConflict)
	require.False(t, dr.IsPermanent(err))
	require.NoError(t, slow.Process(t.Context(), "m"))
	holds(t, s, p)
}

func headBlob(t testing.TB, s *Store) string {
	h, _, err := s.readHead(t.Context(), "m")
	require.NoError(t, err)
	require.Len(t, h.Blobs, 1)
	return h.Blobs[0].Name
}

// Leases of a dead process are not waited for.
func TestTheDeadAreNotWaitedFor(t *testing.T) {
	onBoth(t, func(t *testing.T, client func(policy.Transporter) *container.Client) {
		p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 4096}.with(0, noise(1, 4096))})
		f := &faulty{way: lostAfter, through: web}
		s := tuned(client(f))
		require.NoError(t, put(t.Context(), s, p))
		f.n = f.calls + 7 // it has the lease by then
		require.Error(t, s.Process(t.Context(), "m"))
		start := time.Now()
		s = tuned(client(nil))
		require.NoError(t, s.Process(t.Context(), "m"))
		require.Less(t, time.Since(start), leaseSeconds*time.Second/2)
		holds(t, s, p)
	})
}

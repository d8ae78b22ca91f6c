package pageblob

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// How the n-th request goes wrong.
const (
	lostBefore = iota // it is not sent, and no request is from then on
	lostAfter         // its answer is lost, and no request is sent from then on
	hiccup            // it is not sent; later ones are
	deaf              // its answer is lost; later ones are sent
)

var ways = []string{"died before", "died after", "failed before", "failed after"}

var errLost = errors.New("connection lost")

// faulty is a transport on which the n-th request goes wrong.
type faulty struct {
	mu      sync.Mutex
	n, way  int
	calls   int
	hit     string
	through *http.Client
}

func (f *faulty) Do(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.calls++
	now, past := f.calls == f.n, f.n > 0 && f.calls > f.n
	if now {
		f.hit = r.Method + " " + r.URL.Path + "?" + r.URL.RawQuery
	}
	f.mu.Unlock()
	switch {
	case past && f.way <= lostAfter, now && (f.way == lostBefore || f.way == hiccup):
		return nil, errLost
	case now:
		if resp, err := f.through.Do(r); err == nil {
			resp.Body.Close()
		}
		return nil, errLost
	}
	return f.through.Do(r)
}

func (f *faulty) where() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hit
}

// story is what the store is put through; each step may be repeated.
func story() (steps []func(context.Context, *Store) error, left []planned) {
	const mib = 1 << 20
	p1 := plan("p1", planned{}, map[dr.DiskID]sketch{
		"a": sketch{size: 20 * mib}.with(100, noise(1, 200_000)).with(20*mib-3000, noise(2, 3000)),
		"b": sketch{size: 96 << 10}.with(0, noise(3, 96<<10)),
	})
	p2 := plan("p2", p1, map[dr.DiskID]sketch{ // over the VHD's end, so that its footer moves
		"a": p1.disks["a"].resized(20*mib+512).with(1000, make([]byte, 5000)).with(20*mib-100, noise(4, 612)),
		"b": p1.disks["b"].with(700, noise(5, 1000)),
	})
	p3 := plan("p3", p1, map[dr.DiskID]sketch{ // back to p1; one disk goes, one comes
		"a": p1.disks["a"].with(50_000, noise(6, 70_000)),
		"c": sketch{size: 4096}.with(512, noise(7, 512)),
	})
	p4 := plan("p4", p3, map[dr.DiskID]sketch{
		"a": p3.disks["a"].resized(150_000).with(149_000, noise(8, 1000)),
		"c": p3.disks["c"].with(0, make([]byte, 1024)),
	})
	process := func(ctx context.Context, s *Store) error { return s.Process(ctx, "m") }
	putting := func(p planned) func(context.Context, *Store) error {
		return func(ctx context.Context, s *Store) error { return put(ctx, s, p) }
	}
	deleting := func(id dr.PointID) func(context.Context, *Store) error {
		return func(ctx context.Context, s *Store) error { return s.Delete(ctx, "m", id) }
	}
	steps = []func(context.Context, *Store) error{
		putting(p1), process, putting(p2), process, putting(p3), putting(p4), deleting("p3"), process, deleting("p1"),
		func(ctx context.Context, s *Store) error { _, err := s.Prune(ctx); return err },
	}
	return steps, []planned{p2, p4}
}

var every = flag.Bool("every", false, "die at every call in every way")

func TestItDiesAtEveryCall(t *testing.T) {
	onBoth(t, func(t *testing.T, client func(policy.Transporter) *container.Client) {
		stride := 8 // every second call in one of the ways
		switch {
		case t.Name() == "TestItDiesAtEveryCall/azurite":
			stride = 61
		case *every:
			stride = 1
		case testing.Short():
			stride = 40
		}
		newest := func() *Store { return tuned(client(nil)) }
		for way := range ways {
			for n := 1 + 2*way; ; n += stride {
				f := &faulty{n: n, way: way, through: web}
				dying := tuned(client(f))
				steps, left := story()
				var died error
				for i, step := range steps {
					err := step(t.Context(), dying)
					for tries := 0; err != nil && tries < 3; tries++ {
						died = err
						if way <= lostAfter {
							dying = newest()
						}
						err = step(t.Context(), dying)
					}
					require.NoError(t, err, "step %d, %s call %d, %s", i, ways[way], n, f.where())
				}
				end := f.where()
				note := func() string { return fmt.Sprintf("%s call %d, %s: %v", ways[way], n, end, died) }
				if !t.Run("", func(t *testing.T) {
					defer func() {
						if t.Failed() {
							t.Log(note())
						}
					}()
					s := newest()
					require.Equal(t, []dr.PointID{"p2", "p4"}, listed(t, s))
					for _, p := range left {
						holds(t, s, p)
						for _, q := range left {
							covers(t, s, p, q)
						}
					}
					sound(t, s)
					_, err := s.Prune(t.Context())
					require.NoError(t, err)
					onlyNeeded(t, s)
					gone(t, s)
				}) {
					return
				}
				if end == "" {
					t.Logf("%s: %d calls", ways[way], n-1)
					break
				}
			}
		}
	})
}

// tuned makes a store that a few hundred kilobytes bring to its limits.
func tuned(c *container.Client) *Store {
	o := plainOptions
	o.CrossCheck = true
	s := New(c, o)
	s.segment = 64 << 10
	s.promoteFrom = 1
	return s
}

// A client that asks again when an answer is lost must not see more than one
// that had it at once.
func TestAnswersThatAreLostAreAskedForAgain(t *testing.T) {
	start := func(t *testing.T) func(f *faulty) *Store {
		c := simulated.start(t)
		return func(f *faulty) *Store {
			return tuned(c(round(func(r *http.Request) (*http.Response, error) {
				resp, err := f.Do(r)
				if errors.Is(err, errLost) && (r.Body == nil || r.GetBody != nil) {
					again := r.Clone(r.Context())
					if r.GetBody != nil {
						again.Body, _ = r.GetBody()
					}
					return f.Do(again)
				}
				return resp, err
			})))
		}
	}
	client := start(t)
	stride := 2
	switch {
	case *every:
		stride = 1
	case testing.Short():
		stride = 12
	}
	for n := 1; ; n += stride {
		f := &faulty{n: n, way: deaf, through: web}
		s := client(f)
		steps, left := story()
		for i, step := range steps {
			require.NoError(t, step(t.Context(), s), "step %d, call %d: %s", i, n, f.where())
		}
		for _, p := range left {
			holds(t, s, p)
		}
		_, err := s.Prune(t.Context())
		require.NoError(t, err)
		onlyNeeded(t, s)
		gone(t, s)
		if f.where() == "" {
			break
		}
	}
}

// A point that is deleted when a dead process has written half of it leaves
// nothing in those that are written to the same blobs.
func TestAHalfAppliedPointIsDeleted(t *testing.T) {
	client := simulated.start(t)
	base := plan("base", planned{}, map[dr.DiskID]sketch{
		"a": sketch{size: 1 << 20}.with(0, noise(1, 300_000)), "b": sketch{size: 20 << 20}.with(0, noise(2, 5000)),
	})
	other := plan("other", base, map[dr.DiskID]sketch{"a": base.disks["a"].with(1000, noise(3, 1000)), "b": base.disks["b"]})
	half := plan("half", base, map[dr.DiskID]sketch{ // back from other, and grown
		"a": base.disks["a"].with(100_000, noise(4, 200_000)).with(500_000, noise(5, 1000)),
		"b": base.disks["b"].resized(22<<20).with(21<<20, noise(6, 5000)), "c": sketch{size: 512}.with(0, noise(7, 512)),
	})
	after := plan("after", base, map[dr.DiskID]sketch{"a": base.disks["a"].with(299_000, noise(8, 2000)), "b": base.disks["b"].with(7, noise(9, 7))})
	stride := 3 // odd, so that the ways take turns
	switch {
	case *every:
		stride = 1
	case testing.Short():
		stride = 9
	}
	for _, far := range []int64{1, 1 << 40} {
		for n := 1; ; n += stride {
			s := tuned(client(nil))
			for _, p := range []planned{base, other} {
				require.NoError(t, put(t.Context(), s, p))
				require.NoError(t, s.Process(t.Context(), "m"))
			}
			require.NoError(t, put(t.Context(), s, half))
			f := &faulty{n: n, way: n % 2, through: web}
			dying := tuned(client(f))
			dying.promoteFrom = far
			_ = dying.Process(t.Context(), "m")
			s = tuned(client(nil))
			s.promoteFrom = far
			require.NoError(t, s.Delete(t.Context(), "m", "half"))
			require.NoError(t, put(t.Context(), s, after))
			require.NoError(t, s.Process(t.Context(), "m"))
			require.Equal(t, []dr.PointID{"base", "other", "after"}, listed(t, s), f.where())
			for _, p := range []planned{base, other, after} {
				holds(t, s, p)
			}
			sound(t, s)
			_, err := s.Prune(t.Context())
			require.NoError(t, err)
			onlyNeeded(t, s)
			gone(t, s)
			if f.where() == "" {
				break
			}
		}
	}
}

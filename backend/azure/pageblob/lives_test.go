package pageblob

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var seedFlag = flag.Uint64("seed", 0, "repeat the random tests of this seed; 0: a new one")

// Many short lives: points of every shape are written over each other, received
// and processed late, deleted in between, while processes die or take over.
func TestLivesThatEndAnywhere(t *testing.T) {
	n, first := 60, *seedFlag
	if testing.Short() {
		n = 6
	}
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	} else {
		n = 1
	}
	for i := range uint64(n) {
		if !t.Run("", func(t *testing.T) { lives(t, first+i) }) {
			t.Logf("-seed=%d", first+i)
			return
		}
	}
}

type world struct {
	*testing.T
	rnd    *rand.Rand
	client func(f *faulty) *Store
	s      *Store
	f      *faulty
	points []planned // not deleted, in the order of their commits
	serial int
}

func lives(t *testing.T, seed uint64) {
	c := simulated.start(t)
	w := &world{T: t, rnd: rand.New(rand.NewPCG(seed, 0))}
	w.client = func(f *faulty) *Store {
		s := tuned(c(f))
		s.promoteFrom = int64(w.rnd.IntN(2)) << 40
		return s
	}
	w.born()
	for range 40 {
		switch k := w.rnd.IntN(12); {
		case k < 4:
			p := w.think()
			w.do("put "+string(p.ID)+" over "+string(p.Parent), func(ctx context.Context, s *Store) error { return put(ctx, s, p) })
			w.points = append(w.points, p)
		case k < 6:
			w.do("process", func(ctx context.Context, s *Store) error { return s.Process(ctx, "m") })
		case k < 8 && len(w.points) > 0:
			i := w.rnd.IntN(len(w.points))
			id := w.points[i].ID
			w.do("delete "+string(id), func(ctx context.Context, s *Store) error { return s.Delete(ctx, "m", id) })
			w.points = slices.Delete(w.points, i, i+1)
		case k < 9:
			w.do("prune", func(ctx context.Context, s *Store) error { _, err := s.Prune(ctx); return err })
		case k < 10:
			w.born() // another process takes over
		default:
			w.check()
		}
	}
	w.check()
	w.s = w.client(&faulty{through: web})
	_, err := w.s.Prune(t.Context())
	require.NoError(t, err)
	_, err = w.s.Prune(t.Context())
	require.NoError(t, err)
	sound(t, w.s)
	onlyNeeded(t, w.s)
	gone(t, w.s)
}

// born begins a life, which ends somewhere.
func (w *world) born() {
	w.f = &faulty{n: 1 + w.rnd.IntN(300), way: w.rnd.IntN(len(ways)), through: web}
	w.s = w.client(w.f)
}

// do repeats a step until it succeeds, in the next life if this one has ended.
func (w *world) do(what string, step func(context.Context, *Store) error) {
	w.Helper()
	w.Log(what)
	err := step(w.Context(), w.s)
	for tries := 0; err != nil && tries < 20; tries++ {
		w.Logf("%s: %s: %v", ways[w.f.way], w.f.where(), err)
		if w.f.way <= lostAfter {
			w.born()
		}
		err = step(w.Context(), w.s)
	}
	require.NoError(w, err, what)
}

func (w *world) think() planned {
	w.serial++
	var parent planned
	if len(w.points) > 0 && w.rnd.IntN(8) > 0 {
		parent = w.points[len(w.points)-1]
		if w.rnd.IntN(3) == 0 {
			parent = w.points[w.rnd.IntN(len(w.points))]
		}
	}
	disks := map[dr.DiskID]sketch{}
	for _, id := range []dr.DiskID{"a", "b", "c"} {
		s, ok := parent.disks[id]
		if ok == (w.rnd.IntN(10) == 0) {
			continue
		}
		size := int64(1+w.rnd.IntN(600)) * 512
		if w.rnd.IntN(4) == 0 {
			size += 20 << 20 // so that the footer moves
		}
		if !ok {
			s = sketch{size: size}
		} else if w.rnd.IntN(4) == 0 {
			s = s.resized(size)
		}
		for i := range w.rnd.IntN(4) {
			off := w.rnd.Int64N(s.size)
			b := noise(w.serial*10+i, int(min(s.size-off, 1+w.rnd.Int64N(150_000))))
			if w.rnd.IntN(4) == 0 {
				clear(b)
			}
			s = s.with(off, b)
		}
		disks[id] = s
	}
	p := plan(dr.PointID(fmt.Sprint("p", w.serial)), parent, disks)
	p.Time = p.Time.Add(time.Duration(w.serial) * time.Minute)
	return p
}

func (w *world) check() {
	w.Helper()
	w.do("process", func(ctx context.Context, s *Store) error { return s.Process(ctx, "m") })
	s := w.client(&faulty{through: web})
	ids := []dr.PointID{}
	for _, p := range w.points {
		ids = append(ids, p.ID)
	}
	require.Equal(w, ids, append([]dr.PointID{}, listed(w, s)...))
	for _, p := range w.points {
		holds(w, s, p)
	}
	for range min(4, len(w.points)) {
		covers(w, s, w.points[w.rnd.IntN(len(w.points))], w.points[w.rnd.IntN(len(w.points))])
	}
}

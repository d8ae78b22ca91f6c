package backendtest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// settling is a running machine whose images settle, and its guest, which
// writes while they are read. What it wrote, and in which order, is known: so
// a copy that is of no one moment is found out.
type settling struct {
	*env
	b   backend.Backend
	m   dr.Machine
	now content // what the guest has written; only while it rests

	rng   *rand.Rand
	turns chan struct{} // nil: the guest has ended
	gone  sync.WaitGroup

	mu          sync.Mutex
	base        content // before the first of log
	log         []wrote
	begun, done int // of log
	failed      error
	rested      *sync.Cond
}

type wrote struct {
	disk dr.DiskID
	off  int64
	data []byte
}

// settling makes the machine, or skips the subtest.
func (e *env) settling() *settling {
	e.Helper()
	s := &settling{env: e, b: e.b, turns: make(chan struct{}, 1<<16), rng: rand.New(rand.NewPCG(e.h.Seed, 2))}
	s.rested = sync.NewCond(&s.mu)
	if e.h.Live != nil {
		s.b = e.h.Live()
	}
	s.m, s.now = e.running()
	img := s.capture("probe")
	s.settler(img)
	e.ok(img.Close())
	e.ok(s.b.Release(e.Context(), s.m.ID, "probe"))
	s.base = s.now.clone()
	turns := s.turns
	s.gone.Go(func() { s.guest(turns) })
	e.Cleanup(s.end)
	return s
}

func (s *settling) settler(img dr.Image) dr.Settler {
	s.Helper()
	return need[dr.Settler](s.env, img, "dr.Settler")
}

func (s *settling) capture(name dr.PointID) dr.Image {
	s.Helper()
	img, err := s.b.Capture(s.Context(), s.m.ID, name, dr.FileSystemConsistent)
	s.ok(err)
	s.Cleanup(func() { _ = img.Close() })
	return img
}

// guest writes once a turn.
func (s *settling) guest(turns <-chan struct{}) {
	for range turns {
		s.mu.Lock()
		disk := []dr.DiskID{diskA, diskB}[s.rng.IntN(2)]
		size := int64(len(s.now[disk]))
		off := s.rng.Int64N(size/512) * 512
		p := s.random(min(512*(1+s.rng.Int64N(24)), size-off))
		s.log = append(s.log, wrote{disk, off, p})
		s.begun++
		s.mu.Unlock()
		err := s.h.Write(s.m.ID, disk, p, off)
		s.mu.Lock()
		copy(s.now[disk][off:], p)
		s.done++
		s.failed = errors.Join(s.failed, err)
		s.rested.Broadcast()
		s.mu.Unlock()
	}
}

func (s *settling) random(n int64) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(s.rng.Uint32()) | 1
	}
	return p
}

// quiet is how long a guest that can write takes for it at most. Where it is
// longer, less is found out, and nothing wrongly.
const quiet = 20 * time.Millisecond

// write gives the guest n turns, and waits until it has had them all or seems
// to be frozen.
func (s *settling) write(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns == nil {
		return
	}
	want := s.done + len(s.turns) + n
	if s.begun > s.done {
		want++
	}
	for range n {
		s.turns <- struct{}{}
	}
	late := false
	timer := time.AfterFunc(quiet, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.rested.Broadcast()
	})
	defer timer.Stop()
	for s.done < want && !late {
		s.rested.Wait()
	}
}

// end lets the guest have its last turns. The machine must not be frozen.
func (s *settling) end() {
	s.mu.Lock()
	turns := s.turns
	s.turns = nil
	s.mu.Unlock()
	if turns == nil {
		return
	}
	close(turns)
	s.gone.Wait()
	if s.failed != nil {
		s.Errorf("the guest's write: %v", s.failed)
	}
}

// patience is how long a write may take that nothing should keep.
func (s *settling) patience() time.Duration {
	if s.h.patience > 0 {
		return s.h.patience
	}
	return 10 * time.Second
}

// writable tells whether a write completes now. One that doesn't is left
// waiting, and then nothing may be compared any more.
func (s *settling) writable(patience time.Duration) bool {
	p := make([]byte, 512)
	copy(p, s.now[diskB])
	wrote := make(chan error, 1)
	go func() { wrote <- s.h.Write(s.m.ID, diskB, p, 0) }()
	select {
	case err := <-wrote:
		s.ok(err)
		return true
	case <-time.After(patience):
		return false
	}
}

// abandoned captures, and leaves the image to f after no pass, after one, and
// so on until it has settled.
func (s *settling) abandoned(f func(img dr.Image, passes int)) {
	s.Helper()
	for passes := 0; ; passes++ {
		require.Less(s, passes, 100, "it never settles")
		img := s.capture(dr.PointID(fmt.Sprintf("abandoned-%d", passes)))
		for range passes {
			more, err := s.settler(img).Settle(s.Context())
			s.ok(err)
			if !more {
				s.ok(img.Close())
				return
			}
		}
		f(img, passes)
	}
}

// cycle makes to, which holds what it held at since, hold a new point, and
// checks that this is one moment of the guest's.
func (s *settling) cycle(name dr.PointID, since dr.Point, to content) dr.Point {
	s.Helper()
	s.mu.Lock()
	first := s.done
	s.mu.Unlock()
	img := s.capture(name)
	s.copy(img, since, to)
	p := img.Point()
	s.ok(img.Close())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns == nil { // what the guest has is known exactly
		for disk, want := range s.now.all() {
			s.sameBytes(want, to[disk], fmt.Sprintf("disk %s of point %s", disk, name))
		}
		return p
	}
	s.moment(name, to, first, s.begun)
	return p
}

// copy reads the image pass by pass, as a replication does.
func (s *settling) copy(img dr.Image, since dr.Point, to content) {
	s.Helper()
	for pass := 0; ; pass++ {
		require.Less(s, pass, 100, "it never settles")
		if pass == 4 && s.turns != nil {
			s.rest()
		}
		for disk, b := range to.all() {
			s.write(2)
			if err := s.read(img, disk, b, since, pass == 0); err != nil {
				s.Errorf("pass %d of point %s, disk %s: %v", pass+1, img.Point().ID, disk, err)
				s.FailNow()
			}
		}
		s.write(2)
		more, err := s.settler(img).Settle(s.Context())
		s.ok(err)
		if !more {
			return
		}
	}
}

// rest takes the turns that the guest hasn't begun: what can't freeze a
// machine settles only if it is quiet for a pass.
func (s *settling) rest() {
	for {
		select {
		case <-s.turns:
		default:
			return
		}
	}
}

func (s *settling) read(img dr.Image, disk dr.DiskID, b []byte, since dr.Point, first bool) error {
	whole := func() error {
		_, err := img.ReadAt(s.Context(), disk, b, 0)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	}
	tracker, ok := dr.As[dr.ChangeTracker](img)
	if !ok || first && since.ID == "" {
		return whole()
	}
	for x, err := range tracker.Changes(s.Context(), disk, since) {
		if errors.Is(err, dr.ErrChangesLost) && !first {
			return whole()
		}
		if err == nil {
			_, err = img.ReadAt(s.Context(), disk, b[x.Off:x.End()], x.Off)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// tells says whether the image knows changes since a point at all.
func (e *env) tells(img dr.Image, since dr.Point) bool {
	tracker, ok := dr.As[dr.ChangeTracker](img)
	if !ok {
		return false
	}
	for _, err := range tracker.Changes(e.Context(), diskA, since) {
		return !errors.Is(err, dr.ErrChangesLost)
	}
	return true
}

// moment fails unless got is what the guest had after some write from the
// first to the last.
func (s *settling) moment(name dr.PointID, got content, first, last int) {
	s.Helper()
	const sector = 512
	type place struct {
		disk dr.DiskID
		off  int64
	}
	model, wrong := s.base.clone(), map[place]bool{}
	check := func(disk dr.DiskID, off, end int64) {
		for at := off / sector * sector; at < end; at += sector {
			to := min(at+sector, int64(len(model[disk])))
			if string(model[disk][at:to]) == string(got[disk][at:to]) {
				delete(wrong, place{disk, at})
			} else {
				wrong[place{disk, at}] = true
			}
		}
	}
	for disk, b := range model.all() {
		check(disk, 0, int64(len(b)))
	}
	best := -1
	for k := 0; k <= last; k++ {
		if k > 0 {
			w := s.log[k-1]
			copy(model[w.disk][w.off:], w.data)
			check(w.disk, w.off, w.off+int64(len(w.data)))
		}
		if k < first {
			continue
		}
		if len(wrong) == 0 {
			return
		}
		if best < 0 || len(wrong) < best {
			best = len(wrong)
		}
	}
	s.Errorf("point %s is no moment of the guest's: %d sectors at least are of another one than the rest", name, best)
	s.FailNow()
}

package backendtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var historyPromises = []promise{
	{"random histories agree with a model", func(e *env) {
		for i := range e.h.Histories {
			e.rng = rand.New(rand.NewPCG(e.h.Seed, uint64(100+i)))
			h := &history{env: e}
			e.Logf("history %d of seed %d", i, e.h.Seed)
			h.run(30)
		}
	}},
}

// history is a replica's life, and what has to be true of it.
type history struct {
	*env
	key     string
	machine dr.Machine
	id      dr.MachineID
	log     []string

	// The model.
	now    content
	on     bool
	torn   bool
	virgin bool
	holds  dr.PointID
	kept   map[dr.PointID]moment // captured and not released
	known  map[dr.PointID]moment // captured or committed: bases for Changes
	names  int
}

type moment struct {
	point dr.Point
	then  content
}

func (h *history) run(steps int) {
	h.Helper()
	p, _ := h.standIn("unused")
	h.key, h.machine = h.env.key(), p.Machine
	h.now, h.virgin = zeros(p.Machine), true
	h.kept, h.known = map[dr.PointID]moment{}, map[dr.PointID]moment{}
	r := h.prepare(h.key, h.machine)
	h.id = r.ID
	defer func() {
		if len(h.log) > 0 {
			h.Logf("seed %d, history: %s", h.h.Seed, strings.Join(h.log, "; "))
		}
	}()
	moves := []func(){h.write, h.write, h.write, h.switchOn, h.switchOff, h.take, h.take, h.find, h.release, h.copyIn, h.copyIn, h.abandon, h.crash}
	for range steps {
		moves[h.rng.IntN(len(moves))]()
		h.agree()
	}
	h.ok(h.b.Remove(h.Context(), h.id))
	_, err := h.b.Machine(h.Context(), h.id)
	require.ErrorIs(h, err, dr.ErrNotFound)
	h.log = nil
}

func (h *history) say(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

func (h *history) name() dr.PointID {
	h.names++
	return dr.PointID(fmt.Sprintf("p%d", h.names))
}

// agree compares what can be seen with the model.
func (h *history) agree() {
	h.Helper()
	if h.on {
		h.power(h.id, dr.On)
		return
	}
	want := backend.Replica{ID: h.id, Holds: h.holds, Torn: h.torn, New: h.virgin}
	require.Equal(h, want, h.prepare(h.key, h.machine))
	if !h.torn {
		h.sameDisks(h.id, h.now, "stopped")
	}
}

func (h *history) write() {
	if !h.on {
		return
	}
	s := h.scribble(h.id, h.now, 1+h.rng.IntN(3))
	h.say("guest writes %v", s)
}

func (h *history) switchOn() {
	h.say("start")
	err := h.b.Start(h.Context(), h.id)
	if h.torn {
		require.ErrorIs(h, err, dr.ErrTorn)
		return
	}
	h.ok(err)
	h.on, h.holds, h.virgin = true, "", false
}

func (h *history) switchOff() {
	h.say("stop")
	h.ok(h.b.Stop(h.Context(), h.id))
	h.on = false
}

// take captures, and asks for the changes since some of what is known.
func (h *history) take() {
	name := h.name()
	h.say("capture %s", name)
	img, err := h.b.Capture(h.Context(), h.id, name, dr.CrashConsistent)
	if h.torn {
		require.ErrorIs(h, err, dr.ErrTorn)
		return
	}
	h.ok(err)
	defer img.Close()
	h.sameImage(img, h.now, "captured")
	if _, ok := dr.As[dr.ChangeTracker](img); ok {
		for range 3 {
			base, ok := h.pick(h.known)
			if !ok {
				break
			}
			m := h.known[base]
			// Exactness has tests of its own; here nothing may be missing.
			var whole []span
			for disk, b := range h.now {
				whole = append(whole, span{disk, 0, int64(len(b))})
			}
			if h.h.Forgets && h.forgot(img, m.point) {
				continue
			}
			h.changes(img, m.point, m.then, h.now, whole)
		}
	}
	m := moment{img.Point(), h.now.clone()}
	h.kept[name], h.known[name] = m, m
	if !h.on {
		h.holds = name
	}
}

// forgot tells whether the changes since a point are lost, on any disk.
func (h *history) forgot(img dr.Image, since dr.Point) bool {
	tracker, _ := dr.As[dr.ChangeTracker](img)
	for _, disk := range []dr.DiskID{diskA, diskB} {
		for _, err := range tracker.Changes(h.Context(), disk, since) {
			if errors.Is(err, dr.ErrChangesLost) {
				return true
			}
		}
	}
	return false
}

// pick returns one of the moments, the same for the same seed.
func (h *history) pick(from map[dr.PointID]moment) (dr.PointID, bool) {
	if len(from) == 0 {
		return "", false
	}
	for {
		name := dr.PointID(fmt.Sprintf("p%d", 1+h.rng.IntN(h.names)))
		if _, ok := from[name]; ok {
			return name, true
		}
	}
}

func (h *history) find() {
	name, ok := h.pick(h.kept)
	if !ok || h.h.Volatile {
		return
	}
	h.say("capture %s again", name)
	img := h.capture(h.id, name)
	h.sameImage(img, h.kept[name].then, "found")
	require.True(h, h.kept[name].point.Time.Equal(img.Point().Time))
	h.ok(img.Close())
}

func (h *history) release() {
	name, ok := h.pick(h.kept)
	if !ok {
		return
	}
	h.say("release %s", name)
	h.ok(h.b.Release(h.Context(), h.id, name))
	delete(h.kept, name)
}

// begin opens a draft of a new point that differs from now at a few places.
func (h *history) begin() (dr.Draft, dr.Point, content, bool) {
	p, _ := h.standIn(h.name())
	d, err := h.b.Draft(h.Context(), h.id, p)
	if h.on {
		require.ErrorIs(h, err, dr.ErrRunning)
		return nil, p, nil, false
	}
	h.ok(err)
	h.torn, h.holds, h.virgin = true, "", false
	to := h.now.clone()
	// After an earlier torn draft nobody knows the disks: write everything.
	for disk, b := range to.all() {
		n := h.rng.Int64N(int64(len(b)))
		copy(b[h.rng.Int64N(int64(len(b))):], h.bytes(n/8))
		h.pieces(d, disk, b)
	}
	return d, p, to, true
}

// pieces writes all of b in pieces.
func (h *history) pieces(d dr.Draft, disk dr.DiskID, b []byte) {
	for off := 0; off < len(b); {
		n := min(1+h.rng.IntN(200<<10), len(b)-off)
		h.env.write(d, disk, b[off:off+n], int64(off))
		off += n
	}
}

func (h *history) copyIn() {
	d, p, to, ok := h.begin()
	h.say("draft %s", p.ID)
	if !ok {
		return
	}
	h.say("commit %s", p.ID)
	h.ok(d.Commit(h.Context(), p))
	h.ok(d.Close())
	h.now, h.torn, h.holds = to, false, p.ID
	h.known[p.ID] = moment{p, to.clone()}
}

// abandon leaves a draft half written.
func (h *history) abandon() {
	if h.rng.IntN(2) == 0 {
		return
	}
	d, p, _, ok := h.begin()
	h.say("draft %s, abandoned", p.ID)
	if ok {
		h.ok(d.Close())
	}
}

func (h *history) crash() {
	if h.h.Reopen == nil {
		return
	}
	h.say("crash")
	h.reopen()
}

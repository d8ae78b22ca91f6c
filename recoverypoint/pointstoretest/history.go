package pointstoretest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// historySteps is how long a history is: enough for a few points to come, be
// written over, and go.
const historySteps = 60

func histories(t *testing.T, h Harness) {
	n := h.Histories
	if n == 0 {
		n = 30
		if testing.Short() {
			n = 5
		}
	}
	first := h.Seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range uint64(n) {
		seed := first + i
		if !t.Run("", func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("to run it again: Harness{Seed: %d, Histories: 1}", seed)
				}
			}()
			history(newKit(t, h), seed)
		}) {
			return
		}
	}
}

// machineModel is what a machine of the store should have.
type machineModel struct {
	id     dr.MachineID
	order  []dr.PointID
	points map[dr.PointID]dr.Point
	want   map[dr.PointID]disks

	draft  dr.Draft // nil: none is open
	point  dr.Point // the draft's, or of the one interrupted last
	now    disks    // what the draft reads as, where that is known
	unsure sectors  // where it isn't: what was interrupted, and isn't written again yet
	final  disks    // what it will read as when the copy has ended
	begun  bool     // there was a draft of exactly this point before
	opened map[dr.Image]dr.PointID
}

// sector is the granularity of disks' sizes, in bytes.
const sector = 512

// sectors are parts of disks.
type sectors map[dr.DiskID]map[int64]bool

func (s sectors) add(id dr.DiskID, off, end int64) {
	for at := off / sector; at*sector < end; at++ {
		s[id][at] = true
	}
}

// remove takes out those that lie in [off, end) as a whole.
func (s sectors) remove(id dr.DiskID, off, end int64) {
	for at := (off + sector - 1) / sector; (at+1)*sector <= end; at++ {
		delete(s[id], at)
	}
}

func (s sectors) empty() bool {
	for _, of := range s {
		if len(of) > 0 {
			return false
		}
	}
	return true
}

// history does what comes to mind, and checks after each step something of
// what should hold.
func history(k *kit, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var machines []*machineModel
	for _, id := range []dr.MachineID{"m", "n"} {
		machines = append(machines, &machineModel{id: id, points: map[dr.PointID]dr.Point{}, want: map[dr.PointID]disks{}, opened: map[dr.Image]dr.PointID{}})
	}
	serial := 0
	for step := range historySteps {
		m := machines[rnd.IntN(len(machines))]
		what := "create"
		if m.draft != nil {
			what = pick(rnd, "write", "write", "write", "zero", "interrupt", "interrupt", "commit")
		}
		what = pick(rnd, what, what, what, what, "open", "read", "changes", "delete", "prune", "crash", "check")
		k.Logf("seed %d, step %d: %s on %s", seed, step, what, m.id)
		switch what {
		case "create":
			serial++
			switch next := dr.PointID(fmt.Sprintf("p%d", serial)); {
			case m.point.ID == "" || rnd.IntN(8) == 0:
				m.plan(rnd, next, serial)
			case rnd.IntN(8) == 0: // the interrupted one's name, for another moment
				m.plan(rnd, m.point.ID, serial)
			}
			k.begin(m, rnd.IntN(3) == 0)
		case "write":
			k.scribble(m, rnd)
		case "zero":
			id, off, n := m.somewhere(rnd)
			for n > 0 && m.final[id][off+n-1] != 0 {
				n-- // a point's content is what it is: only its zeros are zeroed
			}
			zeros := m.final[id][off : off+n]
			for i := len(zeros) - 1; i >= 0; i-- {
				if zeros[i] != 0 {
					off, n = off+int64(i)+1, n-int64(i)-1
					break
				}
			}
			clear(m.now[id][off : off+n])
			m.unsure.remove(id, off, off+n)
			k.zero(m.draft, id, off, n)
		case "interrupt":
			k.close(m.draft)
			m.draft = nil
			for range rnd.IntN(3) {
				switch rnd.IntN(4) {
				case 0:
					k.prune()
				case 1:
					k.drop(m, rnd)
				case 2:
					k.crash(machines)
				}
				if k.begin(m, rnd.IntN(4) == 0); m.draft == nil {
					break // its parent is gone
				}
				k.scribble(m, rnd)
				k.close(m.draft)
				m.draft = nil
			}
		case "commit":
			k.finish(m)
		case "open":
			if id, ok := m.some(rnd); ok {
				m.opened[k.open(m.id, id)] = id
			}
		case "read":
			for img, id := range m.opened {
				if !m.gone(id) || rnd.IntN(2) == 0 {
					k.reads(img, m.want[id])
					k.sums(img, m.want[id])
				}
				k.close(img)
				delete(m.opened, img)
			}
		case "changes":
			a, ok := m.some(rnd)
			b, _ := m.some(rnd)
			if ok {
				img := k.open(m.id, a)
				k.covers(img, m.want[a], m.points[b], m.want[b], false)
				k.close(img)
			}
		case "delete":
			k.drop(m, rnd)
		case "prune":
			k.prune()
		case "crash":
			k.crash(machines)
		case "check":
			k.check(m)
		}
		if m.draft != nil && m.unsure.empty() && rnd.IntN(4) == 0 {
			k.sums(m.draft, m.now)
		}
	}
	for _, m := range machines {
		if m.draft != nil {
			k.finish(m)
		}
		k.check(m)
		for img, id := range m.opened {
			k.reads(img, m.want[id])
			k.close(img)
		}
	}
	k.scrub()
}

// scribble writes a few pieces of what the draft is to be.
func (k *kit) scribble(m *machineModel, rnd *rand.Rand) {
	k.Helper()
	for range 1 + rnd.IntN(4) {
		id, off, n := m.somewhere(rnd)
		k.write(m.draft, id, m.final[id][off:off+n], off)
		copy(m.now[id][off:], m.final[id][off:off+n])
		m.unsure.remove(id, off, off+n)
	}
}

// drop deletes some point.
func (k *kit) drop(m *machineModel, rnd *rand.Rand) {
	k.Helper()
	if id, ok := m.some(rnd); ok {
		require.NoError(k, k.s.Delete(k.ctx, m.id, id))
		m.order = slices.DeleteFunc(m.order, func(o dr.PointID) bool { return o == id })
	}
}

// crash takes the process from under all drafts and images.
func (k *kit) crash(machines []*machineModel) {
	k.Helper()
	if k.reopen() {
		for _, m := range machines {
			m.draft = nil
			clear(m.opened)
		}
	}
}

// plan thinks of a new point: its parent, its disks and its bytes.
func (m *machineModel) plan(rnd *rand.Rand, id dr.PointID, serial int) {
	parent, ok := m.some(rnd)
	if ok && rnd.IntN(3) > 0 {
		parent = m.order[len(m.order)-1] // as replication does
	}
	m.final = m.want[parent].clone()
	if !ok || rnd.IntN(6) == 0 {
		size := sector * (1 + rnd.IntN(6*block/sector))
		content := make([]byte, size)
		if rnd.IntN(3) > 0 {
			content = fill(fmt.Sprint(id, serial), size)
		}
		m.final[dr.DiskID(fmt.Sprintf("d%d", rnd.IntN(3)))] = content
	}
	for disk, b := range m.final {
		switch rnd.IntN(12) {
		case 0, 1:
			b = append(b, make([]byte, sector*rnd.IntN(200))...)
		case 2, 3:
			b = b[:sector*(1+rnd.IntN(len(b)/sector))]
		case 4:
			if len(m.final) > 1 {
				delete(m.final, disk)
				continue
			}
		}
		m.final[disk] = b
		for i := range rnd.IntN(5) {
			off := rnd.IntN(len(b))
			data := fill(fmt.Sprint(id, serial, disk, i), 1+rnd.IntN(2*block))
			if i%3 == 1 {
				clear(data)
			}
			copy(b[off:], data)
		}
	}
	m.point = point(m.id, id, parent, m.final)
	m.point.Time = epoch.Add(time.Duration(serial) * time.Minute)
	m.begun = false
}

// begin creates or resumes the draft, and learns from it what is there. With
// mend what isn't durable is written at once.
func (k *kit) begin(m *machineModel, mend bool) {
	k.Helper()
	if m.point.Parent != "" && m.gone(m.point.Parent) {
		// Resuming needs no parent, beginning does: both are right answers.
		d, err := k.s.Create(k.ctx, m.point)
		if errors.Is(err, dr.ErrNotFound) {
			m.point = dr.Point{}
			return
		}
		require.NoError(k, err)
		m.draft = d
	} else {
		m.draft = k.create(m.point)
	}
	m.now, m.unsure = disks{}, sectors{}
	for id, b := range m.final {
		m.unsure[id] = map[int64]bool{}
		now := make([]byte, len(b))
		copy(now, m.want[m.point.Parent][id])
		m.now[id] = now
		extents := k.durable(m.draft, id, int64(len(b)))
		if !m.begun {
			require.Empty(k, extents, "durable in a draft made afresh")
			continue
		}
		// What else was kept of the interrupted draft is not known: the rest
		// is to be written, as a copy does that goes on; and is interrupted
		// perhaps before that.
		at := int64(0)
		for _, e := range append(extents, dr.Extent{Off: int64(len(b))}) {
			switch {
			case e.Off <= at:
			case mend:
				k.write(m.draft, id, b[at:e.Off], at)
			default:
				m.unsure.add(id, at, e.Off)
			}
			at = e.End()
		}
		copy(now, b)
	}
	m.begun = true
}

// finish ends the copy and commits.
func (k *kit) finish(m *machineModel) {
	k.Helper()
	for id, b := range m.final {
		// Only what differs travels: so what is inherited must be right.
		for off := 0; off < len(b); off += sector {
			end := min(len(b), off+sector)
			if m.unsure[id][int64(off/sector)] || !bytes.Equal(m.now[id][off:end], b[off:end]) {
				k.write(m.draft, id, b[off:end], int64(off))
			}
		}
	}
	k.commit(m.draft, m.point)
	m.order = append(m.order, m.point.ID)
	m.points[m.point.ID], m.want[m.point.ID] = m.point, m.final.clone()
	m.draft, m.point = nil, dr.Point{}
}

func (k *kit) check(m *machineModel) {
	k.Helper()
	k.listed(m.id, m.order...)
	for _, id := range m.order {
		k.holds(m.id, id, m.want[id])
	}
}

func (k *kit) scrub() {
	k.Helper()
	if s, ok := dr.As[recoverypoint.Scrubber](k.s); ok {
		require.Empty(k, collect(k, s.Scrub(k.ctx)), "damage where there is none")
	}
}

func (m *machineModel) gone(id dr.PointID) bool { return !slices.Contains(m.order, id) }

// some returns one of the machine's points.
func (m *machineModel) some(rnd *rand.Rand) (dr.PointID, bool) {
	if len(m.order) == 0 {
		return "", false
	}
	return m.order[rnd.IntN(len(m.order))], true
}

// somewhere returns a range of the draft's disks.
func (m *machineModel) somewhere(rnd *rand.Rand) (dr.DiskID, int64, int64) {
	d := m.point.Machine.Disks[rnd.IntN(len(m.point.Machine.Disks))]
	off := rnd.Int64N(d.Size)
	n := 1 + rnd.Int64N(min(d.Size-off, 2*block))
	if rnd.IntN(3) == 0 { // aligned, as copies are
		off = off / block * block
		n = min(block, d.Size-off)
	}
	return d.ID, off, n
}

func pick(rnd *rand.Rand, of ...string) string { return of[rnd.IntN(len(of))] }

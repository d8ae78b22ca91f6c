package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// TestCyclesOfManyDeaths replicates a machine that is written to and grows into
// a vault, by processes that are killed or whose disk fails them again and
// again, with power cuts, expiry and prunes between; and hydrates a replica
// from any point, whatever it holds. Every point is what was captured under
// its name, and none that was ever seen is lost.
func TestCyclesOfManyDeaths(t *testing.T) {
	seed := newSeed(t)
	for n := range lives() {
		if !t.Run("", func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("to run it again: -seed=%d -deaths=1", seed+n)
				}
			}()
			newMortals(t, seed+n).live(40)
		}) {
			return
		}
	}
}

// mortals are processes that replicate machine "vm" one after the other.
type mortals struct {
	t     *testing.T
	rnd   *rand.Rand
	home  *memory.Backend
	away  *memory.Backend
	disk  *crashfs.FS
	vault vault.Options

	proc      *crashfs.Process
	captured  map[dr.PointID]content // what the machine was at the capture of that name
	seen      map[dr.PointID]bool    // points that must be there
	replica   dr.MachineID
	held      dr.Point    // what it held last, as a whole
	serial    int         // of the names that flows give
	impatient func()      // called at each read of a cycle
	begun     *dr.PointID // the name given to a cycle that was interrupted; may be empty
	gone      bool        // points were deleted since: a name is never given again
}

func newMortals(t *testing.T, seed uint64) *mortals {
	rnd := rand.New(rand.NewPCG(seed, 2))
	can := func() bool { return rnd.IntN(3) > 0 }
	m := &mortals{t: t, rnd: rnd, disk: crashfs.New(seed),
		home:     memory.New(memory.Options{Site: "home", NoTracker: !can(), NoMap: !can(), NoSums: !can(), NoSweep: !can(), Granularity: []int64{512, 4096, 0}[rnd.IntN(3)]}),
		away:     memory.New(memory.Options{Site: "away", NoTracker: !can(), NoSums: !can(), NoZero: !can(), NoResume: !can()}),
		captured: map[dr.PointID]content{}, seen: map[dr.PointID]bool{}}
	m.vault = vault.Options{Codec: vault.S2}.SmallSegments([]int{128 << 10, 256 << 10, 1 << 20}[rnd.IntN(3)])
	size := func() int64 { return 512 * (1 + rnd.Int64N(10*chunk/512)) }
	require.NoError(t, m.home.Add(dr.Machine{ID: "vm", Power: dr.On, Disks: []dr.Disk{{ID: "a", Size: size()}, {ID: "b", Size: size()}}}))
	return m
}

// Capture implements backend.Source; a dead process reaches no platform.
func (m *mortals) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	if m.proc.Dead() {
		return nil, crashfs.ErrKilled
	}
	there, err := m.home.Captures(id)
	require.NoError(m.t, err)
	if !slices.Contains(there, name) {
		m.captured[name] = m.now(m.home, id)
	}
	img, err := m.home.Capture(ctx, id, name, want)
	if err != nil || m.impatient == nil {
		return img, err
	}
	return watched{img, m.impatient}, nil
}

// watched is an image that tells of its reads.
type watched struct {
	dr.Image
	read func()
}

func (w watched) Unwrap() any { return w.Image }

func (w watched) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	w.read()
	return w.Image.ReadAt(ctx, disk, p, off)
}

func (m *mortals) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	return m.home.Machine(ctx, id)
}

func (m *mortals) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	if m.proc.Dead() {
		return crashfs.ErrKilled
	}
	return m.home.Release(ctx, id, name)
}

func (m *mortals) Unwrap() any { return m.home }

func (m *mortals) now(b *memory.Backend, id dr.MachineID) content {
	m.t.Helper()
	d := content{}
	machine, err := b.Machine(m.t.Context(), id)
	require.NoError(m.t, err)
	for _, disk := range machine.Disks {
		r, err := b.Disk(id, disk.ID)
		require.NoError(m.t, err)
		d[disk.ID], err = io.ReadAll(r)
		require.NoError(m.t, err)
	}
	return d
}

// open starts a process, which dies soon, or never.
func (m *mortals) open(changes int) (*vault.Store, error) {
	m.proc = crashfs.NewProcess(m.disk, changes, m.rnd.Uint64())
	return vault.Open(m.t.Context(), vault.NewDir(m.proc, "/v"), m.vault)
}

func (m *mortals) live(steps int) {
	for range steps {
		// A few of these in a row are one process's life.
		v, err := m.open([]int{0, 0, 60, 200}[m.rnd.IntN(4)] * (1 + m.rnd.IntN(3)) / 2)
		for range 1 + m.rnd.IntN(4) {
			if err == nil {
				err = m.step(v)
			}
		}
		require.True(m.t, err == nil || m.proc.Dead(), "%v", err)
		if m.proc.Dead() {
			m.home.Crash()
			m.away.Crash()
		}
		if m.rnd.IntN(4) == 0 {
			m.t.Log("power cut")
			m.disk = m.disk.Restart()
			m.home.Crash()
			m.away.Crash()
		}
		m.check(false)
	}
	m.check(true)
	if _, ok := dr.As[backend.Sweeper](m.home); !ok {
		return
	}
	// Cycles that end let go of what others left: the first, of which a vault
	// throws other drafts away, or the second, which sees that.
	v, err := m.open(0)
	require.NoError(m.t, err)
	m.impatient = nil
	for range 2 {
		_, err = (&replication.Cycle{Source: m, Points: v}).Replicate(m.t.Context(), "vm", dr.CrashConsistent)
		require.NoError(m.t, err)
	}
	left, err := m.home.Captures("vm")
	require.NoError(m.t, err)
	begun := []dr.PointID{}
	for p, err := range v.Pending(m.t.Context(), "vm") {
		require.NoError(m.t, err)
		begun = append(begun, p.ID)
	}
	require.Subset(m.t, begun, left, "captures that nobody goes on with")
}

func (m *mortals) step(v *vault.Store) error {
	ctx := m.t.Context()
	what := []string{"cycle", "cycle", "cycle", "cycle", "write", "write", "write", "grow", "lose", "delete", "prune", "hydrate", "hydrate", "run"}[m.rnd.IntN(14)]
	if m.begun != nil && m.rnd.IntN(3) == 0 {
		what = "cycle"
	}
	m.t.Log(what)
	switch what {
	case "write":
		m.write(m.home, "vm")
	case "run":
		if m.replica != "" {
			if err := m.away.Start(ctx, m.replica); err == nil {
				m.write(m.away, m.replica)
				require.NoError(m.t, m.away.Stop(ctx, m.replica))
			}
		}
	case "grow":
		machine, err := m.home.Machine(ctx, "vm")
		require.NoError(m.t, err)
		d := machine.Disks[m.rnd.IntN(2)]
		require.NoError(m.t, m.home.Grow("vm", d.ID, d.Size+512*m.rnd.Int64N(200)))
	case "lose":
		require.NoError(m.t, m.home.LoseChanges("vm"))
	case "cycle":
		c := replication.Cycle{Source: m, Points: v, Copy: replication.CopyOptions{
			Chunk: []int{0, 512, 3 * 4096, chunk, 4 * chunk}[m.rnd.IntN(5)], Readers: 1 + m.rnd.IntN(4), Full: m.rnd.IntN(8) == 0}}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if m.impatient = nil; m.rnd.IntN(3) > 0 { // it needs no killing
			left := &atomic.Int64{}
			left.Store(m.rnd.Int64N([]int64{20, 100, 1000}[m.rnd.IntN(3)]))
			m.impatient = func() {
				if left.Add(-1) < 0 {
					cancel()
				}
			}
		}
		name := dr.PointID("")
		switch {
		case m.begun != nil && m.rnd.IntN(4) > 0: // what was interrupted goes on
			name = *m.begun
		case m.rnd.IntN(3) == 0:
			if m.rnd.IntN(2) == 0 || m.gone {
				m.serial++
				m.gone = false
			}
			name = dr.PointID(fmt.Sprint("flow-", m.serial))
		}
		m.begun = &name
		r, err := c.ReplicateAs(ctx, "vm", name, dr.CrashConsistent, replication.CycleOptions{})
		if r.Point.ID != "" {
			m.seen[r.Point.ID] = true
			m.begun = nil
		}
		if err != nil && ctx.Err() != nil && !m.proc.Dead() {
			return nil
		}
		return err
	case "delete":
		m.gone = true
		if m.begun != nil && *m.begun != "" {
			m.begun = nil // it may be there, and be the one
		}
		if all := slices.Sorted(maps.Keys(m.seen)); len(all) > 0 {
			id := all[m.rnd.IntN(len(all))]
			delete(m.seen, id)
			return v.Delete(ctx, "vm", id)
		}
	case "prune":
		_, err := v.Prune(ctx)
		return err
	case "hydrate":
		for p, err := range v.List(ctx, "vm") {
			if err != nil {
				return err
			}
			if m.rnd.IntN(3) > 0 {
				continue
			}
			r, err := m.away.Prepare(ctx, backend.Placement{Key: "replica", Machine: p.Machine})
			require.NoError(m.t, err)
			m.replica = r.ID
			at := replication.Site{Backend: m.away, Points: v}
			_, err = replication.Hydrate(ctx, at, r, "vm", p.ID, m.held, replication.CopyOptions{Chunk: []int{0, 512, 4096, chunk}[m.rnd.IntN(4)], Readers: 1 + m.rnd.IntN(3)})
			if err != nil {
				return err
			}
			m.held = p
			got := m.now(m.away, r.ID)
			for id, want := range m.captured[p.ID] {
				got[id] = got[id][:len(want)] // it may have held a later point, which was larger
			}
			requireSame(m.t, m.captured[p.ID], got)
		}
	}
	return nil
}

func (m *mortals) write(b *memory.Backend, id dr.MachineID) {
	m.t.Helper()
	machine, err := b.Machine(m.t.Context(), id)
	require.NoError(m.t, err)
	for range 1 + m.rnd.IntN(4) {
		d := machine.Disks[m.rnd.IntN(len(machine.Disks))]
		off := m.rnd.Int64N(d.Size)
		p := make([]byte, 1+m.rnd.Int64N(min(d.Size-off, 2*chunk)))
		if m.rnd.IntN(3) > 0 {
			for i := range p {
				p[i] = byte(m.rnd.Uint32())
			}
		}
		require.NoError(m.t, b.Write(id, d.ID, p, off))
	}
}

// check reads what is listed, by a process that isn't killed.
func (m *mortals) check(all bool) {
	m.t.Helper()
	ctx := m.t.Context()
	v, err := m.open(0)
	require.NoError(m.t, err)
	listed := map[dr.PointID]bool{}
	for p, err := range v.List(ctx, "vm") {
		require.NoError(m.t, err)
		listed[p.ID] = true
		if !all && m.rnd.IntN(3) > 0 {
			continue
		}
		img, err := v.Open(ctx, "vm", p.ID)
		require.NoError(m.t, err)
		got := content{}
		for _, d := range p.Machine.Disks {
			got[d.ID] = make([]byte, d.Size)
			_, err := img.ReadAt(ctx, d.ID, got[d.ID], 0)
			require.NoError(m.t, err)
		}
		require.NoError(m.t, img.Close())
		requireSame(m.t, m.captured[p.ID], got)
	}
	for id := range m.seen {
		require.True(m.t, listed[id], "point %s was there", id)
	}
	for id := range listed {
		m.seen[id] = true // a commit, or not yet a delete, that was cut off
	}
	if all {
		for d, err := range v.Scrub(ctx) {
			require.NoError(m.t, err)
			require.Fail(m.t, "damage", "%+v", d)
		}
	}
}

func requireSame(t *testing.T, want, got content) {
	t.Helper()
	for disk := range want {
		require.Len(t, got[disk], len(want[disk]), "disk %s", disk)
		if bytes.Equal(want[disk], got[disk]) {
			continue
		}
		for i := range want[disk] {
			if got[disk][i] != want[disk][i] {
				require.Fail(t, "disks differ", "disk %s, byte %d: %#x instead of %#x", disk, i, got[disk][i], want[disk][i])
			}
		}
	}
}

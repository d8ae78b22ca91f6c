package failback_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

var crashSeed = flag.Uint64("crash-seed", 0, "seed of the crash test; 0: a new one each time")

// crashStage is one flow of the round trip.
type crashStage struct {
	run   dr.RunID
	plan  func(dr.Protection) (dr.Plan, error)
	after dr.State // of the record
	site  string   // where the machine then runs
	// point names the stage after which the machine had what it now has; "":
	// what it had last.
	point dr.RunID
	quiet bool // the guest writes nothing before this stage
}

func crashStages(made map[dr.RunID]dr.PointID) []crashStage {
	cycle := func(p dr.Protection) (dr.Plan, error) {
		return dr.Plan{Flow: "cycle", Locks: []string{p.ID.Lock()}, Steps: []dr.Step{{ID: "cycle", Action: "test.cycle@1"}}}, nil
	}
	commit := func(p dr.Protection) (dr.Plan, error) { return failover.Commit(p, failover.CommitOptions{}) }
	reprotect := func(p dr.Protection) (dr.Plan, error) {
		return failback.Reprotect(p, failback.ReprotectOptions{})
	}
	return []crashStage{
		{run: "protect", plan: replication.Protect, after: dr.Protected, site: hq},
		{run: "cycle-1", plan: cycle, after: dr.Protected, site: hq},
		{run: "drill", plan: func(p dr.Protection) (dr.Plan, error) { return failover.Test(p, "drill", failover.Options{}) }, after: dr.Protected, site: hq, quiet: true},
		{run: "clean-up", plan: func(p dr.Protection) (dr.Plan, error) { return failover.CleanUp(p, "") }, after: dr.Protected, site: hq},
		{run: "planned", plan: func(p dr.Protection) (dr.Plan, error) { return failover.Planned(p, failover.Options{}) }, after: dr.FailedOver, site: away},
		{run: "change", plan: func(p dr.Protection) (dr.Plan, error) {
			return failover.ChangePoint(p, recoverypoint.Choice{Option: recoverypoint.Custom, Point: made["cycle-1"]}, failover.Options{})
		}, after: dr.FailedOver, site: away, point: "cycle-1"},
		{run: "cancel", plan: failover.Cancel, after: dr.Protected, site: hq, point: "planned"},
		{run: "cycle-2", plan: cycle, after: dr.Protected, site: hq},
		{run: "unplanned", plan: func(p dr.Protection) (dr.Plan, error) {
			return failover.Unplanned(p, failover.Options{Shutdown: true})
		}, after: dr.FailedOver, site: away},
		{run: "commit", plan: commit, after: dr.Committed, site: away},
		{run: "reprotect", plan: reprotect, after: dr.Protected, site: away},
		{run: "cycle-3", plan: cycle, after: dr.Protected, site: away},
		{run: "failback", plan: func(p dr.Protection) (dr.Plan, error) { return failback.Failback(p, failback.Options{}) }, after: dr.FailedOver, site: hq},
		{run: "commit-home", plan: commit, after: dr.Committed, site: hq},
		{run: "reprotect-again", plan: reprotect, after: dr.Protected, site: hq},
		{run: "out-again", plan: func(p dr.Protection) (dr.Plan, error) { return failover.Planned(p, failover.Options{}) }, after: dr.FailedOver, site: away},
		{run: "commit-again", plan: commit, after: dr.Committed, site: away},
		{run: "direct", plan: func(p dr.Protection) (dr.Plan, error) {
			return failback.Failback(p, failback.Options{Sync: failback.Before})
		}, after: dr.FailedOver, site: hq},
		{run: "commit-direct", plan: commit, after: dr.Committed, site: hq},
	}
}

// checkpoint is a plant between two stages: a disk that was switched off, and
// the journal.
type checkpoint struct {
	disk    *crashfs.FS
	journal []byte
	seen    map[[32]byte]bool
	had     map[dr.RunID][][]byte // what the machine had behind each stage
	now     [][]byte              // what it has
	made    map[dr.RunID]dr.PointID
}

// crashTest cuts power everywhere in every stage.
type crashTest struct {
	t     *testing.T
	dir   string
	rnd   *rand.Rand
	n     int // journals made
	cuts  map[string]int
	where string // of the last cut
}

// TestCrashEverywhere takes the round trip and cuts power at every write to a
// disk (before and in the middle of it), at every write to the journal (before
// and after it) and behind every action, before its end is recorded. Each time
// the disk comes back with what was synced and a random part of the rest, the
// program is started again, and the flow must end as if nothing had happened.
func TestCrashEverywhere(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	c := &crashTest{t: t, dir: journalDir(t), rnd: rand.New(rand.NewPCG(seed, 1)), cuts: map[string]int{}}
	defer func() {
		total := 0
		for _, n := range c.cuts {
			total += n
		}
		t.Logf("%d cuts %v; repeat with -crash-seed=%d; the last cut was in stage %s", total, c.cuts, seed, c.where)
		if !t.Failed() && !testing.Short() {
			require.Greater(t, total, 2000, "the round trip has become suspiciously short")
		}
	}()
	cp := checkpoint{disk: newDisk(t, seed), seen: map[[32]byte]bool{}, had: map[dr.RunID][][]byte{}, made: map[dr.RunID]dr.PointID{}}
	cp.disk.Cut()
	cp = c.begin(cp)
	for i, s := range crashStages(cp.made) {
		cp = c.stage(cp, i, s)
	}
}

// begin makes the record.
func (c *crashTest) begin(cp checkpoint) checkpoint {
	p := c.open(cp)
	_, err := p.engine.Save(c.t.Context(), replication.New(pid, dr.Place{Site: hq, Machine: vm}, away))
	require.NoError(c.t, err)
	return c.save(p, cp)
}

// open starts a plant from a checkpoint; each time the disk is a fresh copy.
func (c *crashTest) open(cp checkpoint) *plant {
	c.n++
	path := journalPath(c.dir, c.n)
	if cp.journal != nil {
		require.NoError(c.t, os.WriteFile(path, cp.journal, 0o600))
	}
	return openPlant(c.t, cp.disk.Restart(), path, &moments{seen: maps.Clone(cp.seen)})
}

// save stops a plant and keeps what it has.
func (c *crashTest) save(p *plant, cp checkpoint) checkpoint {
	p.close()
	p.fs.Cut()
	raw, err := os.ReadFile(journalPath(c.dir, c.n))
	require.NoError(c.t, err)
	cp.disk, cp.journal, cp.seen = p.fs, raw, p.moments.seen
	c.drop()
	return cp
}

func (c *crashTest) drop() {
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		_ = os.Remove(journalPath(c.dir, c.n) + suffix)
	}
}

// stage runs one stage without a cut, which counts the places, then again for
// every place with a cut there. It returns the checkpoint behind the stage.
func (c *crashTest) stage(cp checkpoint, at int, s crashStage) checkpoint {
	p := c.open(cp)
	if !s.quiet {
		cp.now = p.guest(c.rnd)
	}
	cp = c.save(p, cp)

	p = c.open(cp)
	var writes atomic.Int64
	p.fs.Trace(func(o crashfs.Op) {
		if crashfs.Mutating(o) {
			writes.Add(1)
		}
	})
	p.journal.Store(0)
	require.NoError(c.t, p.run(s), "stage %s without a cut", s.run)
	journal, acts := p.journal.Load(), p.acts.Load()
	next := c.check(p, cp, s)

	step := 1
	if testing.Short() {
		step = 17
	}
	for n := 1; n <= int(writes.Load()); n += step {
		c.cut(cp, s, fmt.Sprintf("write %d", n), "write", func(p *plant) {
			p.fs.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: c.rnd.IntN(2) == 0})
		})
	}
	for n := int64(1); n <= journal; n += int64(step) {
		c.cut(cp, s, fmt.Sprintf("journal write %d", n), "journal", func(p *plant) { p.cutJournal = n })
	}
	for n := int64(1); n <= acts; n++ {
		c.cut(cp, s, fmt.Sprintf("action %d", n), "action", func(p *plant) { p.cutAct = n })
	}
	return next
}

// cut runs the stage with a cut, starts again, perhaps cuts again, and checks
// that it ends as without.
func (c *crashTest) cut(cp checkpoint, s crashStage, where, kind string, arm func(*plant)) {
	if c.t.Failed() {
		return
	}
	p := c.open(cp)
	p.journal.Store(0)
	arm(p)
	for try := 0; ; try++ {
		err := p.run(s)
		if err == nil && !p.dead() {
			break
		}
		require.ErrorIs(c.t, err, errPower, "stage %s, cut at %s", s.run, where)
		c.cuts[kind]++
		p.powerOff()
		p.close()
		p = openPlant(c.t, p.fs.Restart(), journalPath(c.dir, c.n), p.moments)
		if try == 0 && c.rnd.IntN(4) == 0 {
			p.fs.Inject(crashfs.Fault{N: 1 + c.rnd.IntN(40), Match: crashfs.Mutating, Torn: true})
		}
	}
	// What was reported done must also be there when power goes right then.
	p.powerOff()
	p.close()
	p = openPlant(c.t, p.fs.Restart(), journalPath(c.dir, c.n), p.moments)
	c.where = fmt.Sprintf("%s, cut at %s", s.run, where)
	c.check(p, cp, s)
}

// check compares a plant behind a stage with what must be there, and keeps it.
func (c *crashTest) check(p *plant, cp checkpoint, s crashStage) checkpoint {
	t := c.t
	rec := p.record()
	require.Equal(t, s.after, rec.State, s.run)
	require.Equal(t, s.site, rec.Active.Site, s.run)
	require.Empty(t, rec.Run, "nobody holds the record behind %s", s.run)
	want := cp.now
	if s.point != "" {
		want = cp.had[s.point]
	}
	require.Equal(t, want, p.disks(rec.Active), "disks of the machine that runs behind %s", s.run)
	c.machines(p, rec, s)
	c.points(p, rec, s)
	next := cp
	next.had = maps.Clone(cp.had)
	next.had[s.run], next.now = want, want
	next.made[s.run] = rec.Last.ID
	return c.save(p, next)
}

// machines checks that one machine runs, the drill's beside it, and that
// there are no others than there should be.
func (c *crashTest) machines(p *plant, rec dr.Protection, s crashStage) {
	known := map[dr.Place]bool{rec.Active: true, rec.Standby: true}
	if rec.Test != nil {
		known[rec.Test.Place] = true
	}
	for _, site := range []string{hq, away} {
		for m, err := range p.hosts[site].Machines(c.t.Context()) {
			require.NoError(c.t, err)
			found := false
			for at := range known {
				found = found || at.Site == site && at.Machine == m.ID
			}
			require.True(c.t, found, "machine %s at %s is left over behind %s", m.ID, site, s.run)
			runs := rec.Active.Site == site && rec.Active.Machine == m.ID || rec.Test != nil && rec.Test.Place.Site == site && rec.Test.Place.Machine == m.ID
			if runs {
				require.Equal(c.t, dr.On, m.Power, "machine %s at %s behind %s", m.ID, site, s.run)
			} else {
				require.Equal(c.t, dr.Off, m.Power, "machine %s at %s behind %s", m.ID, site, s.run)
			}
		}
	}
}

// points reads every recovery point: each must be a moment that was.
func (c *crashTest) points(p *plant, rec dr.Protection, s crashStage) {
	for site, v := range p.vaults {
		for m, err := range v.Machines(c.t.Context()) {
			require.NoError(c.t, err)
			for pt, err := range v.List(c.t.Context(), m) {
				require.NoError(c.t, err)
				disks, err := pointDisks(c.t, v, pt)
				require.NoError(c.t, err)
				require.True(c.t, p.moments.has(disks), "point %s at %s behind %s is of no moment that was", pt.ID, site, s.run)
			}
		}
	}
	if rec.State != dr.Protected {
		return
	}
	_, err := recoverypoint.Newest(c.t.Context(), p.vaults[rec.Standby.Site], rec.Active.Machine)
	require.NoError(c.t, err, "a protected machine has a recovery point")
}

func pointDisks(t *testing.T, s recoverypoint.PointStore, pt dr.Point) (disks [][]byte, err error) {
	img, err := s.Open(t.Context(), pt.Machine.ID, pt.ID)
	if err != nil {
		return nil, err
	}
	for _, d := range plantDisks {
		b := make([]byte, d.Size)
		if _, err := img.ReadAt(t.Context(), d.ID, b, 0); err != nil {
			return nil, errors.Join(err, img.Close())
		}
		disks = append(disks, b)
	}
	return disks, img.Close()
}

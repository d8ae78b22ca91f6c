package matrix

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// tally is a cell of the table.
type tally struct {
	cases, effects, doubled, lost, deaths int
	worst                                 time.Duration
}

func (c tally) String() string {
	if c.cases == 0 {
		return "-"
	}
	return fmt.Sprintf("%d cases, %d effects, %d doubled, %d lost, %.1f s", c.cases, c.effects, c.doubled, c.lost, c.worst.Seconds())
}

// table is what came of all faults.
type table struct {
	mu    sync.Mutex
	rows  []string
	cells map[string]map[string]*tally
}

func (b *table) add(row, column string, c tally) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cells[row] == nil {
		b.cells[row] = map[string]*tally{}
		b.rows = append(b.rows, row)
	}
	if b.cells[row][column] == nil {
		b.cells[row][column] = &tally{}
	}
	s := b.cells[row][column]
	s.cases, s.effects, s.doubled, s.lost, s.deaths = s.cases+c.cases, s.effects+c.effects, s.doubled+c.doubled, s.lost+c.lost, s.deaths+c.deaths
	s.worst = max(s.worst, c.worst)
}

func (b *table) String() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 1, 2, ' ', 0)
	fmt.Fprintln(w, "fault\tembedded\ttemporal\t")
	for _, r := range b.rows {
		cell := func(column string) string {
			if c := b.cells[r][column]; c != nil {
				return c.String()
			}
			return "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", r, cell("embedded"), cell("temporal"))
	}
	w.Flush()
	return out.String()
}

// matrix is the table and what its cases share.
type matrix struct {
	*table
	server *temporalserver.Server
	rng    *rand.Rand
	places chan struct{} // bounds how many cases run at once
}

var engines = []string{"embedded", "temporal"}

// job is a case's, in a folder of its own.
func (m *matrix) job(t *testing.T, engine string, fails bool) job {
	p := place(t.TempDir())
	require.NoError(t, p.prepare())
	j := job{Place: p, Run: "run", Fails: fails, Takes: 5 * time.Millisecond, Queue: strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())}
	if engine == "temporal" {
		j.Address = m.server.Address
	}
	return j
}

// settle waits for the run's end and counts. Nothing may be doubled or lost.
func (m *matrix) settle(t *testing.T, row, engine string, j job, all ...*process) {
	t.Helper()
	until(t, "the run ends", func() bool {
		_, err := os.Stat(j.Place.file("ended"))
		return err == nil
	})
	c := tally{cases: 1, worst: j.Place.still()}
	for _, p := range all {
		p.cancel()
		<-p.over
		c.deaths += p.lives - 1
	}
	var foreign int
	var err error
	c.effects, c.doubled, c.lost, foreign, err = j.Place.count(j.Run, j.Fails)
	require.NoError(t, err)
	m.add(row, engine, c)
	raw, err := os.ReadFile(j.Place.file("ended"))
	require.NoError(t, err)
	var s dr.Status
	require.NoError(t, json.Unmarshal(raw, &s))
	want := dr.RunDone
	if j.Fails {
		want = dr.RunFailed
	}
	require.Equal(t, want, s.State, s.Reason)
	require.Zero(t, foreign, "effects that nobody ordered")
	require.Zero(t, c.doubled, "effects that would have been made twice")
	require.Zero(t, c.lost, "effects that were never made")
}

func long() bool { return os.Getenv("LIFEBOAT_LONG") == "1" }

func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of deaths")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &matrix{table: &table{cells: map[string]map[string]*tally{}}, rng: rand.New(rand.NewPCG(seed, 0)), places: make(chan struct{}, 4)}
	m.server = temporalserver.Start(t, temporalserver.Options{})
	t.Cleanup(func() { fmt.Printf("%s\n", m.table) })
	t.Run("kills", m.kills)
	t.Run("storms", m.storms)
	t.Run("gate", m.deathsAtTheGate)
	t.Run("server", m.serverDies)
	t.Run("database", m.databaseDies)
	t.Run("partition", m.partition)
}

// kills kills the process at effects: just before, and just after.
func (m *matrix) kills(t *testing.T) {
	type point struct {
		kill  kill
		fails bool
	}
	var points []point
	for _, s := range effectSteps {
		for _, when := range []string{"before", "after"} {
			points = append(points, point{kill{string(s), when}, false}, point{kill{string(s) + "~", when}, true})
		}
	}
	if !long() {
		m.rng.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
		points = points[:4]
	}
	for _, engine := range engines {
		for _, p := range points {
			t.Run(fmt.Sprint(engine, " ", p.kill.When, " ", p.kill.Step), func(t *testing.T) {
				t.Parallel()
				m.places <- struct{}{}
				defer func() { <-m.places }()
				j := m.job(t, engine, p.fails)
				j.Kill = p.kill
				j.Place.mark("approved")
				m.settle(t, "process killed "+p.kill.When+" an effect", engine, j, j.run(t))
				_, err := os.Stat(j.Place.file("killed"))
				require.NoError(t, err, "it was killed")
			})
		}
	}
}

// storms kills the process at random moments.
func (m *matrix) storms(t *testing.T) {
	rounds, deaths := 1, 4
	if long() {
		rounds, deaths = 6, 12
	}
	for _, engine := range engines {
		for i := range rounds {
			rng := rand.New(rand.NewPCG(m.rng.Uint64(), 0))
			t.Run(fmt.Sprint(engine, " ", i), func(t *testing.T) {
				t.Parallel()
				m.places <- struct{}{}
				defer func() { <-m.places }()
				j := m.job(t, engine, i%2 == 1)
				j.Takes = 20 * time.Millisecond
				j.Place.mark("approved")
				p := j.run(t)
				for range deaths {
					before := j.Place.calls()
					until(t, "another action is called", func() bool { return j.Place.calls() > before || p.ended() })
					time.Sleep(time.Duration(rng.Int64N(int64(50 * time.Millisecond))))
					p.die()
				}
				m.settle(t, "storms of kills", engine, j, p)
			})
		}
	}
}

// deathsAtTheGate kills the process, and the server, while a person thinks.
func (m *matrix) deathsAtTheGate(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			j := m.job(t, engine, false)
			p := j.run(t)
			until(t, "the gate waits", func() bool { return j.Place.marked("gate waits") })
			p.die()
			j.Place.mark("approved")
			m.settle(t, "process killed at a gate", engine, j, p)
		})
	}
	t.Run("server", func(t *testing.T) {
		j := m.job(t, "temporal", false)
		p := j.run(t)
		until(t, "the gate waits", func() bool { return j.Place.marked("gate waits") })
		j.Place.note("fault", nil)
		m.server.Kill()
		j.Place.mark("approved") // it can't be told yet
		m.server.Start()
		m.settle(t, "server killed at a gate", "temporal", j, p)
	})
}

// each runs cases in the middle of which something is done to what they share.
func (m *matrix) each(t *testing.T, row string, n int, fault func(t *testing.T)) {
	var jobs []job
	var all []*process
	for i := range n {
		j := m.job(t, "temporal", i%2 == 1)
		j.Queue = fmt.Sprint(j.Queue, "-", i)
		j.Takes = 150 * time.Millisecond
		j.Place.mark("approved")
		jobs, all = append(jobs, j), append(all, j.run(t))
	}
	steps := []string{"b", "f"}
	if !long() {
		k := m.rng.IntN(2)
		steps = steps[k : k+1]
	}
	for _, step := range steps {
		until(t, "a step "+step+" runs", func() bool { return jobs[0].Place.called(step) })
		for _, j := range jobs {
			j.Place.note("fault", nil)
		}
		fault(t)
	}
	for i, j := range jobs {
		m.settle(t, row, "temporal", j, all[i])
	}
}

func (m *matrix) width() int {
	if long() {
		return 6
	}
	return 2
}

func (m *matrix) serverDies(t *testing.T) {
	m.each(t, "server killed during steps", m.width(), func(t *testing.T) {
		m.server.Kill()
		m.server.Start()
	})
}

func (m *matrix) databaseDies(t *testing.T) {
	t.Run("killed", func(t *testing.T) {
		m.each(t, "PostgreSQL killed during steps", m.width(), func(t *testing.T) {
			m.server.DB.Kill()
			m.server.DB.Start()
		})
	})
	t.Run("restarted", func(t *testing.T) {
		m.each(t, "PostgreSQL restarted during steps", m.width(), func(t *testing.T) {
			m.server.DB.Stop()
			m.server.DB.Start()
		})
	})
}

// partition cuts one of two workers off for longer than its heartbeat: the
// other goes on, and the first comes back.
func (m *matrix) partition(t *testing.T) {
	rounds := 1
	if long() {
		rounds = 4
	}
	for i := range rounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			j := m.job(t, "temporal", i%2 == 1)
			j.Takes = 300 * time.Millisecond
			cut := j
			line := m.server.Line(m.rng.Uint64())
			cut.Address = line.Addr()
			first := cut.run(t)
			step := string("abcd"[m.rng.IntN(4)])
			until(t, "a step runs", func() bool { return j.Place.called(step) })
			j.Place.note("fault", nil)
			line.Stall()
			j.Place.mark("approved")
			second := j.run(t)
			until(t, "the other worker goes on", func() bool { return j.Place.called("e") })
			line.Resume()
			m.settle(t, "worker cut off, taken over, back again", "temporal", j, first, second)
		})
	}
}

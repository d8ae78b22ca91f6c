package remote

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
)

// silence is after how long a peer that isn't heard is dead, as the agent is by
// default.
const silence = 15 * time.Second

func randomDisk(t testing.TB, path string, size int, seed uint64) []byte {
	t.Helper()
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p)
	require.NoError(t, os.WriteFile(path, p, 0o600))
	return p
}

func off(disk string) physical.Config {
	return physical.Config{Machines: []physical.Machine{{ID: "m", Power: dr.Off, Disks: []physical.Disk{{ID: "a", Path: disk, Boot: true}}}}}
}

// An agent that is killed in the middle of a first copy, and a cable that is pulled
// for a moment, cost time and what was in flight: the copy goes on.
func TestAFirstCopyOutlivesAgentAndCable(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	const size = 64 << 20
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.img")
	want := randomDisk(t, disk, size, 1)
	h := newHost(t, agentIP, off(disk))
	h.prefix = within(w.agent)
	h.start()
	// 16 MiB/s, so that there is a middle.
	r := w.replicate(errand{Addr: h.addr, PKI: filepath.Join(h.dir, "pki"), Vault: filepath.Join(dir, "vault"), Machine: "m", Point: "p",
		Weather: slowly(16 << 20), Seed: 1})
	passed := func(n int64) {
		require.Eventually(t, func() bool { return w.sent() > n || r.over() }, time.Minute, 20*time.Millisecond, "%s", &r.log)
	}
	passed(16 << 20)
	h.kill()
	h.start()
	passed(40 << 20)
	w.pull(true)
	time.Sleep(time.Second) // what is tested is that the kernel sends again
	w.pull(false)
	o := r.outcome(2 * time.Minute)
	t.Logf("%d bytes sent for %d; %d attempts, %v", w.sent(), size, o.Attempts, o.Report.Took)
	require.Equal(t, 1, o.Attempts, "%s", &r.log)
	require.True(t, bytes.Equal(want, holds(t, filepath.Join(dir, "vault"), "m", "p", size)))
	require.Less(t, w.sent(), int64(size+size/32+2*inFlight), "what travels again is bounded")
}

// A replicator that is killed goes on where its store is durable.
func TestAReplicatorThatIsKilledGoesOn(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	const size = 128 << 20
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.img")
	want := randomDisk(t, disk, size, 2)
	h := newHost(t, agentIP, off(disk))
	h.prefix = within(w.agent)
	h.start()
	e := errand{Addr: h.addr, PKI: filepath.Join(h.dir, "pki"), Vault: filepath.Join(dir, "vault"), Machine: "m", Point: "p", Weather: slowly(48 << 20)}
	r := w.replicate(e)
	require.Eventually(t, func() bool { return w.sent() > size*3/4 || r.over() }, time.Minute, 10*time.Millisecond, "%s", &r.log)
	r.kill()
	killed := w.sent()
	o := w.replicate(e).outcome(2 * time.Minute)
	t.Logf("killed after %d bytes, %d sent in all for %d; resumed %d, %d attempts", killed, w.sent(), size, o.Report.Resumed, o.Attempts)
	require.True(t, bytes.Equal(want, holds(t, filepath.Join(dir, "vault"), "m", "p", size)))
	require.EqualValues(t, size, o.Report.Written+o.Report.Resumed)
	// A vault makes durable what fills a segment of 32 MiB; two may be filling.
	require.Greater(t, o.Report.Resumed, int64(16<<20))
	require.Less(t, w.sent()-killed, size-o.Report.Resumed+size/32+inFlight, "what it has doesn't travel again")
}

// A cable that is pulled while a machine is frozen: the agent thaws it when it has
// heard nothing for three times KeepAlive, the replicator gives up as soon, and when
// the cable is in again the next cycle makes a point of one moment.
func TestAFrozenMachineThawsWhenTheCableIsPulled(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	const size = 16 << 20
	dir := t.TempDir()
	g := newGuest(t, dir, filepath.Join(dir, "a.img"))
	randomDisk(t, g.disk, size, 3)
	cfg := off(g.disk)
	cfg.Machines[0].Power = dr.On
	cfg.Commands = physical.Commands{Freeze: g.freeze(), Thaw: g.thaw()}
	h := newHost(t, agentIP, cfg)
	h.prefix = within(w.agent)
	h.start()
	rnd := rand.New(rand.NewPCG(3, 3))
	g.run(func() ([]byte, int64) {
		p := make([]byte, 4096)
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		return p, rnd.Int64N(size-4096) / 512 * 512
	})
	defer g.stop()
	e := errand{Addr: h.addr, PKI: filepath.Join(h.dir, "pki"), Vault: filepath.Join(dir, "vault"), Machine: "m", Point: "p", Weather: slowly(16 << 20)}

	e.Once = true
	r := w.replicate(e)
	require.Eventually(t, func() bool { return g.frozen() || r.over() }, time.Minute, 5*time.Millisecond, "%s", &r.log)
	w.pull(true)
	pulled := time.Now()
	require.True(t, g.frozen())
	require.Eventually(t, func() bool { return !g.frozen() }, time.Minute, 10*time.Millisecond)
	thawed := time.Since(pulled)
	require.Less(t, thawed, silence+10*time.Second)
	if os.Getenv("LIFEBOAT_LONG") == "" {
		w.pull(false) // else the replicator tries for a minute to let go of the capture
	}
	o := r.outcome(90 * time.Second)
	gaveUp := time.Since(pulled)
	t.Logf("thawed %v after the cable was pulled; the replicator gave up after %v: %s", thawed.Round(time.Millisecond), gaveUp.Round(time.Millisecond), o.Error)
	require.Less(t, gaveUp, silence+time.Minute+10*time.Second)
	require.Contains(t, o.Error, dr.ErrNotConsistent.Error())
	w.pull(false)

	e.Once = false
	o = w.replicate(e).outcome(time.Minute)
	g.stop()
	frozen, err := os.ReadFile(filepath.Join(dir, "frozen.img"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(frozen, holds(t, e.Vault, "m", "p", size)), "the point is what it had when it was frozen")
	require.Greater(t, o.Report.Passes, 1)
}

// Whatever happens to agents, replicators, cables and packets: a point is what the
// machine had when it was frozen, and there is one at last. LIFEBOAT_LONG=1 goes on
// for longer.
func TestLiveCyclesInAnyWeather(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 4))
	rounds := 2
	if os.Getenv("LIFEBOAT_LONG") != "" {
		rounds = 60
	}
	// Of what goes to the replicator, and of what comes from it.
	w.lose(w.replicator, 0.01)
	w.lose(w.agent, 0.01)
	const size = 16 << 20
	dir := t.TempDir()
	g := newGuest(t, dir, filepath.Join(dir, "a.img"))
	randomDisk(t, g.disk, size, 4)
	cfg := off(g.disk)
	cfg.Machines[0].Power = dr.On
	cfg.Commands = physical.Commands{Freeze: g.freeze(), Thaw: g.thaw()}
	h := newHost(t, agentIP, cfg)
	h.prefix = within(w.agent)
	h.start()
	t.Cleanup(func() {
		if t.Failed() {
			log := h.log.String()
			t.Logf("the agent: %s", log[max(0, len(log)-4000):])
		}
	})
	writes := rand.New(rand.NewPCG(seed, 5))
	g.run(func() ([]byte, int64) {
		p := make([]byte, 512<<writes.IntN(8))
		for i := range p {
			p[i] = byte(writes.Uint32())
		}
		return p, writes.Int64N(int64(size-len(p))) / 512 * 512
	})
	defer g.stop()
	ms := func(n int) time.Duration { return time.Duration(rnd.IntN(n)) * time.Millisecond }
	for round := range rounds {
		e := errand{Addr: h.addr, PKI: filepath.Join(h.dir, "pki"), Vault: filepath.Join(dir, "vault"), Machine: "m",
			Point: dr.PointID(fmt.Sprintf("p%03d", round)), Seed: rnd.Uint64(),
			Weather: faultyline.Weather{Delay: ms(20), Jitter: ms(5) + 1, Rate: 8<<20 + rnd.Int64N(32<<20), Loss: 0.01 * rnd.Float64()}}
		r := w.replicate(e)
		var did []string
		for range rnd.IntN(4) {
			time.Sleep(ms(1500)) // the schedule is the test
			if r.over() {
				break
			}
			switch what := rnd.IntN(4); what {
			case 0:
				did = append(did, "agent killed")
				h.kill()
				h.start()
			case 1:
				did = append(did, "replicator killed")
				r.kill()
				r = w.replicate(e)
			case 2, 3:
				pause := ms(1000)
				did = append(did, "cable pulled for "+pause.String())
				w.pull(true)
				time.Sleep(pause)
				w.pull(false)
			}
		}
		begun := time.Now()
		o := r.outcome(3 * time.Minute)
		t.Logf("round %d: %v; %d attempts, %d passes, done %v later; lost on the way: %s", round, did, o.Attempts, o.Report.Passes, time.Since(begun).Round(time.Millisecond), o.Error)
		frozen, err := os.ReadFile(filepath.Join(dir, "frozen.img"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(frozen, holds(t, e.Vault, "m", e.Point, size)), "seed %d, round %d", seed, round)
	}
	t.Logf("%d segments were sent again", w.resent())
	require.Greater(t, w.resent(), 10, "packets were lost")
}

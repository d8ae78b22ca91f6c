package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// heartbeat is how long a worker of these tests may be silent.
const heartbeat = 2 * time.Second

// The sites, in a ring: each fails over to the next. In each of two rounds so
// many of their machines do, other ones.
var ring = []struct {
	name     string
	to       string
	machines int
}{{"berlin", "bonn", 7}, {"bonn", "basel", 7}, {"basel", "berlin", 6}}

// site is a platform, and beside it the worker that serves its queue, each with
// a cable to the hub, and one between them.
type site struct {
	name     string
	address  string // of the platform
	platform *process
	worker   *process
	ledger   *http.Client
}

// country is three sites and what they share.
type country struct {
	t     testing.TB
	wires *wires
	dir   string
	serve []string // how a worker is started
	env   []string
	sites map[string]*site
	// claimed counts the claims that are held.
	claimed func() string

	mu    sync.Mutex
	begun time.Time // what the timeline counts from
	round time.Time // since when effects are counted
}

func newCountry(t testing.TB) *country {
	c := &country{t: t, wires: newWires(t), dir: t.TempDir(), sites: map[string]*site{}, begun: time.Now()}
	server := temporalserver.Start(t, temporalserver.Options{Namespace: "lifeboat"})
	c.env = []string{"PGPASSWORD=" + server.DB.Password}
	c.claimed = func() string { return server.DB.Query("SELECT count(*) FROM lifeboat.claim WHERE owner IS NOT NULL") }
	c.serve = []string{"serve", "-sites", filepath.Join(c.dir, "sites"), "-engine", "temporal", "-temporal", c.wires.relay(server.Address),
		"-namespace", "lifeboat", "-records", "postgres://postgres@" + c.wires.relay(server.DB.Host()) + "/postgres?sslmode=disable",
		"-heartbeat", heartbeat.String(), "-parallel", "2", "-replicate=false", "-listen", "127.0.0.1:0", "-drain", "10s"}
	for i, s := range ring {
		c.platform(i, s.name, 2*s.machines)
	}
	for _, s := range ring {
		c.sites[s.name].worker = c.worker(s.name, s.name)
	}
	for _, s := range c.sites {
		s.worker.ready(true)
	}
	return c
}

// Names of the hosts at a site: those of cables as well.
func platformHost(site string) string { return site + "-p" }
func workerHost(site string) string   { return site + "-w" }

func platformIP(i int) string { return fmt.Sprintf("10.77.1.%d", i+1) }

// platform simulates a site, and lays the cables. The platform's address is
// reached over the hub by others, and by its own worker over a cable of theirs.
func (c *country) platform(i int, name string, machines int) {
	w := c.wires
	p := w.host(platformHost(name), fmt.Sprintf("10.77.0.%d", 100+i))
	w.ip("-n", p, "addr", "add", platformIP(i)+"/32", "dev", "lo")
	own := w.host(workerHost(name), fmt.Sprintf("10.77.0.%d", 10+i))
	c.routes(own, i)
	w.ip("-n", p, "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", own)
	for ns, ip := range map[string]string{p: fmt.Sprintf("10.77.2.%d", 4*i+1), own: fmt.Sprintf("10.77.2.%d", 4*i+2)} {
		w.ip("-n", ns, "addr", "add", ip+"/30", "dev", "lan")
		w.ip("-n", ns, "link", "set", "lan", "up")
	}
	w.ip("-n", own, "route", "add", platformIP(i)+"/32", "via", fmt.Sprintf("10.77.2.%d", 4*i+1))

	s := &site{name: name, address: platformIP(i) + ":9443"}
	args := []string{"simulate", "-dir", c.dir, "-machines", fmt.Sprint(machines), "-every", "1s", "-disk", "16MiB", "-full", "4MiB", "-takes", "200ms",
		"-site", name + "=" + s.address}
	for i := range ring {
		args = append(args, "-host", platformIP(i))
	}
	s.platform = c.start(platformHost(name), args...)
	conf := c.tls()
	s.ledger = &http.Client{Transport: &http.Transport{DialContext: dialIn(p), TLSClientConfig: conf, DisableKeepAlives: true}}
	c.sites[name] = s
}

// routes has the platforms reached over the hub, but not the one at the same
// site; -1: all.
func (c *country) routes(ns string, but int) {
	for i := range ring {
		if i != but {
			c.wires.ip("-n", ns, "route", "add", platformIP(i)+"/32", "via", fmt.Sprintf("10.77.0.%d", 100+i))
		}
	}
}

func (c *country) start(host string, args ...string) *process {
	ns := c.wires.id + host
	all := append([]string{"netns", "exec", ns, os.Args[0]}, args...)
	return launch(c.t, exec.Command("ip", all...), c.wires.client(ns), 1, c.env)
}

func (c *country) worker(host, site string) *process {
	return c.start(workerHost(host), append(slices.Clone(c.serve), "-name", host, "-queues", site)...)
}

func (c *country) tls() *tls.Config {
	dir := filepath.Join(c.dir, "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "worker.pem"), filepath.Join(dir, "worker.key"))
	require.NoError(c.t, err)
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(c.t, err)
	roots := x509.NewCertPool()
	require.True(c.t, roots.AppendCertsFromPEM(pem))
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}
}

// say adds a line to the timeline.
func (c *country) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.Logf("%+6.1f s  %s", time.Since(c.begun).Seconds(), fmt.Sprintf(format, args...))
}

// look reads what a platform tells of itself.
func (s *site) look(t testing.TB, path string, into any) {
	res, err := s.ledger.Get("https://" + s.address + path)
	require.NoError(t, err)
	defer res.Body.Close()
	require.NoError(t, json.NewDecoder(res.Body).Decode(into))
}

// effects are all that the platforms have entered, by site.
func (c *country) effects() map[string][]entry {
	all := map[string][]entry{}
	for name, s := range c.sites {
		var l []entry
		s.look(c.t, "/effects", &l)
		all[name] = l
	}
	return all
}

func (c *country) count(op memory.Op, sites ...string) (n int) {
	for name, l := range c.effects() {
		for _, e := range l {
			if e.Op == op && e.At.After(c.round) && (len(sites) == 0 || slices.Contains(sites, name)) {
				n++
			}
		}
	}
	return n
}

// protect protects all machines, each by one run.
func (c *country) protect() {
	w := c.sites["berlin"].worker
	for _, s := range ring {
		require.Equal(c.t, http.StatusOK, w.ask("/protections", fmt.Sprintf(`{"from":%q,"to":%q,"all":true}`, s.name, s.to), nil))
	}
	for round := range 2 {
		for _, run := range c.ask("protect", round) {
			done(c.t, w, run)
		}
	}
}

// ask starts a flow of every machine of the round, and returns the runs.
func (c *country) ask(flow string, round int) map[dr.ProtectionID]dr.RunID {
	w := c.sites["berlin"].worker
	runs := map[dr.ProtectionID]dr.RunID{}
	for _, s := range ring {
		var ids []string
		for i := range s.machines {
			ids = append(ids, fmt.Sprintf(`"%s-%05d"`, s.name, round*s.machines+i))
		}
		var all []started
		require.Equal(c.t, http.StatusOK, w.ask("/runs", fmt.Sprintf(`{"flow":%q,"protections":[%s],"run":%q}`, flow, strings.Join(ids, ","), flow), &all))
		for _, r := range all {
			require.Empty(c.t, r.Error)
			runs[r.Protection] = r.Run
		}
	}
	return runs
}

// until waits for something that happens.
func (c *country) until(what string, is func() bool) {
	c.t.Helper()
	for limit := time.Now().Add(patience); !is(); time.Sleep(50 * time.Millisecond) {
		require.True(c.t, time.Now().Before(limit), "it doesn't come to that: %s", what)
	}
	c.say("%s", what)
}

// patience is how long anything may take before it counts as never.
const patience = 90 * time.Second

// status asks a worker at another site how the runs stand.
func (c *country) status(runs map[dr.ProtectionID]dr.RunID) map[dr.ProtectionID]dr.Status {
	all := map[dr.ProtectionID]dr.Status{}
	for id, run := range runs {
		var s struct {
			dr.Status
			Error string `json:"error"`
		}
		began := time.Now()
		c.sites["berlin"].worker.ask("/runs/"+string(run), "", &s)
		require.Empty(c.t, s.Error, "%s after %v", id, time.Since(began))
		all[id] = s.Status
	}
	return all
}

// waiting tells of those that wait for a worker which step does, and where.
func waiting(all map[dr.ProtectionID]dr.Status) map[dr.ProtectionID]string {
	waits := map[dr.ProtectionID]string{}
	for id, s := range all {
		for _, x := range s.Steps {
			if !x.Awaits.IsZero() {
				waits[id] = x.ID + " at " + x.Queue
			}
		}
	}
	return waits
}

// show prints where the runs stand, for people.
func (c *country) show(runs map[dr.ProtectionID]dr.RunID) {
	lines := map[string]int{}
	for id, s := range c.status(runs) {
		line := string(s.State)
		for _, x := range s.Steps {
			if x.Awaits.IsZero() {
				continue
			}
			line = fmt.Sprintf("%s: %s waits for a worker of %s", s.State, x.ID, cmp.Or(x.Queue, "any site"))
			if x.Attempt > 0 {
				line += fmt.Sprintf(", whose attempt %d was lost", x.Attempt)
			}
		}
		home, _, _ := strings.Cut(string(id), "-")
		lines["of "+home+": "+line]++
	}
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		c.say("    %d runs %s", lines[line], line)
	}
}

// settled asserts that every machine runs once, at the side that it was to go
// to, by the platforms' own account, and that the records say so.
func (c *country) settled(round int) {
	t, machines := c.t, 20*(round+1)
	c.round = time.Time{}
	var records []dr.Protection
	require.Equal(t, http.StatusOK, c.sites["berlin"].worker.ask("/protections?state=failed-over", "", &records))
	require.Len(t, records, machines)
	place := map[dr.Place]dr.ProtectionID{}
	for _, d := range records {
		at := dr.Place{Site: d.Active.Site, Machine: d.Active.Machine}
		require.Empty(t, place[at], "one machine for two")
		place[at] = d.ID
	}
	for name, l := range c.effects() {
		count := map[string]int{}
		for _, e := range l {
			if _, made := place[dr.Place{Site: name, Machine: e.Machine}]; made {
				count[string(e.Machine)+" "+string(e.Op)]++
			} else {
				require.NotEqual(t, memory.OpPrepare, e.Op, "%s made %s, which no record has", name, e.Machine)
			}
		}
		for what, n := range count {
			require.Equal(t, 1, n, "%s: %s", name, what)
		}
	}
	require.Equal(t, "0", c.claimed(), "no claim is left")
	require.Equal(t, machines, c.count(memory.OpPrepare))
	require.Equal(t, machines, c.count(memory.OpCommit))
	require.Equal(t, machines, c.count(memory.OpStart))
}

// again shows the steps that were begun again: mostly one or two of the site's, which
// were under way there. Others may be of queue "", which the site's worker serves as
// well, or of one whose worker was too busy to beat.
func (c *country) again(runs map[dr.ProtectionID]dr.RunID, site string) {
	n := 0
	for id, s := range c.status(runs) {
		for _, x := range s.Steps {
			if x.Attempt > 1 {
				c.say("    %s of %s, at %s, took %d attempts", x.ID, id, cmp.Or(x.Queue, "any site"), x.Attempt)
			}
			if x.Attempt > 1 && x.Queue == site {
				n++
			}
		}
	}
	if n == 0 { // now and then
		c.say("    no step had begun at %s when it was cut off", site)
	}
}

// flood starts a failover of all machines, and returns when a third of them are
// under way, at bonn as well.
func (c *country) flood(round int) map[dr.ProtectionID]dr.RunID {
	c.round = time.Now()
	runs := c.ask("unplanned-failover", round)
	c.until("a third are under way", func() bool { return c.count(memory.OpPrepare) >= 7 && c.count(memory.OpPrepare, "bonn") >= 2 })
	return runs
}

// cut cuts cables, at which the timeline begins.
func (c *country) cut(what string, hosts ...string) {
	for _, h := range hosts {
		c.wires.cut(h, true)
	}
	c.begun = time.Now()
	c.say("%s is cut off, with %d of 7 machines up there", what, c.count(memory.OpStart, "bonn"))
}

// others waits until the machines that fail over to other sites are up, and
// asserts that the runs' status says what the rest wait for.
func (c *country) others(runs map[dr.ProtectionID]dr.RunID) {
	c.until("all 13 machines of the other sites are up", func() bool { return c.count(memory.OpStart, "berlin", "basel") == 13 })
	// What had begun when it was cut off may have had its effect at the platform
	// that its worker reaches; within a heartbeat it has stopped by itself.
	c.until("bonn's worker has given up", func() bool { return time.Since(c.begun) > heartbeat+time.Second })
	up := c.count(memory.OpStart, "bonn")
	var waits map[dr.ProtectionID]string
	c.until("all that is left waits for bonn", func() bool {
		all := c.status(runs)
		waits = waiting(all)
		for id, s := range all {
			if s.State != dr.RunDone && !strings.HasSuffix(waits[id], " at bonn") {
				return false
			}
		}
		return true
	})
	c.show(runs)
	for id, what := range waits {
		require.True(c.t, strings.HasPrefix(string(id), "berlin-") || what == "measure at bonn", "%s: %s", id, what)
	}
	require.Equal(c.t, up, c.count(memory.OpStart, "bonn"), "what is cut off does nothing")
}

func (c *country) end(runs map[dr.ProtectionID]dr.RunID, round int) {
	for _, run := range runs {
		done(c.t, c.sites["berlin"].worker, run)
	}
	c.say("all 20 runs are done")
	c.settled(round)
	c.again(runs, "bonn")
}

// drain ends a worker in good order.
func drain(p *process) {
	p.signal(syscall.SIGTERM)
	require.Zero(p.t, p.ended(15*time.Second))
}

func TestCutOff(t *testing.T) {
	if testing.Short() {
		t.Skip("a Temporal server takes a while to start")
	}
	c := newCountry(t)
	c.say("three sites are served")
	c.protect()
	c.say("their machines are protected")
	comesBack(c)
	isReplaced(c)
}

// A whole site is cut off and comes back: its worker goes on.
func comesBack(c *country) {
	runs := c.flood(0)
	site := []string{platformHost("bonn"), workerHost("bonn")}
	c.cut("bonn", site...)
	c.others(runs)
	for _, h := range site {
		c.wires.cut(h, false)
	}
	c.say("bonn is back")
	c.until("all machines are up", func() bool { return c.count(memory.OpStart) == 20 })
	c.end(runs, 0)
}

// A site's worker is cut off from all but its own platform, and another takes
// over. When the first one is back nothing is left for it to do, and it does
// nothing.
func isReplaced(c *country) {
	c.wires.host(workerHost("spare"), "10.77.0.50")
	c.routes(c.wires.id+workerHost("spare"), -1)
	runs := c.flood(1)
	c.cut("bonn's worker", workerHost("bonn"))
	c.others(runs)
	spare := c.worker("spare", "bonn")
	spare.ready(true)
	c.say("another worker serves bonn")
	c.until("all machines are up", func() bool { return c.count(memory.OpStart) == 20 })
	c.end(runs, 1)
	before := c.effects()
	c.wires.cut(workerHost("bonn"), false)
	c.say("the first worker is back")
	old := c.sites["bonn"].worker
	c.until("it is ready", func() bool { return old.ask("/readyz", "", nil) == http.StatusOK })
	time.Sleep(2 * heartbeat)
	require.Equal(c.t, before, c.effects(), "it does nothing")
	c.say("it has done nothing")
	c.settled(1)
	for _, w := range []*process{old, spare, c.sites["berlin"].worker, c.sites["basel"].worker} {
		drain(w)
	}
}

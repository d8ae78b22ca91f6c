//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// world is everything that a show runs. It is for one goroutine.
type world struct {
	t   testing.TB
	o   options
	out io.Writer
	dir string

	db       *pgtest.Cluster
	temporal *temporalserver.Server // nil: the engine is embedded
	sites    *process
	workers  []*process // those that should run
	made     int        // workers so far
	gone     used
	asked    asked // of Temporal's servers that were killed
}

// Sites of the show: machines live in the first.
const home, away = "berlin", "bonn"

// policy is the name of the records' policy.
const policy = "show"

// newWorld starts all but the workers. Everything ends with t.
func newWorld(t testing.TB, o options, out io.Writer) *world {
	w := &world{t: t, o: o, out: out, dir: o.dir, gone: used{}}
	if w.dir == "" {
		w.dir = t.TempDir()
	}
	must(t, os.MkdirAll(w.dir, 0o700))
	if w.o.program == "" {
		w.o.program = filepath.Join(w.dir, "worker")
		out, err := exec.Command("go", "build", "-o", w.o.program, "github.com/lifeboat-dr/lifeboat/examples/worker").CombinedOutput()
		if err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	if o.engine == "temporal" || o.prepare == "temporal" {
		w.temporal = temporalserver.Start(t, temporalserver.Options{Namespace: "lifeboat", Measure: true})
		w.db = w.temporal.DB
	} else {
		w.db = pgtest.Start(t, pgtest.Options{})
	}
	must(t, os.MkdirAll(filepath.Join(w.dir, "sim", "sites"), 0o700))
	raw, err := json.Marshal(map[string]any{"sites": map[string]any{}, "policies": map[string]any{
		policy: map[string]any{"every": o.cycle.String(), "forward": map[string]string{"keep": "24h", "rpo": o.rpo.String()}}}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(w.dir, "sim", "sites", "policies.json"), raw, 0o600))
	w.sites = w.process("sites", "sites", 2, "simulate", "-dir", filepath.Join(w.dir, "sim"), "-machines", strconv.Itoa(o.machines),
		"-disk", o.disk, "-full", o.full, "-write", o.write, "-every", o.cycle.String(), "-site", home+"="+free(t), "-site", away+"="+free(t), "-empty", away)
	return w
}

// process starts one that ends with the show.
func (w *world) process(role, name string, lines int, args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, role: role, name: name, args: args, lines: lines, program: w.o.program, dir: w.dir, env: []string{"PGPASSWORD=" + w.db.Password}}
	if role == "sites" { // all machines' content: it needn't be held twice
		p.env = append(p.env, "GOGC=40")
	}
	w.t.Cleanup(func() {
		p.end(syscall.SIGKILL, time.Minute)
		if w.t.Failed() {
			w.t.Logf("%s said:\n%s", p.name, p.said())
		}
	})
	p.begin()
	return p
}

// free is an address that nobody listens at.
func free(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// worker starts another one.
func (w *world) worker(engine string, replicate bool) *process {
	w.t.Helper()
	w.made++
	name := fmt.Sprintf("worker-%d", w.made)
	args := []string{"serve", "-name", name, "-sites", filepath.Join(w.dir, "sim", "sites"), "-listen", "127.0.0.1:0",
		"-records", "postgres://postgres@" + w.db.Host() + "/postgres?sslmode=disable", "-coarse", "-drain", "30s", "-engine", engine}
	if engine == "temporal" {
		args = append(args, "-temporal", w.temporal.Address, "-namespace", w.temporal.Namespace)
	} else {
		args = append(args, "-journal", filepath.Join(w.dir, name+".db"))
	}
	if replicate {
		list := min(time.Minute, max(time.Second, w.o.cycle/4))
		args = append(args, "-fleet", strconv.Itoa(w.o.shards), "-lease", w.o.lease.String(), "-list", list.String(), "-cycles", "16")
	} else {
		args = append(args, "-replicate=false")
	}
	p := w.process("workers", name, 1, args...)
	w.workers = append(w.workers, p)
	return p
}

// kill ends a worker by SIGKILL; it doesn't come back by itself.
func (w *world) kill(p *process) {
	w.keep(p.role, p.end(syscall.SIGKILL, time.Minute))
}

// dismiss ends all workers in good order.
func (w *world) dismiss() {
	w.t.Helper()
	for _, p := range w.workers {
		w.keep(p.role, p.end(syscall.SIGTERM, time.Minute))
	}
	w.workers = nil
}

// protect has every machine protected, by runs under the engine that prepares,
// in one worker; what a run costs is printed.
func (w *world) protect() {
	w.t.Helper()
	before, began := w.used(), time.Now()
	p := w.worker(w.o.prepare, false)
	p.ready()
	must(w.t, p.ask("/protections", fmt.Sprintf(`{"from":%q,"to":%q,"all":true,"policy":%q}`, home, away, policy), nil))
	var all []struct{ Run, Error string }
	must(w.t, p.ask("/runs", fmt.Sprintf(`{"flow":"protect","all":%q,"run":"first"}`, home), &all))
	for _, s := range all {
		if s.Error != "" {
			w.t.Fatalf("run %s: %s", s.Run, s.Error)
		}
	}
	w.until("all machines are protected", time.Hour, w.pause(), func() bool { return w.count("protected") == w.o.machines })
	took := time.Since(began)
	used := w.used().since(before)
	w.dismiss()
	fmt.Fprintf(w.out, "protect: %d runs under %s in %v; CPU of a run %s\n", w.o.machines, w.o.prepare, took.Round(time.Second), used.each(w.o.machines))
	fmt.Fprintf(w.out, "protect: %s\n", used)
	if w.o.prepare == "embedded" {
		n := folder(filepath.Join(w.dir, p.name+".db*"))
		fmt.Fprintf(w.out, "protect: journal %s, %s a run\n", size(n), size(n/int64(w.o.machines)))
	} else {
		w.histories("protect")
	}
	w.storage("protect")
}

// count is how many records are in a state.
func (w *world) count(state string) int {
	w.t.Helper()
	n, err := strconv.Atoi(w.db.Query(fmt.Sprintf("SELECT count(*) FROM lifeboat.protection WHERE body->>'state' = '%s'", state)))
	must(w.t, err)
	return n
}

// until waits for what must come true, and looks so often.
func (w *world) until(what string, within, every time.Duration, f func() bool) {
	w.t.Helper()
	for limit := time.Now().Add(within); !f(); time.Sleep(every) {
		if time.Now().After(limit) {
			w.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// pause is between two looks at the records, which cost the more the more
// there are.
func (w *world) pause() time.Duration {
	return max(200*time.Millisecond, time.Duration(w.o.machines)*time.Second/5000)
}

// storage prints what lies in the database and in the points' store.
func (w *world) storage(phase string) {
	w.t.Helper()
	var all []string
	for line := range strings.SplitSeq(w.db.Query(`SELECT relname, pg_total_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE nspname = 'lifeboat' AND relkind = 'r' ORDER BY 2 DESC LIMIT 3`), "\n") {
		name, bytes, _ := strings.Cut(line, "|")
		n, _ := strconv.ParseInt(bytes, 10, 64)
		all = append(all, name+" "+size(n))
	}
	wal, _ := strconv.ParseInt(w.db.Query("SELECT wal_bytes::bigint FROM pg_stat_wal"), 10, 64)
	objects, bytes := 0, int64(0)
	for _, site := range []string{home, away} {
		s, err := w.see(site)
		must(w.t, err)
		objects, bytes = objects+s.Objects, bytes+s.Bytes
	}
	fmt.Fprintf(w.out, "%s: in PostgreSQL %s, journaled %s; points %d objects of %s\n", phase, strings.Join(all, ", "), size(wal), objects, size(bytes))
}

// histories prints what runs leave in Temporal's database, and returns how many
// of them have ended.
func (w *world) histories(phase string) {
	w.t.Helper()
	rows := w.db.QueryIn("temporal", "SELECT count(*), coalesce(sum(length(data)), 0), pg_total_relation_size('history_node'), pg_database_size('temporal') FROM history_node")
	var n, data, table, database int64
	_, err := fmt.Sscanf(strings.ReplaceAll(rows, "|", " "), "%d %d %d %d", &n, &data, &table, &database)
	must(w.t, err)
	fmt.Fprintf(w.out, "%s: Temporal's histories have %d rows with %s, %s on disk; its database %s\n", phase, n, size(data), size(table), size(database))
	for line := range strings.SplitSeq(w.db.QueryIn("temporal_visibility", `SELECT workflow_type_name, count(*), coalesce(round(avg(history_length)), 0), coalesce(max(history_length), 0), coalesce(round(avg(history_size_bytes)), 0)
		FROM executions_visibility WHERE namespace_id <> '32049b68-7872-4094-8e63-d0dd59896a83' AND history_length IS NOT NULL GROUP BY 1 ORDER BY 2 DESC`), "\n") {
		f := strings.Split(line, "|")
		if len(f) == 5 {
			bytes, _ := strconv.ParseInt(f[4], 10, 64)
			fmt.Fprintf(w.out, "%s: %s workflows %s, events each %s, at most %s, %s each\n", phase, f[1], f[0], f[2], f[3], size(bytes))
		}
	}
}

// lives are the workers that run.
func (w *world) lives() []*process {
	return slices.DeleteFunc(slices.Clone(w.workers), func(p *process) bool { return p.pid() == 0 })
}

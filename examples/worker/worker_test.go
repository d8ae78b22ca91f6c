//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/permachine"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// The test program is the worker when it is told to be.
func TestMain(m *testing.M) {
	if os.Getenv("WORKER_TEST_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a worker, or simulated sites, in a process of its own.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	errs string // file of its log
	addr []string
	done chan error
	http *http.Client
}

// start starts a worker's command and reads the lines that it prints.
func start(t testing.TB, lines int, env []string, args ...string) *process {
	return launch(t, exec.Command(os.Args[0], args...), http.DefaultClient, lines, env)
}

func launch(t testing.TB, cmd *exec.Cmd, client *http.Client, lines int, env []string) *process {
	p := &process{t: t, cmd: cmd, errs: filepath.Join(t.TempDir(), "log"), done: make(chan error, 1), http: client}
	log, err := os.Create(p.errs)
	require.NoError(t, err)
	p.cmd.Env = append(append(os.Environ(), "WORKER_TEST_CHILD=1"), env...)
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			said, _ := os.ReadFile(p.errs)
			t.Logf("%v said:\n%s", cmd.Args, said[max(0, len(said)-4000):])
		}
		_ = log.Close()
	})
	read := make([]byte, 4096)
	n := 0
	for bytes.Count(read[:n], []byte("\n")) < lines {
		m, err := out.Read(read[n:])
		if n += m; err != nil {
			said, _ := os.ReadFile(p.errs)
			require.NoError(t, err, "%v: %s", cmd.Args, said)
		}
	}
	p.addr = strings.Fields(string(read[:n]))
	go func() { p.done <- p.cmd.Wait() }()
	return p
}

// ended waits for the end and returns the exit code.
func (p *process) ended(within time.Duration) int {
	select {
	case <-p.done:
	case <-time.After(within):
		p.t.Fatal("the process didn't end")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(s os.Signal) { require.NoError(p.t, p.cmd.Process.Signal(s)) }

// ask asks the worker; body "" is a GET.
func (p *process) ask(path, body string, into any) int {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequest(method, "http://"+p.addr[0]+path, strings.NewReader(body))
	require.NoError(p.t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := p.http.Do(req)
	require.NoError(p.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(p.t, err)
	if into != nil {
		require.NoError(p.t, json.Unmarshal(raw, into), "%s: %s", path, raw)
	}
	return res.StatusCode
}

func (p *process) ready(want bool) (r readiness) {
	status := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[want]
	require.Eventually(p.t, func() bool { return p.ask("/readyz", "", &r) == status && r.Ready == want }, time.Minute, 20*time.Millisecond)
	return r
}

// free is an address that nobody listens at.
func free(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// simulated starts two sites.
func simulatedSites(t testing.TB, dir string, machines int) (*process, []string) {
	a, b := free(t), free(t)
	args := []string{"simulate", "-dir", dir, "-machines", fmt.Sprint(machines), "-every", "2s", "-site", "berlin=" + a, "-site", "bonn=" + b}
	return start(t, 2, nil, args...), args
}

func protect(t testing.TB, w *process, run string) {
	require.Equal(t, http.StatusOK, w.ask("/protections", `{"from":"berlin","to":"bonn","all":true}`, nil))
	var all []started
	require.Equal(t, http.StatusOK, w.ask("/runs", `{"flow":"protect","all":"berlin","run":"`+run+`"}`, &all))
	for _, s := range all {
		require.Empty(t, s.Error)
		done(t, w, s.Run)
	}
}

func done(t testing.TB, w *process, run dr.RunID) dr.Status {
	var s dr.Status
	require.Equal(t, http.StatusOK, w.ask("/runs/"+string(run)+"?wait=60s", "", &s))
	require.Equal(t, dr.RunDone, s.State, "%s: %s", s.Run, s.Reason)
	return s
}

// A worker is alive before it can work, says what it lacks, works when it can,
// and drains.
func TestLife(t *testing.T) {
	dir := t.TempDir()
	sites, again := simulatedSites(t, dir, 3)
	sites.signal(syscall.SIGKILL)
	sites.ended(10 * time.Second)

	w := start(t, 1, nil, "serve", "-sites", filepath.Join(dir, "sites"), "-journal", filepath.Join(dir, "j.db"), "-listen", "127.0.0.1:0", "-drain", "10s")
	require.Equal(t, http.StatusOK, w.ask("/healthz", "", nil))
	r := w.ready(false)
	require.Contains(t, r.Missing, "site berlin")
	require.Equal(t, http.StatusServiceUnavailable, w.ask("/runs", "", nil))

	start(t, 2, nil, again...)
	w.ready(true)
	protect(t, w, "first")
	require.Equal(t, http.StatusOK, w.ask("/runs", `{"flow":"unplanned-failover","protection":"berlin-00001","run":"flood"}`, nil))
	s := done(t, w, "flood")
	require.Equal(t, http.StatusOK, w.ask("/runs", `{"flow":"unplanned-failover","protection":"berlin-00001","run":"flood"}`, nil), "asked again it is the same")
	require.Equal(t, http.StatusConflict, w.ask("/runs", `{"flow":"unplanned-failover","protection":"berlin-00002","run":"flood"}`, nil), "another thing of that name isn't")
	require.Equal(t, s.Ended, done(t, w, "flood").Ended)
	require.Equal(t, http.StatusConflict, w.ask("/runs", `{"flow":"reprotect","protection":"berlin-00002"}`, nil))
	require.Equal(t, http.StatusBadRequest, w.ask("/runs", `{"flow":"no-such","protection":"berlin-00002"}`, nil))
	require.Equal(t, http.StatusNotFound, w.ask("/runs/nobody", "", nil))

	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ended(10*time.Second))
}

// Killed in the middle it goes on, and nothing happens twice.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	simulatedSites(t, dir, 20)
	args := []string{"serve", "-sites", filepath.Join(dir, "sites"), "-journal", filepath.Join(dir, "j.db"), "-listen", "127.0.0.1:0"}
	w := start(t, 1, nil, args...)
	w.ready(true)
	protect(t, w, "first")
	go func() {
		_, _ = http.Post("http://"+w.addr[0]+"/runs", "application/json", strings.NewReader(`{"flow":"unplanned-failover","all":"berlin","run":"flood"}`))
	}()
	require.Eventually(t, func() bool { return w.ask("/runs/flood-berlin-00010", "", nil) == http.StatusOK }, time.Minute, time.Millisecond)
	w.signal(syscall.SIGKILL)
	w.ended(10 * time.Second)

	w = start(t, 1, nil, args...)
	w.ready(true)
	for i := range 20 {
		id := fmt.Sprintf("berlin-%05d", i)
		code := w.ask("/runs", `{"flow":"unplanned-failover","protection":"`+id+`","run":"flood-`+id+`"}`, nil)
		require.Equal(t, http.StatusOK, code)
		done(t, w, dr.RunID("flood-"+id))
	}
	var all []dr.Protection
	w.ask("/protections?state=failed-over&site=bonn", "", &all)
	require.Len(t, all, 20)
	seen := map[dr.MachineID]bool{}
	for _, p := range all {
		require.False(t, seen[p.Active.Machine], "one machine for two")
		seen[p.Active.Machine] = true
	}
}

// Two workers with journals of their own share records, claims and a fleet on
// PostgreSQL; one is killed, and the other keeps all machines. A journal moves
// there.
func TestFleetOnPostgres(t *testing.T) {
	db := pgtest.Start(t, pgtest.Options{})
	dir := t.TempDir()
	simulatedSites(t, dir, 6)
	sites := filepath.Join(dir, "sites")
	first := start(t, 1, nil, "serve", "-sites", sites, "-journal", filepath.Join(dir, "old.db"), "-listen", "127.0.0.1:0")
	first.ready(true)
	protect(t, first, "first")
	first.signal(syscall.SIGTERM)
	require.Zero(t, first.ended(time.Minute))

	password := "PGPASSWORD=" + db.Password
	dsn := "postgres://postgres@" + db.Host() + "/postgres?sslmode=disable"
	moved := start(t, 1, []string{password}, "import", "-from", filepath.Join(dir, "old.db"), "-to", dsn)
	require.Zero(t, moved.ended(time.Minute))
	require.Equal(t, "6", moved.addr[0], "records moved")

	// Whoever starts the old worker again finds nothing to act on, not even for a drill.
	again := start(t, 1, nil, "serve", "-sites", sites, "-journal", filepath.Join(dir, "old.db"), "-listen", "127.0.0.1:0")
	again.ready(true)
	var left []dr.Protection
	require.Equal(t, http.StatusOK, again.ask("/protections", "", &left))
	require.Empty(t, left)
	require.Equal(t, http.StatusOK, again.ask("/runs", `{"flow":"test-failover","protection":"berlin-00001","run":"late"}`, nil))
	var late dr.Status
	require.Equal(t, http.StatusOK, again.ask("/runs/late?wait=1m", "", &late))
	require.Equal(t, dr.RunFailed, late.State)
	require.Contains(t, late.Reason, "has moved to postgres")
	again.signal(syscall.SIGTERM)
	require.Zero(t, again.ended(time.Minute))

	worker := func(name string) *process {
		return start(t, 1, []string{password}, "serve", "-name", name, "-sites", sites, "-journal", filepath.Join(dir, name+".db"),
			"-records", dsn, "-fleet", "4", "-lease", "3s", "-list", "1s", "-listen", "127.0.0.1:0", "-drain", "10s")
	}
	holds := func(w *process) (n, machines int) {
		var s status
		w.ask("/status", "", &s)
		if s.Fleet == nil {
			return 0, 0
		}
		for _, h := range s.Fleet.Holds {
			machines += h.Machines
		}
		return len(s.Fleet.Holds), machines
	}
	a, b := worker("a"), worker("b")
	a.ready(true)
	b.ready(true)
	require.Eventually(t, func() bool { n, _ := holds(a); m, _ := holds(b); return n == 2 && m == 2 }, time.Minute, 50*time.Millisecond)
	a.signal(syscall.SIGKILL)
	require.Eventually(t, func() bool { n, m := holds(b); return n == 4 && m == 6 }, time.Minute, 50*time.Millisecond)
	require.Equal(t, http.StatusOK, b.ask("/runs", `{"flow":"planned-failover","protection":"berlin-00002","run":"move"}`, nil))
	done(t, b, "move")
	b.signal(syscall.SIGTERM)
	require.Zero(t, b.ended(15*time.Second))
}

// What is wrong is said before anything is done, and no password with it.
func TestWrongUse(t *testing.T) {
	for want, args := range map[string]string{
		"no command":         "",
		"-sites is needed":   "serve",
		"needs -journal":     "serve -sites x",
		"PGPASSFILE":         "serve -sites x -journal y -records postgres://u:hunter2@h/d",
		"needs -claims":      "serve -sites x -engine temporal -records file",
		"-token-file":        "serve -sites x -journal y -listen :9090",
		"needs -records":     "serve -sites x -journal y -fleet 10",
		"-engine \"other\"":  "serve -sites x -engine other",
		"-dir and at least":  "simulate",
		"no command \"no\"":  "no",
		"want NAME=HOST:POR": "simulate -dir x -site berlin",
	} {
		var out, errs bytes.Buffer
		require.Equal(t, exitUsage, run(t.Context(), strings.Fields(args), &out, &errs), args)
		require.Contains(t, errs.String(), want)
		require.NotContains(t, errs.String(), "hunter2")
	}
}

func TestSitesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sites.json")
	for want, text := range map[string]string{
		"names no site":          `{}`,
		"unknown field":          `{"site":{}}`,
		"line 3":                 "{\"sites\":\n{},\n\"polices\":{}}",
		`no kind "vmwre"`:        `{"sites":{"a":{"machines":{"kind":"vmwre"},"points":{"kind":"vault"}}}}`,
		"points: invalid":        `{"sites":{"a":{"machines":{"kind":"agent"}}}}`,
		"more behind":            `{"sites":{}} {}`,
		"replication policy":     `{"sites":{},"policies":{"x":{"evry":"5m"}}}`,
		"is there already, or h": `{"sites":{"":{"machines":{"kind":"agent"},"points":{"kind":"vault"}}}}`,
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := readSites(path)
		require.ErrorIs(t, err, dr.ErrInvalid, text)
		require.ErrorContains(t, err, want)
	}
	both := t.TempDir()
	for _, name := range []string{"a.json", "b.json", ".c.json", "a.json.new"} {
		text := `{"sites":{"` + name + `":{"machines":{"kind":"agent"},"points":{"kind":"vault"}}}}`
		require.NoError(t, os.WriteFile(filepath.Join(both, name), []byte(text), 0o600))
	}
	all, err := readSites(both)
	require.NoError(t, err)
	require.Len(t, all.Sites, 2)
	if os.Geteuid() != 0 { // whom nothing is closed to
		require.NoError(t, os.Chmod(both, 0))
		_, err = readSites(both)
		require.ErrorIs(t, err, os.ErrPermission)
		require.NoError(t, os.Chmod(both, 0o700))
	}
}

// What names nothing, or another thing than it meant, is told, with where it stands.
func TestWrongSettings(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sites.json")
	machines := `{"kind":"physical","config":{"root":"m"}}`
	one, many := filepath.Join(dir, "one"), filepath.Join(dir, "many")
	require.NoError(t, os.MkdirAll(filepath.Join(many, permachine.Name("a")), 0o700))
	v, err := vault.OpenDir(one, vault.Options{})
	require.NoError(t, err)
	require.NoError(t, v.Close())
	for want, text := range map[string]string{
		`unknown field "adress"`:         `{"kind":"agent","adress":"x"} {"kind":"vault","folder":"v"}`,
		"address is missing":             `{"kind":"agent"} {"kind":"vault","folder":"v"}`,
		"config.root is missing":         `{"kind":"physical","config":{}} {"kind":"vault","folder":"v"}`,
		"folder is missing":              machines + ` {"kind":"vault"}`,
		"leave perMachine out":           machines + ` {"kind":"vault","folder":"one","perMachine":true}`,
		"a vault for each machine, of a": machines + ` {"kind":"vault","folder":"many"}`,
	} {
		m, p, _ := strings.Cut(text, "} {")
		require.NoError(t, os.WriteFile(path, []byte(`{"sites":{"a":{"machines":`+m+`},"points":{`+p+`}}}`), 0o600))
		var out, errs bytes.Buffer
		require.Equal(t, exitFailed, run(t.Context(), []string{"serve", "-sites", path, "-journal", filepath.Join(dir, "j"), "-listen", "127.0.0.1:0"}, &out, &errs), text)
		require.Contains(t, errs.String(), want)
		require.Contains(t, errs.String(), "worker: "+path+": ")
	}
	require.NoError(t, os.WriteFile(path, []byte(`{"sites":{"a":{"machines":`+machines+`,"points":{"kind":"vault","folder":"one"}}}}`), 0o600))
	for want, args := range map[string]string{
		"no such site, but a":  "-queues a,b -journal " + dir + "/j2",
		"postgres://..., dir:": "-claims s3:bucket -journal " + dir + "/j3",
		`"postgres//h/d"`:      "-records postgres//h/d -journal " + dir + "/j4",
	} {
		var out, errs bytes.Buffer
		all := append([]string{"serve", "-sites", path, "-listen", "127.0.0.1:0"}, strings.Fields(args)...)
		require.NotZero(t, run(t.Context(), all, &out, &errs))
		require.Contains(t, errs.String(), want)
	}
}

// Without tokens only this computer asks; with them, only who has one.
func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(path, []byte("# who\nops: 0123456789abcdef\n"), 0o600))
	u, err := readUsers(path)
	require.NoError(t, err)
	asked := func(u *users, change func(*http.Request)) int {
		r, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:9090/status", nil)
		require.NoError(t, err)
		change(r)
		w := &recorder{header: http.Header{}, status: http.StatusOK}
		u.admit(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		return w.status
	}
	require.Equal(t, http.StatusOK, asked(nil, func(*http.Request) {}))
	require.Equal(t, http.StatusForbidden, asked(nil, func(r *http.Request) { r.Host = "evil.example:9090" }))
	require.Equal(t, http.StatusForbidden, asked(nil, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }))
	require.Equal(t, http.StatusUnauthorized, asked(u, func(*http.Request) {}))
	require.Equal(t, http.StatusUnauthorized, asked(u, func(r *http.Request) { r.Header.Set("Authorization", "Bearer 0123456789abcdeg") }))
	require.Equal(t, http.StatusOK, asked(u, func(r *http.Request) { r.Header.Set("Authorization", "Bearer 0123456789abcdef") }))
	require.NoError(t, os.WriteFile(path, []byte("ops: short\n"), 0o600))
	_, err = readUsers(path)
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.NotContains(t, err.Error(), "short")
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }

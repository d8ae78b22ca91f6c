package fsfreeze_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/fsfreeze"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// postgres is a cluster in a folder, run by its own user.
type postgres struct {
	t    testing.TB
	bin  string
	data string
	port string
	sock string // folder of the socket
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	return exec.Command(fsfreeze.Tool(p.t, "runuser"), append([]string{"-u", "postgres", "--", fsfreeze.Tool(p.t, name)}, args...)...)
}

func (p *postgres) run(name string, args ...string) string {
	p.t.Helper()
	cmd := p.command(name, args...)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(p.log())
		require.NoError(p.t, err, "%s: %s\n%s", name, out, log)
	}
	return strings.TrimSpace(string(out))
}

func (p *postgres) log() string { return filepath.Join(p.data, "server.log") }

// place gives the server a folder for its socket, which is not on its disk: the
// recovered one runs beside it.
func (p *postgres) place() {
	p.t.Helper()
	p.sock = p.t.TempDir()
	fsfreeze.Run(p.t, "chown", "postgres", p.sock)
	f, err := os.OpenFile(filepath.Join(p.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(p.t, err)
	_, err = fmt.Fprintf(f, "unix_socket_directories = '%s'\n", p.sock)
	require.NoError(p.t, err)
	require.NoError(p.t, f.Close())
}

// start returns when the server answers. What it prints goes to its log.
func (p *postgres) start() {
	p.t.Helper()
	cmd := p.command("pg_ctl", "-D"+p.data, "-w", "-s", "-l", p.log(), "start")
	cmd.Dir = "/" // and no pipes, which the server would keep open
	err := cmd.Run()
	log, _ := os.ReadFile(p.log())
	require.NoError(p.t, err, string(log))
	p.t.Cleanup(func() { _ = p.command("pg_ctl", "-D"+p.data, "-m", "immediate", "-s", "stop").Run() })
}

func (p *postgres) query(sql string) string {
	p.t.Helper()
	return p.run("psql", "-XAtq", "-h", p.sock, "-p", p.port, "-d", "postgres", "-c", sql)
}

// newPostgres makes a cluster that pgbench is ready for.
func newPostgres(t testing.TB, dir string) *postgres {
	t.Helper()
	p := &postgres{t: t, bin: filepath.Dir(fsfreeze.Tool(t, "initdb")), data: filepath.Join(dir, "data"), port: "5499"}
	fsfreeze.Run(t, "chown", "postgres", dir)
	p.run("initdb", "-D"+p.data, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
	settings := fmt.Sprintf("listen_addresses = ''\nport = %s\nmax_wal_size = '64MB'\nshared_buffers = '32MB'\nlog_checkpoints = on\n", p.port)
	f, err := os.OpenFile(filepath.Join(p.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(settings)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	p.place()
	p.start()
	p.run("pgbench", "-i", "-q", "-s", "2", "-h", p.sock, "-p", p.port, "postgres")
	p.query("CREATE EXTENSION amcheck")
	return p
}

// balance fails where the bank's books disagree or an index is damaged. It
// returns the number of transactions.
func (p *postgres) balance() string {
	p.t.Helper()
	got := p.query(`SELECT (SELECT sum(abalance) FROM pgbench_accounts) = s AND (SELECT sum(bbalance) FROM pgbench_branches) = s
		AND (SELECT sum(tbalance) FROM pgbench_tellers) = s, n FROM (SELECT coalesce(sum(delta), 0) AS s, count(*) AS n FROM pgbench_history) AS h`)
	same, n, _ := strings.Cut(got, "|")
	require.Equal(p.t, "t", same, "the balances don't add up")
	p.run("pg_amcheck", "-h", p.sock, "-p", p.port, "-d", "postgres", "--heapallindexed")
	return n
}

// load has clients work until the test or the server ends. It returns a
// function that tells whether they still do.
func (p *postgres) load() {
	p.t.Helper()
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-over:
				return
			default:
			}
			// Clients that were cut off come back.
			cmd := p.command("pgbench", "-n", "-c", "4", "-T", "1", "-h", p.sock, "-p", p.port, "postgres")
			cmd.Dir = "/"
			_ = cmd.Run()
		}
	}()
	p.t.Cleanup(func() {
		close(over)
		<-done
	})
}

// A real PostgreSQL under load is recovered from points that were taken
// meanwhile: the file system is clean, the server starts, its books agree and
// its indexes are whole. With the script that stops it there is no crash
// recovery at all; with the one that writes a checkpoint there is, from the
// checkpoint.
func TestPostgreSQL(t *testing.T) {
	for name, want := range map[string]dr.Consistency{"postgresql-stop": dr.ApplicationConsistent, "postgresql-checkpoint": dr.FileSystemConsistent} {
		t.Run(name, func(t *testing.T) {
			device := fsfreeze.Loop(t, fsfreeze.Sparse(t, 400<<20))
			fsfreeze.Format(t, "ext4", device)
			dir := fsfreeze.Mounted(t, "ext4", device)
			p := newPostgres(t, dir)

			hooks := t.TempDir()
			require.NoError(t, os.Chmod(hooks, 0o755))
			script, err := os.ReadFile(filepath.Join("../../../examples/agent/hooks", name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(hooks, name), script, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(hooks, ".postgresql"), fmt.Appendf(nil,
				"BIN=%s DATA='%s' SOCKETS='%s' PORT=%s OPTIONS=\n", p.bin, p.data, p.sock, p.port), 0o600))

			var report fsfreeze.Report
			cfg := physical.Config{Freezes: dr.ApplicationConsistent,
				Machines: []physical.Machine{{ID: "m", Power: dr.On, Disks: []physical.Disk{{ID: "d", Path: device}}}}}
			cfg.Hooks.Freeze, cfg.Hooks.Thaw = fsfreeze.Hooks(fsfreeze.Options{
				Scripts: fsfreeze.Scripts{Dir: hooks}, Report: func(r fsfreeze.Report) { report = r }})
			s := newSites(t, cfg)
			p.load()
			began := time.Now()
			for p.query("SELECT count(*) > 50 FROM pgbench_history") != "t" && time.Since(began) < time.Minute {
			}

			point, image := s.recover(t, "p1", dr.ApplicationConsistent)
			require.NoError(t, report.Err)
			t.Logf("prepared in %v, frozen for %v", report.Prepared, report.Frozen)
			for _, r := range report.Scripts {
				require.NoError(t, r.Err)
				t.Logf("%s: %v", r.Event, r.Took)
			}
			require.Equal(t, want, point.Consistency)
			p.query("SELECT 1") // it serves again

			fsfreeze.Run(t, "e2fsck", "-fn", image)
			copied := fsfreeze.Mounted(t, "ext4", fsfreeze.Loop(t, image))
			q := &postgres{t: t, bin: p.bin, data: filepath.Join(copied, "data"), port: p.port}
			require.NoError(t, os.Remove(q.log()))
			os.Remove(filepath.Join(q.data, "postmaster.pid")) // of a server that runs, on this machine
			q.place()
			q.start()
			log, err := os.ReadFile(q.log())
			require.NoError(t, err)
			if want == dr.ApplicationConsistent {
				require.Contains(t, string(log), "database system was shut down at")
				require.NotContains(t, string(log), "was not properly shut down")
				require.NotContains(t, string(log), "redo")
			} else {
				require.Contains(t, string(log), "was not properly shut down")
				for line := range strings.Lines(string(log)) {
					if strings.Contains(line, "redo") {
						t.Log(strings.TrimSpace(line))
					}
				}
			}
			t.Logf("%s transactions", q.balance())
		})
	}
}

package pgtest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options of a cluster. The zero value is a small one that syncs nothing.
type Options struct {
	// Sync has commits reach the disk, as is needed to measure them.
	Sync bool
	// Dir is where the cluster is made, in a folder "data"; "" is a temporary
	// folder. Its user must be able to enter it.
	Dir string
	// Settings are added to those of the server, as "max_connections": "300".
	Settings map[string]string
}

// Cluster is a PostgreSQL of one test. Its methods fail the test that made it;
// all but Start, Stop and Kill may be called at once.
type Cluster struct {
	Data     string // the cluster's folder
	Sockets  string // the socket's folder
	Port     int    // of the socket and on 127.0.0.1; the same after a restart
	Password string // of user postgres

	t        testing.TB
	settings map[string]string

	mu   sync.Mutex
	said bytes.Buffer // by the server, of all its starts
	cmd  *exec.Cmd    // nil: it doesn't run
	over chan struct{}
}

// startTime is how long a start may take, crash recovery included.
const startTime = time.Minute

// Start makes a cluster and starts it. It ends with the test, and its files go.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	initdb := Tool(t, "initdb")
	c := &Cluster{t: t, Password: rand.Text()}
	dir := o.Dir
	if dir == "" {
		// Not the test's own folder: a socket's path has 107 bytes at most.
		dir = c.folder("data")
	}
	c.Data, c.Sockets = filepath.Join(dir, "data"), c.folder("sock")
	secret := filepath.Join(c.Sockets, "password")
	c.must(os.WriteFile(secret, []byte(c.Password), 0o600))
	c.must(give(secret))
	c.must(give(dir))
	out, err := c.command(initdb, "-D", c.Data, "-U", "postgres", "--pwfile", secret, "--auth-local=trust", "--auth-host=scram-sha-256",
		"--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C").CombinedOutput()
	if err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	c.Port = FreePort(t)
	c.settings = map[string]string{
		"unix_socket_directories": c.Sockets, "listen_addresses": "127.0.0.1", "port": strconv.Itoa(c.Port),
		"lc_messages": "C", "log_destination": "stderr", "logging_collector": "off",
		"shared_buffers": "32MB", "max_wal_size": "128MB", "max_connections": "200",
		"fsync": onOff(o.Sync), "full_page_writes": onOff(o.Sync),
	}
	maps.Copy(c.settings, o.Settings)
	t.Cleanup(func() {
		c.end(true)
		if t.Failed() {
			t.Logf("PostgreSQL said:\n%s", c.Log())
		}
	})
	c.Start()
	return c
}

// folder makes one that the server's user owns and nobody else can enter.
func (c *Cluster) folder(what string) string {
	c.t.Helper()
	dir, err := os.MkdirTemp("", "pg"+what)
	c.must(err)
	c.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			c.t.Errorf("PostgreSQL's folder stays: %v", err)
		}
	})
	c.must(give(dir))
	return dir
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// FreePort is a port of 127.0.0.1 for a server that a test starts soon, below those
// that the kernel gives to clients (32768 and up on Linux). While a server of this
// test is down, a client of any test could get such a one for its end of a
// connection, this server's own clients among them, which then talk to themselves,
// and the server couldn't be started again.
func FreePort(t testing.TB) int {
	t.Helper()
	var err error
	for range 100 {
		port := 15000 + mathrand.IntN(17000)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal(err)
	return 0
}

// command runs as the server's user, from a folder that it can enter.
func (c *Cluster) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.Password)
	asServer(cmd)
	return cmd
}

// Start starts a cluster that was stopped or killed, and returns when it takes
// connections. One that runs stays as it is.
func (c *Cluster) Start() {
	c.t.Helper()
	if c.running() {
		return
	}
	args := []string{"-D", c.Data}
	for _, k := range slices.Sorted(maps.Keys(c.settings)) {
		args = append(args, "-c", k+"="+c.settings[k])
	}
	cmd := c.command(Tool(c.t, "postgres"), args...)
	out, in, err := os.Pipe()
	c.must(err)
	cmd.Stdout, cmd.Stderr = in, in
	over, err := startTied(cmd)
	in.Close()
	c.must(err)
	ready := make(chan struct{})
	go c.listen(out, ready)
	c.mu.Lock()
	c.cmd, c.over = cmd, over
	c.mu.Unlock()
	limit := time.NewTimer(startTime)
	defer limit.Stop()
	select {
	case <-ready:
		return
	case <-over:
	case <-limit.C:
	}
	c.end(true)
	c.t.Fatalf("PostgreSQL didn't start:\n%s", c.Log())
}

// listen keeps what the server says, and closes ready when it serves.
func (c *Cluster) listen(out io.ReadCloser, ready chan struct{}) {
	defer out.Close()
	var once sync.Once
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		c.mu.Lock()
		c.said.WriteString(line)
		c.mu.Unlock()
		if strings.Contains(line, "database system is ready to accept connections") {
			once.Do(func() { close(ready) })
		}
		if err != nil {
			return
		}
	}
}

func (c *Cluster) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd != nil
}

// Log is all that the server has said.
func (c *Cluster) Log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

// Stop ends the server as an administrator does who doesn't wait for clients:
// their connections are closed, what was committed is on disk.
func (c *Cluster) Stop() { c.t.Helper(); c.end(false) }

// Kill ends every process of the cluster by SIGKILL, all of them at one
// moment. It returns when they are gone, so that Start can follow.
func (c *Cluster) Kill() { c.t.Helper(); c.end(true) }

func (c *Cluster) end(kill bool) {
	c.t.Helper()
	c.mu.Lock()
	cmd, over := c.cmd, c.over
	c.cmd = nil
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	if !kill {
		_ = cmd.Process.Signal(os.Interrupt)
		limit := time.NewTimer(startTime)
		defer limit.Stop()
		select {
		case <-over:
			return
		case <-limit.C:
			c.t.Errorf("PostgreSQL didn't stop:\n%s", c.Log())
		}
	}
	killTree(cmd.Process)
	<-over
}

// Host is the loopback address and port, as "127.0.0.1:5432".
func (c *Cluster) Host() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)) }

// DSN is how to connect to the database over TCP as user postgres; "" is
// database postgres. It holds the password.
func (c *Cluster) DSN(database string) string {
	return c.DSNAs("postgres", c.Password, database)
}

// DSNAs is DSN of another user.
func (c *Cluster) DSNAs(user, password, database string) string {
	if database == "" {
		database = "postgres"
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: c.Host(), Path: "/" + database,
		RawQuery: "sslmode=disable"}
	return u.String()
}

// Query runs SQL by psql in database postgres and returns its output, columns
// separated by "|". A failure fails the test.
func (c *Cluster) Query(sql string) string { c.t.Helper(); return c.QueryIn("postgres", sql) }

// QueryIn is Query in another database.
func (c *Cluster) QueryIn(database, sql string) string {
	c.t.Helper()
	return c.Run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", c.Sockets, "-p", strconv.Itoa(c.Port), "-U", "postgres", "-d", database, "-c", sql)
}

// Run runs a program of PostgreSQL's as the server's user and returns what it
// prints, without the last line's end. A failure fails the test.
func (c *Cluster) Run(name string, args ...string) string {
	c.t.Helper()
	out, err := c.Command(name, args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

// Command is Run that the caller runs.
func (c *Cluster) Command(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	return c.command(Tool(c.t, name), args...)
}

// CreateDatabase makes an empty database and returns its DSN.
func (c *Cluster) CreateDatabase(name string) string {
	c.t.Helper()
	c.Query(fmt.Sprintf(`CREATE DATABASE "%s" TEMPLATE template0`, strings.ReplaceAll(name, `"`, `""`)))
	return c.DSN(name)
}

// Set changes a setting of the server from the next Start on.
func (c *Cluster) Set(name, value string) { c.settings[name] = value }

// Give puts a file into the cluster's folder, for the server's eyes only.
func (c *Cluster) Give(name string, content []byte) {
	c.t.Helper()
	path := filepath.Join(c.Data, name)
	c.must(os.WriteFile(path, content, 0o600))
	c.must(give(path))
}

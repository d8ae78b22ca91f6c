package temporalserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// Options of a server. The zero value speaks plain text, on a database of its
// own.
type Options struct {
	// TLS has the frontend speak TLS, and ask clients for a certificate.
	TLS bool
	// Namespace is made, besides the system's own; "" is "default".
	Namespace string
	// Retention of the namespace; 0: 30 days.
	Retention time.Duration
	// Level of the server's log; "" is "error".
	Level string
	// Measure has the server count what it is asked (Requests), show its
	// profiles (Profiles), and keep its caches as long as one that is installed.
	Measure bool
}

// Server is a Temporal server of one test. Its methods fail the test that made
// it. Start, Stop and Kill are not for concurrent use.
type Server struct {
	Address   string // of the frontend, "127.0.0.1:port"; the same after a restart
	Namespace string
	Files     *Files          // with Options.TLS
	DB        *pgtest.Cluster // may be killed and started by itself

	t      testing.TB
	bin    programs
	ports  ports
	config string

	mu   sync.Mutex
	said bytes.Buffer // by all starts; the end of it
	cmd  *exec.Cmd    // nil: it doesn't run
	over chan struct{}
}

// patience is how long a start may take.
const patience = 2 * time.Minute

// Start makes a server and starts it. It ends with the test, and its files go.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	pgtest.Tool(t, "postgres") // or skip, before minutes are spent
	s := &Server{t: t, bin: find(t), Namespace: o.Namespace}
	if s.Namespace == "" {
		s.Namespace = "default"
	}
	s.DB = pgtest.Start(t, pgtest.Options{})
	s.schema("temporal", "postgresql/v12/temporal")
	s.schema("temporal_visibility", "postgresql/v12/visibility")
	dir := t.TempDir()
	var err error
	if o.TLS {
		s.Files, err = NewFiles(dir)
		s.must(err)
	}
	s.ports, err = freePorts()
	s.must(err)
	s.Address = local(s.ports.Frontend)
	s.config, err = o.configure(dir, s.ports, s.DB, s.Files)
	s.must(err)
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("Temporal said:\n%s", s.Log())
		}
	})
	s.Start()
	retention := o.Retention
	if retention == 0 {
		retention = 30 * 24 * time.Hour
	}
	s.MakeNamespace(s.Namespace, retention)
	return s
}

// schema makes one of the two databases.
func (s *Server) schema(database, schema string) {
	s.t.Helper()
	s.DB.CreateDatabase(database)
	for _, args := range [][]string{{"setup-schema", "-v", "0.0"}, {"update-schema", "--schema-name", schema}} {
		all := append([]string{"--plugin", "postgres12", "--ep", "127.0.0.1", "-p", strconv.Itoa(s.DB.Port), "-u", "postgres", "--db", database}, args...)
		cmd := exec.Command(s.bin.sql, all...)
		cmd.Env = append(os.Environ(), "SQL_PASSWORD="+s.DB.Password)
		out, err := cmd.CombinedOutput()
		if err != nil {
			s.t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Start starts a server that was stopped or killed, and returns when its
// frontend answers. One that runs stays as it is.
func (s *Server) Start() {
	s.t.Helper()
	s.Launch()
	s.Ready()
}

// Launch starts a server that was stopped or killed, and doesn't wait.
func (s *Server) Launch() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return
	}
	cmd := exec.Command(s.bin.server, "--config-file", s.config, "--allow-no-auth", "start")
	cmd.Stdout = (*tail)(s)
	cmd.Stderr = cmd.Stdout
	over, err := startTied(cmd)
	s.must(err)
	s.cmd, s.over = cmd, over
}

// maxStarts is how often Ready starts a server that ends by itself.
const maxStarts = 5

// Ready waits until the frontend answers and knows the database. A server that
// loses its database while its services start ends by itself; it is started
// again, as whatever keeps services does.
func (s *Server) Ready() {
	s.t.Helper()
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	limit := time.Now().Add(patience)
	starts := 0
	for {
		code, body, err := s.ask(http.MethodGet, "/api/v1/namespaces/temporal-system", "")
		if err == nil && code == http.StatusOK {
			return
		}
		select {
		case <-over:
			if starts++; starts > maxStarts {
				s.t.Fatalf("Temporal has ended:\n%s", s.Log())
			}
			s.mu.Lock()
			s.cmd = nil
			s.mu.Unlock()
			s.Launch()
			s.mu.Lock()
			over = s.over
			s.mu.Unlock()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(limit) {
			s.t.Fatalf("Temporal doesn't answer: %d %s %v\n%s", code, body, err, s.Log())
		}
	}
}

// Kill ends the server by SIGKILL, and returns when it is gone.
func (s *Server) Kill() { s.end(true) }

// Stop ends it in good order.
func (s *Server) Stop() { s.end(false) }

func (s *Server) end(kill bool) {
	s.mu.Lock()
	cmd, over := s.cmd, s.over
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if !kill && cmd.Process.Signal(os.Interrupt) == nil {
		select {
		case <-over:
			return
		case <-time.After(patience):
		}
	}
	_ = cmd.Process.Kill() // an error says that it has ended
	<-over
}

// Line is a network line of the test's own to the frontend: dial its Addr. It
// ends with the test.
func (s *Server) Line(seed uint64) *faultyline.Line {
	s.t.Helper()
	l, err := faultyline.New(s.Address, seed)
	s.must(err)
	s.t.Cleanup(func() { _ = l.Close() })
	return l
}

// MakeNamespace makes a namespace and returns when it can be used.
func (s *Server) MakeNamespace(name string, retention time.Duration) {
	s.t.Helper()
	body := fmt.Sprintf(`{"namespace": %q, "workflowExecutionRetentionPeriod": "%ds"}`, name, int(retention.Seconds()))
	limit := time.Now().Add(patience)
	for seen := 0; seen < 3; {
		// A server that has just started refuses for a while; asked again it says
		// that there is one.
		code, answer, err := s.ask(http.MethodPost, "/api/v1/namespaces", body)
		if err == nil && (code == http.StatusOK || code == http.StatusConflict) {
			// Listing goes by another service's cache.
			code, answer, err = s.ask(http.MethodGet, "/api/v1/namespaces/"+name+"/workflow-count", "")
		}
		if err == nil && code == http.StatusOK {
			seen++
		} else {
			seen = 0
		}
		if time.Now().After(limit) {
			s.t.Fatalf("Temporal doesn't make namespace %s: %d %s %v\n%s", name, code, answer, err, s.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask calls the server's HTTP API.
func (s *Server) ask(method, path, body string) (code int, answer string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	scheme, transport := "http", &http.Transport{DisableKeepAlives: true}
	if s.Files != nil {
		scheme = "https"
		pair, err := tls.LoadX509KeyPair(s.Files.Cert, s.Files.Key)
		if err != nil {
			return 0, "", err
		}
		roots := x509.NewCertPool()
		roots.AddCert(s.Files.ca)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://"+local(s.ports.HTTP)+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(all), err
}

// Log is the end of what the server has said.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

// CPU is the time that the server's process has used since its last start.
func (s *Server) CPU() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return cpuOf(s.cmd.Process.Pid)
}

// PID is the server's process; 0 if it doesn't run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// tail is a Server that keeps what its process says.
type tail Server

// maxSaid is how much of it is kept, about.
const maxSaid = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.said.Len() > 2*maxSaid {
		t.said.Next(t.said.Len() - maxSaid)
	}
	return t.said.Write(p)
}

package remote

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

// program is examples/agent, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "agent")
	out, err := exec.Command("go", "build", "-o", path, "github.com/lifeboat-dr/lifeboat/examples/agent").CombinedOutput()
	if err != nil {
		_, _ = os.Stderr.Write(out)
	}
	return path, err
})

// TestMain removes what program made.
func TestMain(m *testing.M) {
	if f := roles[os.Getenv("LIFEBOAT_TEST_ROLE")]; f != nil {
		os.Exit(f())
	}
	built := false
	p := program
	program = func() (string, error) { built = true; return p() }
	code := m.Run()
	if built {
		if path, err := p(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

// roles are what the test's binary does when it is run by a test.
var roles = map[string]func() int{}

// host is a machine's host: its configuration, and the agent that runs there.
type host struct {
	t      testing.TB
	dir    string
	listen string
	addr   string
	prefix []string // of the command line: where the agent runs
	cmd    *exec.Cmd
	log    *said
}

// said is what a process has said.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newHost writes the configuration and makes certificates for ip.
func newHost(t testing.TB, ip string, cfg physical.Config) *host {
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	h := &host{t: t, dir: t.TempDir(), listen: ip + ":0", log: &said{}}
	if cfg.Root == "" {
		cfg.Root = filepath.Join(h.dir, "root")
	}
	b, err := json.Marshal(cfg)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "host.json"), b, 0o600))
	out, err := exec.Command(path, "pki", "--dir", filepath.Join(h.dir, "pki"), "--host", ip, "--host", "127.0.0.1").CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(h.kill)
	return h
}

// start runs the agent, again under the same address.
func (h *host) start() {
	h.t.Helper()
	path, err := program()
	require.NoError(h.t, err)
	pki := filepath.Join(h.dir, "pki")
	args := append(h.prefix, path, "serve", "--listen", h.listen, "--cert", filepath.Join(pki, "server.pem"),
		"--key", filepath.Join(pki, "server.key"), "--clients", filepath.Join(pki, "ca.pem"),
		"--backend", "physical:"+filepath.Join(h.dir, "host.json"))
	h.cmd = exec.Command(args[0], args[1:]...)
	h.cmd.Stderr = h.log
	out, err := h.cmd.StdoutPipe()
	require.NoError(h.t, err)
	require.NoError(h.t, h.cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(h.t, err, "%s", h.log)
	h.addr = strings.TrimSpace(line)
	h.listen = h.addr
}

// kill ends the agent without a word.
func (h *host) kill() {
	if h.cmd != nil && h.cmd.ProcessState == nil {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	}
}

// pkiTLS is a client's side, from the folder of certificates.
func pkiTLS(pki string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(pki, "client.pem"), filepath.Join(pki, "client.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(pki, "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}, nil
}

func (h *host) dial(addr string, o DialOptions) *Client {
	h.t.Helper()
	var err error
	o.TLS, err = pkiTLS(filepath.Join(h.dir, "pki"))
	require.NoError(h.t, err)
	c, err := Dial(context.Background(), addr, o)
	require.NoError(h.t, err, "%s", h.log)
	h.t.Cleanup(func() { require.NoError(h.t, c.Close()) })
	return c
}

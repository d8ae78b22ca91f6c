package azurite

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"
)

// Server is a running Azurite.
type Server struct {
	Account string // name of its one account
	Key     string // of the account, in base64, as Azure shows it

	url   string
	stdin io.Closer
	proc  *os.Process
	said  *tail
	ended chan struct{}
}

var shared struct {
	sync.Mutex
	server *Server
}

// Start returns the server that all tests of this process share. It keeps its
// content in memory and runs until the process ends: a test has containers of
// its own, and does not stop it.
func Start(t testing.TB) *Server {
	t.Helper()
	node, main := find(t)
	shared.Lock()
	defer shared.Unlock()
	if s := shared.server; s != nil {
		select {
		case <-s.ended:
			t.Fatalf("the shared Azurite has ended: %s", s.said)
		default:
			return s
		}
	}
	s, err := start(t.Context(), node, main, "--inMemoryPersistence")
	require.NoError(t, err)
	shared.server = s
	return s
}

// StartFresh returns a server of the test's own, which ends with it. It keeps
// its content in the folder dir, where the next one finds it, or in memory if
// dir is "".
func StartFresh(t testing.TB, dir string) *Server {
	t.Helper()
	node, main := find(t)
	args := []string{"--inMemoryPersistence"}
	account, key := "", ""
	if dir != "" {
		args = []string{"--location", dir}
		// Who comes back to a folder comes with the same account.
		account, key = "folder", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 64))
	}
	s, err := startAs(t.Context(), account, key, node, main, args...)
	require.NoError(t, err)
	t.Cleanup(s.Kill)
	return s
}

// script runs Azurite as if it were the program, and ends it in good order
// when standard input does. The pipe's other end is ours, so that this happens
// however the process of the tests ends.
const script = `
process.argv.splice(1, 0, process.env.LIFEBOAT_AZURITE);
process.stdin.resume().once("close", () => {
	setTimeout(() => process.exit(0), 5000).unref();
	if (!process.emit("SIGTERM")) process.exit(0);
});
require(process.env.LIFEBOAT_AZURITE);
`

func start(ctx context.Context, node, main string, args ...string) (*Server, error) {
	return startAs(ctx, "", "", node, main, args...)
}

// startAs starts a server and waits until it listens. An account "" is a new
// one with a random key.
func startAs(ctx context.Context, account, key, node, main string, args ...string) (*Server, error) {
	if account == "" {
		account, key = "a"+random(), base64.StdEncoding.EncodeToString([]byte(rand.Text()+rand.Text()))
	}
	args = append([]string{"-e", script, "--", "--blobHost", "127.0.0.1", "--blobPort", "0",
		"--silent", "--skipApiVersionCheck", "--disableTelemetry"}, args...)
	cmd := exec.Command(node, args...)
	cmd.Dir = filepath.Dir(main)
	cmd.Env = append(os.Environ(), "LIFEBOAT_AZURITE="+main, "AZURITE_ACCOUNTS="+account+":"+key)
	s := &Server{Account: account, Key: key, said: &tail{listens: make(chan string, 1)}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.said, s.said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Azurite: %w", err)
	}
	s.stdin, s.proc = stdin, cmd.Process
	go func() {
		// How it ended is in what it said.
		_ = cmd.Wait()
		close(s.ended)
	}()
	select {
	case address := <-s.said.listens:
		s.url = address + "/" + account
		return s, nil
	case <-s.ended:
		err = errors.New("it ended")
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(2 * time.Minute):
		err = errors.New("it did not listen within two minutes")
	}
	s.Kill()
	return nil, fmt.Errorf("start Azurite: %w: %s", err, s.said)
}

// URL is the account's, without a slash at its end.
func (s *Server) URL() string { return s.url }

// Stop ends the server in good order, so that its folder has all that was
// written. On one that has ended it does nothing.
func (s *Server) Stop() {
	s.stdin.Close()
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.Kill()
	}
}

// Kill ends the server at once, as a power cut would. On one that has ended it
// does nothing.
func (s *Server) Kill() {
	// An error says that it has ended.
	_ = s.proc.Kill()
	<-s.ended
}

// Credential is the account's.
func (s *Server) Credential(t testing.TB) *azblob.SharedKeyCredential {
	t.Helper()
	c, err := azblob.NewSharedKeyCredential(s.Account, s.Key)
	require.NoError(t, err)
	return c
}

// Container makes a container and returns a client of it, which is deleted
// when the test ends. A name "" is one that nobody else has; a container that
// is there already, as after StartFresh on a folder, is used. Options may
// change how the client works.
func (s *Server) Container(t testing.TB, name string, options ...func(*container.ClientOptions)) *container.Client {
	t.Helper()
	var o container.ClientOptions
	for _, f := range options {
		f(&o)
	}
	name = cmp.Or(name, "test-"+random())
	plain, err := container.NewClientWithSharedKeyCredential(s.url+"/"+name, s.Credential(t), nil)
	require.NoError(t, err)
	if _, err := plain.Create(t.Context(), nil); err != nil && !exists(err) {
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		select {
		case <-s.ended:
		default:
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
			defer cancel()
			// It only frees memory.
			_, _ = plain.Delete(ctx, nil)
		}
	})
	c, err := container.NewClientWithSharedKeyCredential(s.url+"/"+name, s.Credential(t), &o)
	require.NoError(t, err)
	return c
}

func random() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// tail keeps the end of what the server says, and sends the address that it
// says to listen on.
type tail struct {
	mu      sync.Mutex
	b       []byte
	listens chan string
	sent    bool
}

func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b = append(o.b, p...)
	if _, after, ok := bytes.Cut(o.b, []byte("successfully listens on ")); ok && !o.sent {
		if line, _, ok := bytes.Cut(after, []byte("\n")); ok {
			o.sent = true
			o.listens <- strings.TrimSpace(string(line))
		}
	}
	const keep = 4 << 10
	if o.sent && len(o.b) > keep {
		o.b = append(o.b[:0], o.b[len(o.b)-keep:]...)
	}
	return len(p), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.TrimSpace(string(o.b))
}

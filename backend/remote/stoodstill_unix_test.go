//go:build unix

package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func init() { roles["old worker"] = oldWorker }

// bringUp brings up a machine whose disk is full of fill, under an epoch.
func bringUp(ctx context.Context, c *Client, epoch uint64, p dr.PointID, fill byte) error {
	ctx = dr.WithFences(ctx, map[string]uint64{"protection/web": epoch})
	m := dr.Machine{ID: "web", Name: "web", Disks: []dr.Disk{{ID: "a", Size: 1 << 20, Boot: true}}}
	key := "protection/web"
	r, err := c.Prepare(ctx, backend.Placement{Key: key, Machine: m})
	if errors.Is(err, dr.ErrRunning) {
		list, _ := dr.As[backend.Lister](c)
		for m, err := range list.Machines(ctx) { // there is one
			if err == nil {
				err = c.Stop(ctx, m.ID)
			}
			if err != nil {
				return err
			}
		}
		r, err = c.Prepare(ctx, backend.Placement{Key: key, Machine: m})
	}
	if err != nil {
		return err
	}
	d, err := c.Draft(ctx, r.ID, dr.Point{ID: p, Machine: m})
	if err != nil {
		return err
	}
	defer d.Close()
	for off := int64(0); off < m.Disks[0].Size; off += 256 << 10 {
		if _, err := d.WriteAt(ctx, "a", bytes.Repeat([]byte{fill}, 256<<10), off); err != nil {
			return err
		}
	}
	if err := d.Commit(ctx, dr.Point{ID: p, Machine: m}); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	return c.Start(ctx, r.ID)
}

// oldWorker brings the machine up, and tries again when its connection is lost,
// as an engine does. When it is up it goes on, with another step.
func oldWorker() int {
	conf, err := pkiTLS(os.Getenv("LIFEBOAT_TEST_PKI"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := Dial(context.Background(), os.Getenv("LIFEBOAT_TEST_AGENT"), DialOptions{TLS: conf})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	for range 3 {
		if err = bringUp(context.Background(), c, 1, "old", 0xee); err != nil && !errors.Is(err, ErrLost) {
			break
		}
	}
	fmt.Println(err)
	switch {
	case errors.Is(err, dr.ErrFenced):
		return 3
	case err != nil:
		return 1
	}
	return 0
}

// A worker process is stopped by the kernel wherever it may be, another one takes
// over at the same agent, which serves real files, and the first one goes on: it
// is refused, and neither a byte nor a hook comes of it.
func TestWorkerThatStoodStill(t *testing.T) {
	for _, at := range []backendtest.Op{backendtest.OpPrepare, backendtest.OpDraft, backendtest.OpWriteAt, backendtest.OpCommit, backendtest.OpStart} {
		t.Run(string(at), func(t *testing.T) {
			dir := t.TempDir()
			var mu sync.Mutex
			var hooks []string
			hook := func(ctx context.Context, e physical.Event) error {
				mu.Lock()
				defer mu.Unlock()
				hooks = append(hooks, e.Name)
				return nil
			}
			h, err := physical.Open(physical.Config{Root: filepath.Join(dir, "root"), Hooks: physical.Hooks{Start: hook, Stop: hook}})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, h.Close()) })

			cmd := exec.Command(os.Args[0])
			started, stopped := make(chan struct{}), make(chan struct{})
			still := sync.OnceFunc(func() {
				<-started // its first call may be here before Start is back
				require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
				close(stopped)
			})
			watched := backendtest.Wrap(h, func(ctx context.Context, c backendtest.Call, do func() error) error {
				if c.Op == at && dr.Fences(ctx)["protection/web"] == 1 || at == backendtest.OpWriteAt && c.Op == at && c.Off > 0 {
					still()
				}
				return do()
			})
			ca, err := trialpki.New("trial", time.Hour)
			require.NoError(t, err)
			server, err := ca.Server("agent", "127.0.0.1")
			require.NoError(t, err)
			cert, err := server.TLS()
			require.NoError(t, err)
			client := func(name string) *tls.Config {
				pair, err := ca.Client(name)
				require.NoError(t, err)
				pki := filepath.Join(dir, name)
				require.NoError(t, os.Mkdir(pki, 0o700))
				for file, b := range map[string][]byte{"client.pem": pair.Cert, "client.key": pair.Key, "ca.pem": ca.PEM()} {
					require.NoError(t, os.WriteFile(filepath.Join(pki, file), b, 0o600))
				}
				conf, err := pkiTLS(pki)
				require.NoError(t, err)
				return conf
			}
			client("old")
			a := serve(t, watched, ServeOptions{KeepAlive: 200 * time.Millisecond,
				TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}})
			t.Cleanup(a.stop) // before the host is closed
			cmd.Env = append(os.Environ(), "LIFEBOAT_TEST_ROLE=old worker", "LIFEBOAT_TEST_AGENT="+a.addr, "LIFEBOAT_TEST_PKI="+filepath.Join(dir, "old"))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			require.NoError(t, cmd.Start())
			close(started)
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			<-stopped

			next := a.dial(DialOptions{TLS: client("new")})
			for { // what the old one has open is closed when it was silent for long enough
				if err = bringUp(t.Context(), next, 2, "new", 0x11); !errors.Is(err, dr.ErrBusy) && !errors.Is(err, ErrLost) {
					break
				}
				<-time.After(20 * time.Millisecond)
			}
			require.NoError(t, err)
			mu.Lock()
			before := slices.Clone(hooks)
			mu.Unlock()

			require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
			require.Error(t, cmd.Wait())
			require.Equal(t, 3, cmd.ProcessState.ExitCode(), out.String())
			mu.Lock()
			require.Equal(t, before, hooks)
			mu.Unlock()
			for m, err := range h.Machines(t.Context()) {
				require.NoError(t, err)
				require.Equal(t, dr.On, m.Power)
				b, err := os.ReadFile(filepath.Join(dir, "root", string(m.ID), "a.img"))
				require.NoError(t, err)
				require.True(t, bytes.Equal(bytes.Repeat([]byte{0x11}, 1<<20), b), "the disk differs")
			}
		})
	}
}

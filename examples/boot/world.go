package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

const (
	hq, refuge = "hq", "refuge"
	app        = dr.MachineID("shop")
	protection = dr.ProtectionID("shop")
	diskName   = "disk.img"
)

// world is the other site: a host of its own, vaults, the orchestrator, and a
// client of the agent at hq.
type world struct {
	settings
	out    io.Writer
	began  time.Time
	agent  *exec.Cmd // hq
	said   chan [2]string
	addr   string // the agent's
	client *remote.Client
	refuge *host
	vaults map[string]*vault.Store
	engine *embedded.Engine
	env    *replication.Env
	stop   context.CancelFunc
	served chan error
}

func open(ctx context.Context, s settings, out io.Writer) (w *world, err error) {
	w = &world{settings: s, out: out, began: time.Now(), vaults: map[string]*vault.Store{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := minilinux.Ready(); err != nil {
		return w, err
	}
	for _, site := range []string{hq, refuge} {
		if err := os.Mkdir(w.path(site), 0o711); err != nil {
			return w, err
		}
		if w.vaults[site], err = vault.OpenDir(w.path(site, "vault"), vault.Options{}); err != nil {
			return w, err
		}
	}
	if err := minilinux.Build(ctx, minilinux.Options{Path: w.path(hq, diskName), Firmware: s.firmware}); err != nil {
		return w, err
	}
	conf, err := w.certify()
	if err != nil {
		return w, err
	}
	if w.addr, err = w.startSite("127.0.0.1:0"); err != nil {
		return w, err
	}
	// A site that is gone is told soon.
	if w.client, err = remote.Dial(ctx, w.addr, remote.DialOptions{TLS: conf, Patience: 2 * time.Second}); err != nil {
		return w, err
	}
	if w.refuge, err = openHost(w.path(refuge)); err != nil {
		return w, err
	}
	if w.engine, err = embedded.Open(w.path("lifeboat.db"), embedded.Options{}); err != nil {
		return w, err
	}
	w.env = &replication.Env{Records: w.engine, Sites: replication.Sites{
		hq:     {Backend: w.client, Points: w.vaults[hq]},
		refuge: {Backend: w.refuge, Points: w.vaults[refuge]},
	}}
	actions, err := dr.Merge(replication.Actions(w.env), failover.Actions(w.env), failback.Actions(w.env))
	if err != nil {
		return w, err
	}
	serving, stop := context.WithCancel(context.Background())
	w.stop, w.served = stop, make(chan error, 1)
	go func() { w.served <- w.engine.Serve(serving, actions) }()
	return w, nil
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// certify gives the agent its certificate, and returns what its client has.
func (w *world) certify() (*tls.Config, error) {
	ca, err := trialpki.New("lifeboat demonstration", 24*time.Hour)
	if err != nil {
		return nil, err
	}
	server, err := ca.Server("agent", "127.0.0.1")
	if err != nil {
		return nil, err
	}
	client, err := ca.Client("replicator")
	if err != nil {
		return nil, err
	}
	pair, err := client.TLS()
	if err != nil {
		return nil, err
	}
	for name, b := range map[string][]byte{"ca.pem": ca.PEM(), "agent.pem": server.Cert, "agent.key": server.Key} {
		if err := os.WriteFile(w.path(hq, name), b, 0o600); err != nil {
			return nil, err
		}
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: ca.Pool()}, nil
}

// startSite makes hq a process of its own, and returns the agent's address.
func (w *world) startSite(listen string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(self, siteCommand, "-dir", w.path(hq), "-listen", listen, "-firmware", string(w.firmware))
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	w.agent, w.said = cmd, make(chan [2]string, 16)
	said := w.said
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			said <- [2]string{word, rest}
		}
	}()
	return w.hear(context.Background(), saysServing)
}

// hear waits until the site says a word, and returns what is behind it.
func (w *world) hear(ctx context.Context, word string) (string, error) {
	for {
		select {
		case s, ok := <-w.said:
			if !ok {
				return "", fmt.Errorf("the site has ended and did not say %q", word)
			}
			if s[0] == word {
				return s[1], nil
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// loseSite is the disaster: nothing there may do anything any more.
func (w *world) loseSite() error {
	if w.agent == nil {
		return nil
	}
	err := w.agent.Process.Kill()
	_ = w.agent.Wait() // it was killed
	w.agent = nil
	return err
}

func (w *world) close() (err error) {
	if w.stop != nil {
		w.stop()
		if e := <-w.served; !errors.Is(e, context.Canceled) {
			err = e
		}
	}
	if w.client != nil {
		err = errors.Join(err, w.client.Close())
	}
	err = errors.Join(err, w.loseSite())
	if w.refuge != nil {
		err = errors.Join(err, w.refuge.Close())
	}
	for _, v := range w.vaults {
		if v != nil {
			err = errors.Join(err, v.Close())
		}
	}
	if w.engine != nil {
		err = errors.Join(err, w.engine.Close())
	}
	return err
}

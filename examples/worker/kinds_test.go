package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/enrol"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// serveAgent serves an empty platform at the address until what it returns is called.
func serveAgent(t *testing.T, address string, o remote.ServeOptions) (addr string, stop func()) {
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = remote.Serve(ctx, l, memory.New(memory.Options{}), o)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func openedAgent(t *testing.T, dir string, settings map[string]string) func() error {
	settings["kind"] = "agent"
	raw, err := json.Marshal(settings)
	require.NoError(t, err)
	b, c, err := openAgent(t.Context(), raw, place{folder: dir, log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return func() error { return probeMachines(t.Context(), b) }
}

// A worker is a client as the owner's authority certifies it, by the identity that it
// enrolled.
func TestEnrolledWorker(t *testing.T) {
	dir := t.TempDir()
	a, err := enrol.OpenAuthority(filepath.Join(dir, "authority"), enrol.AuthorityOptions{})
	require.NoError(t, err)
	conf, err := a.ServerTLS("127.0.0.1")
	require.NoError(t, err)
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	require.NoError(t, err)
	srv := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	pin, err := a.Pin(t.Context())
	require.NoError(t, err)
	become := func(g enrol.Grant) *enrol.Identity {
		token, err := a.NewToken(t.Context(), g)
		require.NoError(t, err)
		id, err := enrol.Enrol(t.Context(), filepath.Join(dir, g.Name), enrol.Invitation{URL: "https://" + l.Addr().String(), Token: token, Pin: pin}, enrol.IdentityOptions{})
		require.NoError(t, err)
		return id
	}
	agent := become(enrol.Grant{Name: "disks", Role: "agent", Hosts: []string{"127.0.0.1"}})
	become(enrol.Grant{Name: "worker", Role: "client"})
	addr, _ := serveAgent(t, "127.0.0.1:0", remote.ServeOptions{GetTLS: agent.ServerTLS, Recheck: agent.Recheck})
	require.NoError(t, openedAgent(t, dir, map[string]string{"address": addr, "identity": "worker"})())
}

// Certificates that were replaced in their files count without a restart.
func TestCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	made := func() remote.ServeOptions {
		ca, err := trialpki.New("test", time.Hour)
		require.NoError(t, err)
		server, err := ca.Server("agent", "127.0.0.1")
		require.NoError(t, err)
		client, err := ca.Client("worker")
		require.NoError(t, err)
		for name, raw := range map[string][]byte{"cert": client.Cert, "key": client.Key, "ca": ca.PEM()} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
		}
		cert, err := tls.X509KeyPair(server.Cert, server.Key)
		require.NoError(t, err)
		conf, err := pair{Cert: "cert", Key: "key", Authorities: "ca"}.tls(place{folder: dir})
		require.NoError(t, err)
		return remote.ServeOptions{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: conf.RootCAs,
			ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}}
	}
	addr, stop := serveAgent(t, "127.0.0.1:0", made())
	probe := openedAgent(t, dir, map[string]string{"address": addr, "cert": "cert", "key": "key", "authorities": "ca"})
	require.NoError(t, probe())
	stop()
	serveAgent(t, addr, made())
	require.NoError(t, probe())
}

// A look whether a store is there makes nothing in it, and notices when it is gone.
func TestAProbeMakesNoStore(t *testing.T) {
	root := filepath.Join(t.TempDir(), "points")
	s, c, err := openVault(t.Context(), json.RawMessage(`{"kind":"vault","folder":"`+root+`","perMachine":true}`), place{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, probePoints(t.Context(), s))
	there, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Empty(t, there)
	require.NoError(t, os.Remove(root))
	require.Error(t, probePoints(t.Context(), s))
}

// Where the file system of the points isn't mounted, no new store is begun on
// what it is mounted on: before the worker starts, or while it runs.
func TestPointsThatAreNotMounted(t *testing.T) {
	mount := filepath.Join(t.TempDir(), "lifeboat") // on the file system, made by hand
	root := filepath.Join(mount, "points")
	for _, per := range []string{"true", "false"} {
		_, _, err := openVault(t.Context(), json.RawMessage(`{"kind":"vault","folder":"`+root+`","perMachine":`+per+`}`), place{})
		require.ErrorIs(t, err, dr.ErrNotFound)
		require.ErrorContains(t, err, "mount")
		require.NoDirExists(t, mount)
	}
	require.NoError(t, os.Mkdir(mount, 0o700))
	s, c, err := openVault(t.Context(), json.RawMessage(`{"kind":"vault","folder":"`+root+`","perMachine":true}`), place{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, os.RemoveAll(mount))
	_, err = s.Create(t.Context(), dr.Point{ID: "p", Machine: dr.Machine{ID: "web", Disks: []dr.Disk{{ID: "a", Size: 512}}}})
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.NoDirExists(t, mount)
}

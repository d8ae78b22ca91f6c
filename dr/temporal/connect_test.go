package temporal

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// refused connects in vain and returns the error, which tells a person what to
// do.
func refused(t *testing.T, o ConnectOptions) *dr.Error {
	t.Helper()
	if o.DialTimeout == 0 {
		o.DialTimeout = 2 * time.Second
	}
	c, err := Connect(t.Context(), o)
	if err == nil {
		c.Close()
	}
	var e *dr.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Remedy, err.Error())
	t.Log(err)
	return e
}

func TestConnectRefusesWhatCannotWork(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	key := func(context.Context) (string, error) { return "k", nil }
	for name, o := range map[string]ConnectOptions{
		"no port":                 {Address: "temporal.example"},
		"two keys":                {APIKey: key, APIKeyFile: empty},
		"empty key file":          {APIKeyFile: empty},
		"no key file":             {APIKeyFile: filepath.Join(dir, "none")},
		"certificate without key": {TLS: &TLS{Cert: empty}},
		"no authority in file":    {TLS: &TLS{CA: empty}},
		"config and files":        {TLS: &TLS{CA: empty, Config: &tls.Config{}}},
		"negative timeout":        {DialTimeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(t.Context(), o)
			require.ErrorIs(t, err, dr.ErrInvalid)
			require.NotContains(t, err.Error(), "%!")
		})
	}
}

func TestConnectSaysWhyThereIsNoConnection(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, nobody.Close())
	e := refused(t, ConnectOptions{Address: nobody.Addr().String()})
	require.Contains(t, e.Remedy, "nothing listens")
	e = refused(t, ConnectOptions{Address: "no-such-host.invalid:7233"})
	require.Contains(t, e.Remedy, "name")

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	begun := time.Now()
	e = refused(t, ConnectOptions{Address: silent.Addr().String(), DialTimeout: 500 * time.Millisecond})
	require.Less(t, time.Since(begun), 5*time.Second)
	require.Contains(t, e.Remedy, "is it up")
}

// A real server that asks for certificates: every way to get it wrong has its
// own words, and the right way works, also after the files have changed.
func TestConnectByMutualTLS(t *testing.T) {
	s := temporalserver.Start(t, temporalserver.Options{TLS: true, Namespace: "lifeboat", Retention: 48 * time.Hour})
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	good := func() ConnectOptions {
		return ConnectOptions{Address: s.Address, Namespace: "lifeboat", TLS: &TLS{CA: s.Files.CA, Cert: s.Files.Cert, Key: s.Files.Key}}
	}
	var said bytes.Buffer
	o := good()
	o.Log = slog.New(slog.NewTextHandler(&said, nil))
	c, err := Connect(t.Context(), o)
	require.NoError(t, err)
	defer c.Close()
	require.Contains(t, said.String(), "retention=48h0m0s", "it warns of a short retention")

	e := refused(t, ConnectOptions{Address: s.Address, Namespace: "lifeboat"})
	require.ErrorContains(t, e, "the server speaks TLS, and this client plain text")
	e = refused(t, ConnectOptions{Address: s.Address, Namespace: "lifeboat", TLS: &TLS{CA: s.Files.CA}})
	require.Contains(t, e.Remedy, "asks for one")
	o = good()
	o.TLS.CA = ""
	require.Contains(t, refused(t, o).Remedy, "set TLS.CA")
	o = good()
	o.TLS.ServerName = "elsewhere.example"
	require.Contains(t, refused(t, o).Remedy, "TLS.ServerName")
	o = good()
	o.Namespace = "unmade"
	e = refused(t, o)
	require.ErrorIs(t, e, dr.ErrNotFound)
	require.Contains(t, e.Remedy, "EnsureNamespace")
	stranger, err := temporalserver.NewFiles(t.TempDir())
	require.NoError(t, err)
	o = good()
	o.TLS.Cert, o.TLS.Key = stranger.Cert, stranger.Key
	require.Contains(t, refused(t, o).Remedy, "refuses the client's certificate")

	// One that has expired is renewed, and the next connection shows the new one.
	require.NoError(t, s.Files.Sign(file("c"), file("k"), "client", -time.Hour))
	o = good()
	o.TLS.Cert, o.TLS.Key = file("c"), file("k")
	require.Contains(t, refused(t, o).Remedy, "refuses the client's certificate")
	require.NoError(t, s.Files.Sign(file("c"), file("k"), "client", time.Hour))
	c2, err := Connect(t.Context(), o)
	require.NoError(t, err)
	defer c2.Close()
	require.NoError(t, s.Files.Sign(file("c"), file("k"), "client", time.Hour))
	require.NoError(t, os.Chtimes(file("c"), time.Time{}, time.Now().Add(time.Second)))
	s.Kill()
	s.Start()
	require.Eventually(t, func() bool {
		_, err := c2.CheckHealth(t.Context(), &client.CheckHealthRequest{})
		return err == nil
	}, time.Minute, 50*time.Millisecond)

	// EnsureNamespace makes one, and only ever lengthens its retention.
	o = good()
	o.Namespace = "made"
	for _, want := range []struct{ ask, is time.Duration }{{48 * time.Hour, 48 * time.Hour}, {0, GoodRetention}, {48 * time.Hour, GoodRetention}} {
		require.NoError(t, EnsureNamespace(t.Context(), o, want.ask))
		is, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "made"})
		require.NoError(t, err)
		require.Equal(t, want.is, is.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration())
	}
	cm, err := Connect(t.Context(), o)
	require.NoError(t, err)
	cm.Close()
}

// A connection verifies a server against the authority that the file holds
// now, and keeps the last good one while the file can't be used.
func TestTLSFilesAreReadAgain(t *testing.T) {
	first, err := temporalserver.NewFiles(t.TempDir())
	require.NoError(t, err)
	second, err := temporalserver.NewFiles(t.TempDir())
	require.NoError(t, err)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	var moved time.Duration
	put := func(from string) {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(ca, b, 0o600))
		moved += time.Second
		require.NoError(t, os.Chtimes(ca, time.Time{}, time.Now().Add(moved)))
	}
	put(first.CA)
	cfg, err := (&TLS{CA: ca}).config("localhost:7233")
	require.NoError(t, err)
	shake := func(server *temporalserver.Files) error {
		pair, err := tls.LoadX509KeyPair(server.ServerCert, server.ServerKey)
		require.NoError(t, err)
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
		require.NoError(t, err)
		defer ln.Close()
		go func() {
			if there, err := ln.Accept(); err == nil {
				_ = there.(*tls.Conn).Handshake()
				there.Close()
			}
		}()
		here, err := tls.Dial("tcp", ln.Addr().String(), cfg)
		if err == nil {
			here.Close()
		}
		return err
	}
	require.NoError(t, shake(first))
	require.Error(t, shake(second), "an authority that isn't in the file")
	put(second.CA)
	require.NoError(t, shake(second))
	require.Error(t, shake(first))
	require.NoError(t, os.WriteFile(ca, []byte("half of a"), 0o600))
	require.NoError(t, shake(second), "the last that could be read")
	require.NoError(t, os.Remove(ca))
	require.NoError(t, shake(second))

	cfg, err = (&TLS{CA: second.CA, ServerName: "elsewhere"}).config("localhost:7233")
	require.NoError(t, err)
	var host *tls.CertificateVerificationError
	require.True(t, errors.As(shake(second), &host), "the name is checked, too")
}

// A key is read again when its file changes, and stands in no error.
func TestAPIKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, []byte("first-secret\n"), 0o600))
	k := &keyFile{path: path}
	got, err := k.read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "first-secret", got)
	require.NoError(t, os.WriteFile(path, []byte("second-and-longer"), 0o600))
	got, err = k.read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "second-and-longer", got)
	require.NoError(t, os.WriteFile(path, []byte("two secret words"), 0o600))
	_, err = (&keyFile{path: path}).read(t.Context())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
	got, err = k.read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "second-and-longer", got, "the last that could be used")
}

package postgres_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

const canary = "Canary5ecret"

// silent fails if the secret is anywhere in what an error or a log says.
func silent(t testing.TB, err error, log string) {
	t.Helper()
	require.Error(t, err)
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err), log} {
		require.NotContains(t, text, canary)
	}
}

func testSecretsStayOut(t *testing.T, c *pgtest.Cluster) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody.Close()
	config, err := pgxpool.ParseConfig(c.DSNAs("postgres", canary, ""))
	require.NoError(t, err)
	for name, o := range map[string]postgres.Options{
		"wrong password":     {DSN: c.DSNAs("postgres", canary, "")},
		"wrong, in a config": {Config: config},
		"no such database":   {DSN: strings.Replace(c.DSN("none"), c.Password, canary, 1)},
		"nobody listens":     {DSN: "postgres://me:" + canary + "@" + nobody.Addr().String() + "/x"},
		"no TLS there":       {DSN: "postgres://me:" + canary + "@" + c.Host() + "/x?sslmode=require"},
		"bad port":           {DSN: "postgres://me:" + canary + "@host:port/x"},
		"bad escape":         {DSN: "postgres://me:" + canary + "%zz@host/x"},
		"bad keywords":       {DSN: "host=x password='" + canary},
		"bad keyword":        {DSN: "host=x password=" + canary + " sslmode=perhaps"},
		"spaces":             {DSN: "host=x password= " + canary + " " + canary},
		"no file":            {DSN: "postgres://me:" + canary + "@host/x?sslrootcert=/none"},
		"both":               {DSN: "postgres://me:" + canary + "@host/x", Config: config},
		"neither":            {},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			o.Log, o.Patience = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), 200*time.Millisecond
			_, err := postgres.Open(t.Context(), o)
			silent(t, err, log.String())
			t.Log(err)
		})
	}
}

func FuzzDSN(f *testing.F) {
	for _, s := range []string{"postgres://me:SECRET@host:1/x", "host=x password=SECRET", "postgres://me:SECRET@[::1/x?sslmode=x", "password='SECRET\\", "SECRET", "postgres://SECRET:SECRET@/SECRET?SECRET=SECRET"} {
		f.Add(s)
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ReplaceAll(s, "SECRET", canary)
		if strings.Contains(s, "file") || strings.Contains(s, "cert") || strings.Contains(s, "key") {
			return // names of files
		}
		st, err := postgres.Open(done, postgres.Options{DSN: s})
		if err == nil {
			st.Close()
			t.Fatal("opened without a database")
		}
		if u, uerr := url.Parse(s); uerr == nil && u.User != nil {
			if strings.Contains(u.Host+u.Path+u.User.Username(), canary) {
				return // it isn't a secret there
			}
		}
		if err := err.Error(); strings.Contains(err, canary) {
			t.Fatal(err)
		}
	})
}

// The server is restarted, and connections are ended, while clients work: they
// don't hear of it.
func TestRestartsAreNoErrors(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	l := newLedger()
	over, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN("") + "&pool_max_conns=8", Patience: unhurried})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	for j := range 3 {
		l.work(t, over, &clients, s, fmt.Sprint("owner-", j))
	}
	for i := range 6 {
		l.wait(t, 100)
		if i%3 == 2 {
			c.Stop()
			c.Start()
		} else {
			c.Query(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'lifeboat'`)
		}
	}
	stop()
	clients.Wait()
	l.check(t, s)
}

// One that is away for longer than patience is told of, with what to do.
func TestTroubleIsExplained(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	open(t, c.DSN(""), "")
	impatient := postgres.Options{DSN: c.DSN(""), Patience: 300 * time.Millisecond, Attempt: 200 * time.Millisecond}
	var s *postgres.Store
	var err error
	// On a machine with much else to do even this takes longer than that.
	soon := func(what string, do func() error) {
		require.Eventually(t, func() bool { err = do(); return err == nil }, time.Minute, time.Millisecond, what)
	}
	soon("open", func() error { s, err = postgres.Open(t.Context(), impatient); return err })
	defer s.Close()

	t.Run("read only", func(t *testing.T) {
		c.QueryIn("template1", "ALTER DATABASE postgres SET default_transaction_read_only = on")
		defer c.QueryIn("template1", "ALTER DATABASE postgres RESET default_transaction_read_only")
		c.QueryIn("template1", `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'lifeboat'`)
		says := func(err error) error {
			if err == nil || !strings.Contains(err.Error(), "this server takes no writes") {
				return fmt.Errorf("it says %v", err)
			}
			return nil
		}
		soon("a refusal", func() error { _, err := s.Acquire(t.Context(), "m", "me"); return says(err) })
		soon("another", func() error { _, err := postgres.Open(t.Context(), impatient); return says(err) })
	})
	t.Run("a table that is locked", func(t *testing.T) {
		holder := c.Command("psql", "-XAtq", "-d", c.DSN(""), "-c", "BEGIN; LOCK TABLE lifeboat.claim; SELECT 'locked'; SELECT pg_sleep(60)")
		require.NoError(t, holder.Start())
		require.Eventually(t, func() bool {
			return c.Query("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'lifeboat.claim'::regclass") == "1"
		}, time.Minute, time.Millisecond)
		began := time.Now()
		_, err := s.Acquire(t.Context(), "m", "me")
		require.ErrorContains(t, err, "no answer within 200ms")
		require.NotErrorIs(t, err, context.DeadlineExceeded, "the caller's context has not ended")
		require.Less(t, time.Since(began), 30*time.Second)
		c.Query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'`)
		_ = holder.Wait()
		soon("claim", func() error { _, err := s.Acquire(t.Context(), "m", "me"); return err })
	})
	t.Run("a statement_timeout of the role's that a lock outlasts", func(t *testing.T) {
		holder := c.Command("psql", "-XAtq", "-d", c.DSN(""), "-c", "BEGIN; LOCK TABLE lifeboat.claim; SELECT 'locked'; SELECT pg_sleep(60)")
		require.NoError(t, holder.Start())
		require.Eventually(t, func() bool {
			return c.Query("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'lifeboat.claim'::regclass") == "1"
		}, time.Minute, time.Millisecond)
		short, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN("") + "&statement_timeout=100", Patience: unhurried})
		require.NoError(t, err)
		defer short.Close()
		claimed := make(chan error)
		go func() {
			_, err := short.Acquire(t.Context(), "short", "me")
			claimed <- err
		}()
		require.Eventually(t, func() bool { return strings.Contains(c.Log(), "canceling statement due to statement timeout") }, time.Minute, time.Millisecond)
		c.Query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'`)
		_ = holder.Wait()
		require.NoError(t, <-claimed)
	})
	t.Run("a worker that stands still with the fleet's lock", func(t *testing.T) {
		patient, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN("")})
		require.NoError(t, err)
		defer patient.Close()
		stands, wake, done := make(chan struct{}), make(chan struct{}), make(chan error)
		var once sync.Once
		go func() {
			done <- patient.Leases().StandStill(context.WithoutCancel(t.Context()), func() {
				once.Do(func() { close(stands); <-wake })
			})
		}()
		<-stands
		everything(t, patient) // it waits for 3 seconds
		close(wake)
		require.NoError(t, <-done, "what it began is undone, and done again")
	})
	c.Stop()
	began := time.Now()
	_, err = s.Acquire(t.Context(), "m", "me")
	require.Error(t, err)
	require.Less(t, time.Since(began), 20*time.Second, "not the patience of others")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Load(ctx, "p")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	c.Start()
	soon("claim again", func() error { _, err := s.Acquire(t.Context(), "m", "me"); return err })
}

// With verify-full the server has to have the certificate of the name that is
// called, from an authority that is known.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "db"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	root := filepath.Join(dir, "root.pem")
	require.NoError(t, os.WriteFile(root, certPEM, 0o600))

	c := pgtest.Start(t, pgtest.Options{})
	c.Stop()
	c.Give("server.crt", certPEM)
	c.Give("server.key", keyPEM)
	c.Set("ssl", "on")
	c.Start()
	tls := func(how string) string { return strings.Replace(c.DSN(""), "sslmode=disable", how, 1) }
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: tls("sslmode=verify-full&sslrootcert=" + root)})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	require.Equal(t, "t", c.Query("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING(pid) WHERE application_name = 'lifeboat'"))

	other := filepath.Join(dir, "other.pem")
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	cert.Subject.CommonName = "another"
	der, err = x509.CreateCertificate(rand.Reader, cert, cert, otherKey.Public(), otherKey)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(other, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	began := time.Now()
	_, err = postgres.Open(t.Context(), postgres.Options{DSN: tls("sslmode=verify-full&sslrootcert=" + other)})
	require.ErrorContains(t, err, "sslrootcert must name the authority")
	require.Less(t, time.Since(began), 10*time.Second, "it isn't tried again")
	require.NotErrorIs(t, err, dr.ErrInvalid)
}

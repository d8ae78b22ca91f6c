package agentwire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// sealedPipe is both ends of a TLS connection over a pipe, which holds nothing.
func sealedPipe(t *testing.T, under func(net.Conn) net.Conn) (server, client *tls.Conn) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	a, b := net.Pipe()
	server = tls.Server(under(a), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true})
	client = tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	return server, client
}

// speak writes a byte each half idle time, until the connection ends.
func speak(c net.Conn, idle time.Duration) {
	for {
		time.Sleep(idle / 2)
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
	}
}

// Over TLS that isn't Serve's own a peer that is heard, and reads late, gets all of it.
func TestPatienceOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Second
		server, client := sealedPipe(t, func(c net.Conn) net.Conn { return c })
		p := NewPatient(server, idle)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { speak(client, idle) })
		go func() { _, _ = io.Copy(io.Discard, p) }()
		want := bytes.Repeat([]byte("all of it"), 10_000)
		got := make(chan []byte, 1)
		go func() {
			time.Sleep(stuckTimes / 2 * idle)
			b := make([]byte, len(want))
			_, _ = io.ReadFull(client, b)
			got <- b
		}()
		n, err := p.Write(want)
		require.NoError(t, err)
		require.Equal(t, len(want), n)
		require.True(t, bytes.Equal(want, <-got))
		// Who never reads is cut off, heard or not.
		begun := time.Now()
		_, err = p.Write(want)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, stuckTimes*idle, time.Since(begun))
		_, _ = p.Close(), client.Close()
	})
}

// A connection that is closed says good-bye within TLS's five seconds, whether its peer
// reads or not, and not within a write's patience.
func TestGoodByeIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = 15 * time.Second
		var p *Patient
		server, client := sealedPipe(t, func(c net.Conn) net.Conn { p = NewPatient(c, 0); return p })
		p.SetIdle(idle)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { speak(client, idle) })
		go func() { _, _ = io.Copy(io.Discard, server) }()
		begun := time.Now()
		_ = server.Close()
		require.LessOrEqual(t, time.Since(begun), 6*time.Second)
		_ = client.NetConn().Close()
	})
}

package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cutConn is a connection that is lost at its n-th read or write.
type cutConn struct {
	net.Conn
	left *atomic.Int32
}

var errCut = errors.New("the cable was pulled")

func (c *cutConn) spend() error {
	if c.left.Add(-1) < 0 {
		c.Conn.Close()
		return errCut
	}
	return nil
}

func (c *cutConn) Read(p []byte) (int, error) {
	if err := c.spend(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p[:min(len(p), 5000)]) // half way through payloads, too
}

func (c *cutConn) Write(p []byte) (int, error) {
	if err := c.spend(); err != nil {
		n, _ := c.Conn.Write(p[:len(p)/2])
		return n, err
	}
	return c.Conn.Write(p)
}

// The first connection is lost at its first operation, then at its second, until
// it isn't lost any more. Callers see nothing of it, or that it may matter.
func TestClientLosesItsConnectionAnywhere(t *testing.T) {
	for n, lost := int32(0), true; lost; n++ {
		dev := &memDevice{data: picture(200_000, 1)}
		model := dev.bytes()
		sock, stop := serveUntil(t, &Server{Exports: []Export{{Device: dev}}})
		var left atomic.Int32
		left.Store(n)
		first := true
		o := unixOptions(sock, "")
		o.Reconnect = time.Minute
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if !first || err != nil {
				return conn, err
			}
			first = false
			return &cutConn{conn, &left}, nil
		}
		c, err := Dial(t.Context(), o)
		if err != nil {
			require.ErrorIs(t, err, errCut)
			stop()
			continue
		}
		got := make([]byte, len(model))
		_, err = c.ReadAt(t.Context(), got, 0)
		require.NoError(t, err)
		equalBytes(t, model, got, "read")
		p := noise(20_000)
		_, err = c.WriteThrough(t.Context(), p, 1000)
		require.NoError(t, err)
		copy(model[1000:], p)
		alive := left.Load() >= 0
		require.NoError(t, c.Zero(t.Context(), 100_000, 70_000))
		clear(model[100_000:170_000])
		if err = c.Flush(t.Context()); err != nil {
			require.ErrorIs(t, err, ErrUnflushed)
			require.True(t, alive, "nothing was unflushed when the connection was lost")
			require.ErrorIs(t, c.Flush(t.Context()), ErrUnflushed)
		}
		for e, err := range c.Extents(t.Context(), 0, c.Size()) {
			require.NoError(t, err)
			require.True(t, !e.Zero || len(bytes.Trim(model[e.Off:][:e.Len], "\x00")) == 0)
		}
		equalBytes(t, model, readAll(t, c), "in the end")
		lost = left.Load() < 0
		require.NoError(t, c.Close())
		stop()
		equalBytes(t, model, dev.bytes(), "on the device")
		require.Less(t, n, int32(5000))
		if !lost {
			require.Greater(t, n, int32(30))
		}
	}
}

// Over TCP the host's name is what TLS verifies.
func TestClientVerifiesTheHost(t *testing.T) {
	dir := certificates(t)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "server-cert.pem"), filepath.Join(dir, "server-key.pem"))
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	s := &Server{Exports: []Export{{Device: &memDevice{data: []byte("bytes")}}}, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}
	go func() { done <- s.Serve(ctx, l) }()
	defer func() { cancel(); require.NoError(t, <-done) }()

	for host, good := range map[string]bool{"nbd.example": true, "other.example": false} {
		o, err := ParseURI("nbds://" + host + "/?tls-certificates=" + dir)
		require.NoError(t, err)
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			require.Equal(t, "tcp "+host+":10809", network+" "+address)
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}
		c, err := Dial(t.Context(), o)
		if !good {
			require.ErrorContains(t, err, "certificate is valid for nbd.example")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "bytes", string(readAll(t, c)))
		require.NoError(t, c.Close())
	}
}

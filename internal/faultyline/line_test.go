package faultyline

import (
	"bytes"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo is a server that says what it hears, over a line.
func echo(t *testing.T) *Line {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	l, err := New(ln.Addr().String(), 7)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func dial(t *testing.T, l *Line) *net.TCPConn {
	c, err := net.Dial("tcp", l.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c.(*net.TCPConn)
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

// trip sends p, and returns what comes back until the end and how long it took.
func trip(t *testing.T, l *Line, p []byte) ([]byte, time.Duration, error) {
	c := dial(t, l)
	begun := time.Now()
	go func() {
		_, _ = c.Write(p)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	return got, time.Since(begun), err
}

func TestAGoodLineChangesNothing(t *testing.T) {
	l := echo(t)
	p := noise(3 << 20)
	got, _, err := trip(t, l, p)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, got))
	require.EqualValues(t, len(p), l.Bytes(Up))
	require.EqualValues(t, len(p), l.Bytes(Down))
	require.Equal(t, 1, l.Made())
}

func TestFarSlowAndLossyIsLate(t *testing.T) {
	l := echo(t)
	l.Set(Weather{Delay: 50 * time.Millisecond, Jitter: time.Millisecond})
	got, took, err := trip(t, l, noise(100<<10))
	require.NoError(t, err)
	require.Len(t, got, 100<<10)
	require.Greater(t, took, 100*time.Millisecond)

	l.Set(Weather{Rate: 1 << 20})
	p := noise(256 << 10)
	got, took, err = trip(t, l, p)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, got))
	require.Greater(t, took, 240*time.Millisecond)
	require.Less(t, took, 20*time.Second)

	l.Set(Weather{Loss: 1, Again: 20 * time.Millisecond})
	_, took, err = trip(t, l, noise(pieceSize))
	require.NoError(t, err)
	require.Greater(t, took, 40*time.Millisecond)
}

func TestBitsAreTurnedOver(t *testing.T) {
	l := echo(t)
	l.Set(Weather{Flips: 1})
	p := noise(1 << 20)
	got, _, err := trip(t, l, p)
	require.NoError(t, err)
	require.Len(t, got, len(p))
	n := 0
	for i := range p {
		n += bits.OnesCount8(p[i] ^ got[i])
	}
	require.GreaterOrEqual(t, n, 2*len(p)/pieceSize-8) // two of the same bit undo each other
}

func TestAStallIsSilent(t *testing.T) {
	l := echo(t)
	c := dial(t, l)
	b := make([]byte, 5)
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	l.Stall()
	_, err = c.Write([]byte("again"))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = c.Read(b)
	require.ErrorContains(t, err, "timeout")
	l.Resume()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "again", string(b))
}

func TestCuts(t *testing.T) {
	l := echo(t)
	l.CutAfter(Down, 100_001)
	got, _, err := trip(t, l, noise(1<<20))
	require.ErrorContains(t, err, "reset")
	require.LessOrEqual(t, len(got), 100_001)
	require.EqualValues(t, 100_001, l.Bytes(Down))
	_, _, err = trip(t, l, noise(1<<20))
	require.NoError(t, err, "it is cut once")

	c := dial(t, l)
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	l.Cut(false)
	_, err = c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)

	l.Refuse(true)
	if refused, err := net.Dial("tcp", l.Addr()); err == nil {
		_, err = refused.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, refused.Close())
	}
	require.Equal(t, 3, l.Made())
}

func TestHalfOpenIsKnownToOneSideOnly(t *testing.T) {
	l := echo(t)
	c := dial(t, l)
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	l.HalfOpen()
	_, err = c.Write(noise(1 << 20))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorContains(t, err, "timeout")
	_, _, err = trip(t, l, noise(10))
	require.NoError(t, err, "a new one is good")
}

package remote

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
)

func noise() []byte {
	p := make([]byte, agentwire.MaxBulk)
	for i := range p {
		p[i] = byte(i*7) | 1
	}
	return p
}

// many lets eight goroutines do f, b.N times in all.
func many(b *testing.B, f func(p []byte, off int64) error) {
	b.SetBytes(agentwire.MaxBulk)
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			p := noise()
			for {
				n := next.Add(1) - 1
				if n >= int64(b.N) {
					return
				}
				if err := f(p, n<<20); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Requests of 1 MiB, eight at once, as a copy makes them. Client and server share
// the processors.
func BenchmarkRead(b *testing.B) {
	w := &well{noise: noise()}
	img, err := serve(b, w, ServeOptions{}).dial(DialOptions{}).Capture(b.Context(), "m", "p", 0)
	require.NoError(b, err)
	many(b, func(p []byte, off int64) error {
		_, err := img.ReadAt(b.Context(), "a", p, off)
		return err
	})
}

func BenchmarkWrite(b *testing.B) {
	d, err := serve(b, &well{}, ServeOptions{}).dial(DialOptions{}).Draft(b.Context(), "m", dr.Point{ID: "p"})
	require.NoError(b, err)
	many(b, func(p []byte, off int64) error {
		_, err := d.WriteAt(b.Context(), "a", p, off)
		return err
	})
}

// A small call, one after the other.
func BenchmarkCall(b *testing.B) {
	c := serve(b, &well{}, ServeOptions{}).dial(DialOptions{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Machine(b.Context(), "m"); err != nil {
			b.Fatal(err)
		}
	}
}

// What the wire is to be compared with: the same bytes through TLS, or through a
// socket, and nothing else.
func BenchmarkPlain(b *testing.B) {
	for name, secure := range map[string]bool{"tls": true, "tcp": false} {
		b.Run(name, func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(b, err)
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				if secure {
					conn = tls.Server(conn, pki().server)
				}
				defer conn.Close()
				p := noise()
				for range b.N {
					if _, err := conn.Write(p); err != nil {
						return
					}
				}
			}()
			conn, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(b, err)
			if secure {
				conf := pki().client.Clone()
				conf.ServerName = "127.0.0.1"
				conn = tls.Client(conn, conf)
			}
			defer conn.Close()
			p := noise()
			b.SetBytes(agentwire.MaxBulk)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, err := io.ReadFull(conn, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A round trip of 200 ms: what is in flight bounds the speed, 40 MiB/s for 8 MiB.
func BenchmarkFar(b *testing.B) {
	for _, flying := range []int{8, 32} {
		for _, way := range []string{"Read", "Write"} {
			b.Run(fmt.Sprintf("%s%d", way, flying), func(b *testing.B) {
				a := serve(b, &well{noise: noise()}, ServeOptions{Bulk: flying})
				line, c := behind(b, a, DialOptions{})
				img, err := c.Capture(b.Context(), "m", "p", 0)
				require.NoError(b, err)
				d, err := c.Draft(b.Context(), "m", dr.Point{ID: "p"})
				require.NoError(b, err)
				line.Set(faultyline.Weather{Delay: 100 * time.Millisecond})
				f := func(n int64) error {
					return together(flying, func(k int64) error {
						p := noise()
						for range n {
							var err error
							if way == "Read" {
								_, err = img.ReadAt(b.Context(), "a", p, k<<20)
							} else {
								_, err = d.WriteAt(b.Context(), "a", p, k<<20)
							}
							if err != nil {
								return err
							}
						}
						return nil
					})
				}
				require.NoError(b, f(4)) // TCP begins slowly
				const n = 15
				begun := time.Now()
				require.NoError(b, f(n))
				took := time.Since(begun).Seconds()
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(n*flying)/took, "MiB/s")
				b.ReportMetric(float64(flying)/0.2, "bound-MiB/s")
			})
		}
	}
}

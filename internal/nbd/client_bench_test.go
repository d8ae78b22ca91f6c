package nbd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkClientReads reads one file from nbdkit, first as nbdcopy does it
// (several connections, 64 requests of 256 KiB on each), then with requests of
// that size in flight on one and on several of our connections. The file is in
// the page cache.
func BenchmarkClientReads(b *testing.B) {
	nbdcopy := tool(b, "nbdcopy")
	const size, length = 512 << 20, 256 << 10
	file := filepath.Join(b.TempDir(), "disk")
	require.NoError(b, os.WriteFile(file, noise(size), 0o600))
	source := foreign(b, func(socket string) *exec.Cmd {
		return exec.Command(tool(b, "nbdkit"), "-f", "-r", "-U", socket, "file", file)
	})
	b.Run("nbdcopy", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			out, err := exec.Command(nbdcopy, source, "null:").CombinedOutput()
			require.NoError(b, err, "%s", out)
		}
	})
	for _, conns := range []int{1, 4} {
		for _, flight := range []int{4, 8, 16} {
			b.Run(fmt.Sprintf("lifeboat/connections%d/flight%d", conns, flight), func(b *testing.B) {
				o, err := ParseURI(source)
				require.NoError(b, err)
				o.Connections = conns
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					c, err := Dial(b.Context(), o)
					require.NoError(b, err)
					readSideBySide(b, c, flight, length)
					require.NoError(b, c.Close())
				}
			})
		}
	}
}

// readSideBySide reads everything once.
func readSideBySide(b *testing.B, c *Client, flight int, length int64) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range flight {
		all.Go(func() {
			p := make([]byte, length)
			for {
				off := next.Add(length) - length
				if off >= c.Size() {
					return
				}
				if _, err := c.ReadAt(b.Context(), p[:min(length, c.Size()-off)], off); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkClientWrites writes one file to nbdkit's memory, first as nbdcopy does
// it, then on one and on several of our connections, reading the file as well.
// Half of the file is zeros, which neither sends.
func BenchmarkClientWrites(b *testing.B) {
	nbdcopy := tool(b, "nbdcopy")
	const size, length = 512 << 20, 256 << 10
	file := filepath.Join(b.TempDir(), "disk")
	content := noise(size)
	for off := 0; off < size; off += 2 << 20 {
		clear(content[off:][:1<<20])
	}
	require.NoError(b, os.WriteFile(file, content, 0o600))
	target := foreign(b, func(socket string) *exec.Cmd {
		return exec.Command(tool(b, "nbdkit"), "-f", "-U", socket, "memory", fmt.Sprint(size), "allocator=malloc")
	})
	b.Run("nbdcopy", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			out, err := exec.Command(nbdcopy, file, target).CombinedOutput()
			require.NoError(b, err, "%s", out)
		}
	})
	for _, conns := range []int{1, 4} {
		for _, flight := range []int{4, 16} {
			b.Run(fmt.Sprintf("lifeboat/connections%d/flight%d", conns, flight), func(b *testing.B) {
				o, err := ParseURI(target)
				require.NoError(b, err)
				o.Connections = conns
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					c, err := Dial(b.Context(), o)
					require.NoError(b, err)
					writeSideBySide(b, c, file, flight, length)
					require.NoError(b, c.Flush(b.Context()))
					require.NoError(b, c.Close())
				}
			})
		}
	}
}

// writeSideBySide writes a file over everything once.
func writeSideBySide(b *testing.B, c *Client, file string, flight int, length int64) {
	f, err := os.Open(file)
	require.NoError(b, err)
	defer f.Close()
	var next atomic.Int64
	var all sync.WaitGroup
	for range flight {
		all.Go(func() {
			p, zeros := make([]byte, length), make([]byte, length)
			for {
				off := next.Add(length) - length
				if off >= c.Size() {
					return
				}
				part := p[:min(length, c.Size()-off)]
				_, err := f.ReadAt(part, off)
				if err == nil && bytes.Equal(part, zeros[:len(part)]) {
					err = c.Zero(b.Context(), off, int64(len(part)))
				} else if err == nil {
					_, err = c.WriteAt(b.Context(), part, off)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkClientRequests is the cost of single requests to our own server.
func BenchmarkClientRequests(b *testing.B) {
	const size = 64 << 20
	sock := serve(b, &Server{Exports: []Export{{Device: writeDevice{plainDevice{&memDevice{data: noise(size)}}}}}})
	for _, length := range []int{4 << 10, 256 << 10} {
		for _, flight := range []int{1, 16} {
			for _, op := range []string{"read", "write"} {
				b.Run(fmt.Sprintf("%s%dK/flight%d", op, length>>10, flight), func(b *testing.B) {
					c, err := Dial(b.Context(), unixOptions(sock, ""))
					require.NoError(b, err)
					defer c.Close()
					do := c.ReadAt
					if op == "write" {
						do = c.WriteAt
					}
					b.SetBytes(int64(length))
					b.ReportAllocs()
					b.SetParallelism(flight)
					b.RunParallel(func(pb *testing.PB) {
						p := noise(length)
						for pb.Next() {
							if _, err := do(b.Context(), p, 0); err != nil {
								b.Error(err)
								return
							}
						}
					})
				})
			}
		}
	}
}

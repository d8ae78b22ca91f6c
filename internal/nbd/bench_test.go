package nbd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkNbdcopy has nbdcopy read one file from our server, qemu-nbd and
// nbdkit, so that each result has its measure beside it. The file is in the
// page cache: what is compared is the protocol's cost, not the disk's.
func BenchmarkNbdcopy(b *testing.B) {
	nbdcopy := tool(b, "nbdcopy")
	const size = 512 << 20
	file := filepath.Join(b.TempDir(), "disk")
	require.NoError(b, os.WriteFile(file, noise(size), 0o600))
	run := func(b *testing.B, source string) {
		b.SetBytes(size)
		b.ReportAllocs()
		b.ResetTimer()
		for b.Loop() {
			out, err := exec.Command(nbdcopy, source, "null:").CombinedOutput()
			require.NoError(b, err, "%s", out)
		}
	}
	b.Run("lifeboat", func(b *testing.B) {
		f, err := os.Open(file)
		require.NoError(b, err)
		defer f.Close()
		run(b, uri(serve(b, &Server{Exports: []Export{{Device: fileDevice{f, size}, ReadOnly: true}}}), ""))
	})
	b.Run("qemu-nbd", func(b *testing.B) {
		run(b, foreign(b, func(socket string) *exec.Cmd {
			return exec.Command(tool(b, "qemu-nbd"), "-r", "-t", "-e", "8", "-f", "raw", "-k", socket, file)
		}))
	})
	b.Run("nbdkit", func(b *testing.B) {
		run(b, foreign(b, func(socket string) *exec.Cmd {
			return exec.Command(tool(b, "nbdkit"), "-f", "-r", "-U", socket, "file", file)
		}))
	})
}

// noise compresses to nothing less and has no zeros to skip.
func noise(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x) | 1
	}
	return b
}

// foreign starts another server and waits until it answers.
func foreign(b *testing.B, start func(socket string) *exec.Cmd) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	require.NoError(b, err)
	socket := filepath.Join(dir, "s")
	cmd := start(socket)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for exec.CommandContext(ctx, tool(b, "nbdinfo"), "--size", uri(socket, "")).Run() != nil {
		require.NoError(b, ctx.Err(), "%s does not answer", cmd.Path)
	}
	return uri(socket, "")
}

// BenchmarkRequests is the cost of single requests on one connection, with
// depth of them under way.
func BenchmarkRequests(b *testing.B) {
	const size = 64 << 20
	sock := serve(b, &Server{Exports: []Export{{Device: plainDevice{&memDevice{data: noise(size)}}}}})
	for _, length := range []uint32{4 << 10, 256 << 10} {
		for _, depth := range []int{1, 16} {
			b.Run(fmt.Sprintf("read%dK/depth%d", length>>10, depth), func(b *testing.B) {
				cl := dialRaw(b, sock)
				cl.negotiate("", false)
				b.SetBytes(int64(length))
				b.ReportAllocs()
				req := request{cmd: cmdRead, length: length}
				for range depth - 1 {
					cl.send(req, nil)
				}
				b.ResetTimer()
				for b.Loop() {
					cl.send(req, nil)
					cl.receive(req)
				}
				b.StopTimer()
				for range depth - 1 {
					cl.receive(req)
				}
			})
		}
	}
}

// BenchmarkOverlay writes through an overlay in memory: whole blocks, and
// blocks that must be filled from the base.
func BenchmarkOverlay(b *testing.B) {
	const size = 64 << 20
	for _, c := range []struct {
		name      string
		n, offset int64
	}{{"whole 64K", 64 << 10, 0}, {"whole 4K", 4 << 10, 0}, {"part 512", 512, 512}} {
		b.Run(c.name, func(b *testing.B) {
			v := openTest(b, hugeDevice{size}, nil)
			p := noise(int(c.n))
			step := max(c.n, overlayBlock)
			b.SetBytes(c.n)
			b.ReportAllocs()
			at := c.offset
			for b.Loop() {
				if _, err := v.WriteAt(b.Context(), p, at); err != nil {
					b.Fatal(err)
				}
				at += step
				if at+c.n > size {
					at = c.offset
				}
			}
		})
	}
}

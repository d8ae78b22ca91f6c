//go:build unix

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// serving is a command that serves.
type serving struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  *bufio.Reader
	errs bytes.Buffer
	uris []string
}

// serve starts vault serve and waits for so many URIs.
func serve(t testing.TB, n int, args ...string) *serving {
	t.Helper()
	s := &serving{t: t, cmd: start(t, append([]string{"serve"}, args...)...)}
	pipe, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	s.cmd.Stderr = &s.errs
	require.NoError(t, s.cmd.Start())
	s.out = bufio.NewReader(pipe)
	for range n {
		line, err := s.out.ReadString('\n')
		if err != nil {
			_ = s.cmd.Wait()
			require.NoError(t, err, s.errs.String())
		}
		s.uris = append(s.uris, strings.TrimSuffix(line, "\n"))
	}
	return s
}

// stop ends it in order.
func (s *serving) stop(sig syscall.Signal) {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(sig))
	rest, err := io.ReadAll(s.out)
	require.NoError(s.t, err)
	require.Empty(s.t, rest)
	require.NoError(s.t, s.cmd.Wait(), s.errs.String())
	require.Empty(s.t, s.errs.String())
}

// short is a folder whose path is short enough for sockets.
func short(t testing.TB) string {
	dir, err := os.MkdirTemp("", "v")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestServe(t *testing.T) {
	tool(t, "qemu-img")
	tool(t, "nbdcopy")
	r := random(t)
	dir := short(t)
	store, a, b := filepath.Join(dir, "store"), filepath.Join(dir, "a"), filepath.Join(dir, "b c")
	want := map[string][]byte{a: picture(r, 6<<20+512), b: picture(r, 1<<20+1536)}
	for image, p := range want {
		clear(p[256<<10 : 512<<10]) // whole chunks of zeros, whatever was drawn
		write(t, image, p)
	}
	ok(t, "add", "--store", store, "--machine", "m", a, b)
	for _, address := range []string{"unix:" + filepath.Join(dir, "s"), "localhost:0"} {
		s := serve(t, 2, "--store", store, "--machine", "m", "--listen", address)
		for i, image := range []string{a, b} {
			require.Contains(t, shell(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", s.uris[i], image), "identical")
			out := filepath.Join(dir, "out")
			shell(t, "nbdcopy", s.uris[i], out)
			equalFile(t, want[image], out)
			var regions bytes.Buffer
			regions.WriteString(shell(t, "qemu-img", "map", "-f", "raw", "--output=json", s.uris[i]))
			require.Contains(t, regions.String(), `"zero": true`)
		}
		_, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 512", s.uris[0]).CombinedOutput()
		require.Error(t, err, "it is read-only")
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			require.Equal(t, "nbd+unix:///a?socket="+path, s.uris[0])
			require.Equal(t, "nbd+unix:///b%20c?socket="+path, s.uris[1])
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
			fails(t, 11, "busy: somebody listens at "+path, "serve", "--store", store, "--machine", "m", "--listen", address)
		}
		s.stop(syscall.SIGTERM)
	}
}

func TestServeWithOverlay(t *testing.T) {
	tool(t, "qemu-io")
	tool(t, "nbdcopy")
	r := random(t)
	dir := short(t)
	store, image, overlay, socket := filepath.Join(dir, "store"), filepath.Join(dir, "sda"), filepath.Join(dir, "overlay"), filepath.Join(dir, "s")
	base := picture(r, 8<<20+512)
	write(t, image, base)
	first := id(t, ok(t, "add", "--store", store, "--machine", "m", image))
	model := bytes.Clone(base)
	args := []string{"--store", store, "--machine", "m", "--point", first, "--listen", "unix:" + socket, "--overlay", overlay}
	for round := range 4 {
		s := serve(t, 1, args...)
		io := []string{"-f", "raw", "-d", "unmap"}
		for range 60 {
			// As a machine boots: small, scattered, now and then large.
			off := r.IntN(len(model) / 512)
			n := min(len(model)/512-off, 1+r.IntN(1<<r.IntN(12)))
			part := model[off*512 : (off+n)*512]
			where := fmt.Sprintf("%d %d", off*512, n*512)
			switch r.IntN(5) {
			case 0:
				io = append(io, "-c", "write -z "+where)
				clear(part)
			case 1:
				io = append(io, "-c", "flush")
			case 2:
				io = append(io, "-c", "read "+where)
			default:
				c := 1 + r.IntN(255)
				io = append(io, "-c", fmt.Sprintf("write -P %d %s", c, where), "-c", fmt.Sprintf("read -P %d %s", c, where))
				copy(part, bytes.Repeat([]byte{byte(c)}, len(part)))
			}
		}
		out := shell(t, "qemu-io", append(io, "-c", "flush", s.uris[0])...)
		require.NotContains(t, out, "failed")
		now := filepath.Join(dir, "now")
		shell(t, "nbdcopy", s.uris[0], now)
		equalFile(t, model, now)
		if round == 1 {
			// What was flushed survives; the socket that is left is replaced.
			require.NoError(t, s.cmd.Process.Kill())
			_ = s.cmd.Wait()
			continue
		}
		s.stop([]syscall.Signal{syscall.SIGTERM, syscall.SIGINT}[round%2])
	}
	equal(t, base, exported(t, store, "m", first))

	second := id(t, ok(t, "add", "--store", store, "--machine", "m", image))
	res := run(t, "serve", "--store", store, "--machine", "m", "--point", second, "--listen", "unix:"+socket, "--overlay", overlay)
	require.Equal(t, 1, res.code)
	require.Contains(t, res.errors, "overlay "+overlay+": ")
	require.Contains(t, res.errors, "another base")

	ok(t, "add", "--store", store, "--machine", "n", image, "sdb="+image)
	two := []string{"--store", store, "--machine", "n", "--listen", "unix:" + socket, "--overlay"}
	res = run(t, append([]string{"serve"}, append(two, overlay+"2")...)...)
	require.Equal(t, 2, res.code, res.errors)
	folder := filepath.Join(dir, "overlays") + "/"
	s := serve(t, 2, append(two, folder)...)
	res = run(t, "serve", "--store", store, "--machine", "n", "--listen", "unix:"+socket+"2", "--overlay", folder)
	require.Equal(t, 11, res.code)
	require.Contains(t, res.errors, "is served by another process")
	s.stop(syscall.SIGTERM)
	require.FileExists(t, folder+"sda.overlay")
	require.FileExists(t, folder+"sdb.overlay")
}

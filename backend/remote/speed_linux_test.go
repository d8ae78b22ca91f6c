package remote

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// speedSize is how much is copied, in bytes.
const speedSize = 1 << 30

// nothing is a draft that takes everything.
type nothing struct{ p dr.Point }

func (nothing) WriteAt(_ context.Context, _ dr.DiskID, p []byte, _ int64) (int, error) {
	return len(p), nil
}
func (nothing) Commit(context.Context, dr.Point) error { return nil }
func (nothing) Close() error                           { return nil }

// BenchmarkBesideNbdcopy copies a disk through the agent, and the same file by
// nbdcopy over TLS, with a certificate on both sides, from and to nbdkit. Pairs
// alternate; the medians are told, in MiB/s, and so is that of the pairs' ratios:
// above 1 the agent is faster. Servers and clients are processes of their own, on
// the same machine. In memory it is the wire that is measured; on a disk no page of
// the source is cached when a copy begins, and what was written is synced.
//
//	go test -run - -bench BesideNbdcopy -benchtime 1x ./backend/remote
func BenchmarkBesideNbdcopy(b *testing.B) {
	for _, tool := range []string{"nbdcopy", "nbdkit"} {
		if _, err := exec.LookPath(tool); err != nil {
			lack(b, tool+" is not installed")
		}
	}
	b.Run("Memory", func(b *testing.B) {
		dir, err := os.MkdirTemp("/dev/shm", "lifeboat-speed")
		if err != nil {
			lack(b, "there is no /dev/shm: "+err.Error())
		}
		b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
		besideNbdcopy(b, dir)
	})
	b.Run("Disk", func(b *testing.B) { besideNbdcopy(b, b.TempDir()) })
}

func besideNbdcopy(b *testing.B, dir string) {
	disk := filepath.Join(dir, "disk.img")
	f, err := os.Create(disk)
	require.NoError(b, err)
	rnd, p := rand.NewChaCha8([32]byte{9}), make([]byte, 1<<20)
	for range speedSize / len(p) {
		_, _ = rnd.Read(p)
		_, err = f.Write(p)
		require.NoError(b, err)
	}
	require.NoError(b, f.Sync())
	require.NoError(b, f.Close())

	machine := physical.Machine{ID: "m", Power: dr.Off, Disks: []physical.Disk{{ID: "a", Path: disk, Boot: true}}}
	h := newHost(b, "127.0.0.1", physical.Config{Root: filepath.Join(dir, "root"), Machines: []physical.Machine{machine}})
	h.start()
	c := h.dial(h.addr, DialOptions{})
	// The same disk as seen from here, to send it to the agent.
	here, err := physical.Open(physical.Config{Root: filepath.Join(dir, "here"), Machines: []physical.Machine{machine}})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, here.Close()) })

	pki := gnuCertificates(b, filepath.Join(h.dir, "pki"))
	from := nbdkit(b, pki, disk)
	copied := filepath.Join(dir, "copied.img")
	to := filepath.Join(dir, "written.img")

	forget := func() {
		f, err := os.Open(disk)
		require.NoError(b, err)
		defer f.Close()
		require.NoError(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	}
	n := 0
	ours := func(src, dst backend.Backend) time.Duration {
		n++
		name := dr.PointID(fmt.Sprint("p", n))
		forget()
		begun := time.Now()
		img, err := src.Capture(b.Context(), "m", name, dr.CrashConsistent)
		require.NoError(b, err)
		var d dr.Draft = nothing{img.Point()}
		var r backend.Replica
		if dst != nil {
			r, err = dst.Prepare(b.Context(), backend.Placement{Key: string(name), Machine: img.Point().Machine})
			require.NoError(b, err)
			d, err = dst.Draft(b.Context(), r.ID, img.Point())
			require.NoError(b, err)
		}
		report, err := replication.Copy(b.Context(), d, img, replication.CopyOptions{Have: replication.History{Blank: true}})
		require.NoError(b, err)
		require.EqualValues(b, speedSize, report.Written)
		require.NoError(b, d.Close())
		require.NoError(b, img.Close())
		took := time.Since(begun)
		require.NoError(b, src.Release(b.Context(), "m", name))
		if dst != nil {
			require.NoError(b, dst.Remove(b.Context(), r.ID))
		}
		return took
	}
	theirs := func(args ...string) time.Duration {
		forget()
		begun := time.Now()
		out, err := exec.Command("nbdcopy", args...).CombinedOutput()
		require.NoError(b, err, "%s", out)
		return time.Since(begun)
	}
	empty := func(path string) {
		require.NoError(b, os.RemoveAll(path))
		f, err := os.Create(path)
		require.NoError(b, err)
		require.NoError(b, f.Truncate(speedSize))
		require.NoError(b, f.Close())
	}
	for _, way := range []struct {
		name        string
		ours, other func() time.Duration
	}{
		{"ReadAndDrop", func() time.Duration { return ours(c, nil) }, func() time.Duration { return theirs(from, "null:") }},
		{"ReadToFile", func() time.Duration { return ours(c, here) }, func() time.Duration {
			empty(copied)
			return theirs("--flush", "--destination-is-zero", from, copied)
		}},
		{"WriteFile", func() time.Duration { return ours(here, c) }, func() time.Duration {
			empty(to)
			return theirs("--flush", "--destination-is-zero", disk, nbdkit(b, pki, to))
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			var a, o, ratio []float64
			for range max(5, b.N) {
				x, y := way.ours().Seconds(), way.other().Seconds()
				a, o, ratio = append(a, speedSize/x/(1<<20)), append(o, speedSize/y/(1<<20)), append(ratio, y/x)
			}
			b.Logf("MiB/s, pair by pair: agent %.0f, nbdcopy %.0f", a, o)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(a), "agent-MiB/s")
			b.ReportMetric(median(o), "nbdcopy-MiB/s")
			b.ReportMetric(median(ratio), "ratio")
		})
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// gnuCertificates lays certificates out as libnbd and nbdkit want them.
func gnuCertificates(t testing.TB, pki string) string {
	dir := t.TempDir()
	for from, to := range map[string]string{
		"ca.pem": "ca-cert.pem", "server.pem": "server-cert.pem", "server.key": "server-key.pem",
		"client.pem": "client-cert.pem", "client.key": "client-key.pem",
	} {
		b, err := os.ReadFile(filepath.Join(pki, from))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), b, 0o600))
	}
	return dir
}

// nbdkit serves a file, and returns the URI for a client.
func nbdkit(t testing.TB, pki, path string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().(*net.TCPAddr)
	require.NoError(t, ln.Close())
	cmd := exec.Command("nbdkit", "-f", "-i", "127.0.0.1", "-p", fmt.Sprint(addr.Port), "--tls=require",
		"--tls-certificates="+pki, "--tls-verify-peer", "file", path)
	log := &said{}
	cmd.Stderr = log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, time.Minute, 20*time.Millisecond, "%s", log)
	return fmt.Sprintf("nbds://127.0.0.1:%d/?tls-certificates=%s", addr.Port, pki)
}

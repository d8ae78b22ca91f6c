//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// signalled runs the command and signals it as soon as reached says so. It is
// false if the command ended before.
func signalled(t testing.TB, s syscall.Signal, reached func() bool, args ...string) (result, bool) {
	t.Helper()
	c := start(t, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	require.NoError(t, c.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait()
	}()
	for waiting := true; waiting; {
		select {
		case <-ended:
			waiting = false
		default:
			if reached() {
				if err := c.Process.Signal(s); !errors.Is(err, os.ErrProcessDone) {
					require.NoError(t, err)
				}
				<-ended
				waiting = false
			}
			runtime.Gosched()
		}
	}
	st := c.ProcessState.Sys().(syscall.WaitStatus)
	return result{c.ProcessState.ExitCode(), out.String(), errs.String()}, s == syscall.SIGKILL && st.Signaled() || c.ProcessState.ExitCode() == exitInterrupted
}

var resumed = regexp.MustCompile(`: read (.+), changed 96\.0 MiB, (.+) resumed, `)

// Segments have 32 MiB: of 96 MiB of noise there are four.
func TestAddGoesOnAfterKillAndSignals(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	content := make([]byte, 96<<20)
	noise(random(t), content)
	write(t, image, content)
	settled(t, image)
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			store := filepath.Join(dir, fmt.Sprint("store-", int(s)))
			defer os.RemoveAll(store)
			add := []string{"add", "--store", store, "--machine", "m", image}
			times := 1
			if s == syscall.SIGKILL {
				times = 2 // the second may come before anything is done
			}
			for n, tries := 1, 0; n <= times; n, tries = n+1, tries+1 {
				require.Less(t, tries, 20, "the command was never caught in the middle")
				r, cut := signalled(t, s, func() bool { return len(segments(t, store)) >= n }, add...)
				if !cut { // it was faster
					require.NoError(t, os.RemoveAll(store))
					n = 0
					continue
				}
				if s != syscall.SIGKILL {
					require.Equal(t, result{130, "", "vault: interrupted\n"}, r)
				}
				require.Equal(t, "[]\n", ok(t, "ls", "--json", "--store", store), "nothing half done is seen")
				require.Equal(t, "no damage: 0 points of 0 machines\n", ok(t, "verify", "--store", store))
				ok(t, "prune", "--store", store, "--keep", "1h") // leaves what can be gone on with
			}
			out := ok(t, add...)
			require.Regexp(t, resumed, out)
			require.NotEqual(t, "96.0 MiB", resumed.FindStringSubmatch(out)[1], "it must not read all again")
			equal(t, content, exported(t, store, "m", id(t, out)))
			require.Equal(t, "no damage: 1 point of 1 machine\n", ok(t, "verify", "--store", store))
		})
	}
}

func TestAddBeginsAnewWithOtherContent(t *testing.T) {
	dir := t.TempDir()
	store, image := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img")
	content := make([]byte, 96<<20)
	noise(random(t), content)
	write(t, image, content)
	settled(t, image)
	for cut, tries := false, 0; !cut; tries++ {
		require.Less(t, tries, 10, "the command was never caught in the middle")
		require.NoError(t, os.RemoveAll(store))
		_, cut = signalled(t, syscall.SIGKILL, func() bool { return len(segments(t, store)) >= 1 }, "add", "--store", store, "--machine", "m", image)
	}
	content[0] ^= 1
	content[40<<20] ^= 1
	write(t, image, content)
	out := ok(t, "add", "--store", store, "--machine", "m", image)
	require.Regexp(t, `: read 96\.0 MiB, changed 96\.0 MiB, \d`, out)
	equal(t, content, exported(t, store, "m", "latest"))
	ok(t, "verify", "--store", store)
}

func TestPruneCanBeKilled(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	kept := make([]byte, 2<<20)
	noise(r, kept)
	for n := 1; n <= 4; n++ {
		store := filepath.Join(dir, fmt.Sprint("store", n))
		content := make([]byte, 2<<20)
		for day := 10; day > 0; day-- {
			noise(r, content[:1<<20])
			put(t, store, "m", time.Now().AddDate(0, 0, -day), content)
		}
		put(t, store, "m", time.Now(), kept)
		before := len(segments(t, store))
		_, cut := signalled(t, syscall.SIGKILL, func() bool { return len(segments(t, store)) <= before-n }, "prune", "--store", store, "--keep", "1h")
		t.Logf("killed after %d deletions: %v", n, cut)
		require.Equal(t, "no damage: 1 point of 1 machine\n", ok(t, "verify", "--store", store))
		equal(t, kept, exported(t, store, "m", "latest"))
		ok(t, "prune", "--store", store, "--keep", "1h")
		require.Len(t, segments(t, store), 2, "chunks and map of the one point")
		equal(t, kept, exported(t, store, "m", "latest"))
		ok(t, "verify", "--store", store)
	}
}

func TestOneWriterAtATime(t *testing.T) {
	dir := t.TempDir()
	store, image := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img")
	write(t, image, make([]byte, 1<<20))
	first := id(t, ok(t, "add", "--store", store, "--machine", "m", image))

	s, err := vault.OpenDir(store, vault.Options{})
	require.NoError(t, err)
	defer s.Close()
	d, err := s.Create(t.Context(), dr.Point{ID: "p", Machine: dr.Machine{ID: "other"}})
	require.NoError(t, err)
	for _, args := range [][]string{{"add", "--machine", "m", image}, {"prune", "--keep", "1h"}} {
		r := run(t, append(args, "--store", store)...)
		require.Equal(t, 11, r.code)
		require.Regexp(t, `^vault: .*busy.*another process is writing to this vault.*\n$`, r.errors)
		require.Empty(t, r.out)
	}
	require.Equal(t, first, last(t, store).ID, "reading goes on")
	exported(t, store, "m", first)
	require.NoError(t, d.Close())
	ok(t, "add", "--store", store, "--machine", "m", image)
}

func TestImageWrittenMeanwhileIsRefused(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	write(t, image, make([]byte, 1<<20))
	settled(t, image)
	im, err := openImages([]string{image})
	require.NoError(t, err)
	defer im.Close()
	require.NoError(t, im.unchanged())
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{1}, 0)
	require.NoError(t, err)
	require.ErrorIs(t, im.unchanged(), dr.ErrNotConsistent)
	require.ErrorContains(t, im.unchanged(), image+" (disk disk.img) was changed while it was read")
}

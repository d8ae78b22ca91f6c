package guestfstest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Need skips the test, or fails it if LIFEBOAT_REQUIRE=all, with the reason.
func Need(t testing.TB, ok bool, why string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

// Has finds a tool, also in sbin.
func Has(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	Need(t, err == nil, name+" is not installed")
	return path
}

// Run runs a tool, also one of those in sbin, and returns what it said.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path := Has(t, name)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
	return string(out)
}

// Image makes a file of size bytes and a file system on it: mkfs is the tool
// with its arguments, to which the file's name is added.
func Image(t testing.TB, size int64, mkfs ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(name)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	Run(t, mkfs[0], append(mkfs[1:], name)...)
	return name
}

// Mounted mounts an image by the kernel, or by a driver in user space, calls
// f with the folder, and unmounts it.
func Mounted(t testing.TB, image, options string, f func(dir string)) {
	t.Helper()
	Need(t, os.Geteuid() == 0, "mounting needs root")
	dir := t.TempDir()
	if o, ok := strings.CutPrefix(options, "ntfs-3g"); ok {
		Run(t, "ntfs-3g", "-o", "rw"+o, image, dir)
	} else {
		Run(t, "mount", "-o", strings.Trim("loop,"+options, ","), image, dir)
	}
	defer Run(t, "umount", dir)
	f(dir)
}

// Copy copies an image, sparsely, as it is now.
func Copy(t testing.TB, image string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	Run(t, "cp", "--sparse=always", image, to)
	return to
}

// Fill writes what is hard to read: a folder with many files, deep folders,
// a fragmented and a sparse file, links short and long.
func Fill(t testing.TB, dir string, seed uint64) {
	t.Helper()
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	r := rand.New(noise)
	write := func(name string, n int) {
		b := make([]byte, n)
		noise.Read(b)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o640))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "many"), 0o755))
	for i := range 1500 {
		write(fmt.Sprintf("many/%s-%d", strings.Repeat("n", r.IntN(40)), i), 0)
	}
	deep := "deep"
	for i := range 20 {
		deep = filepath.Join(deep, fmt.Sprintf("level%d", i))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, deep), 0o755))
	write(deep+"/bottom", 10)
	for _, n := range []int{0, 1, 59, 60, 100, 150, 4095, 4096, 4097, 70_000, 1 << 20} {
		write(fmt.Sprintf("size%d", n), n)
	}
	// Every other block of a file, so that none of its extents can be joined.
	f, err := os.Create(filepath.Join(dir, "holes"))
	require.NoError(t, err)
	b := make([]byte, 4096)
	for i := range 1200 {
		noise.Read(b)
		_, err = f.WriteAt(b, int64(i)*8192)
		require.NoError(t, err)
	}
	require.NoError(t, f.Truncate(12<<20))
	require.NoError(t, f.Close())
	for i, n := range []int{1, 10, 59, 60, 61, 100, 900, 1023} {
		require.NoError(t, os.Symlink(strings.Repeat("t", n), filepath.Join(dir, fmt.Sprintf("link%d", i))))
	}
	require.NoError(t, os.Symlink("/deep/level0/../level0/level1", filepath.Join(dir, "short")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "small"), 0o755))
	write("small/file", 7)
}

// FillSmall writes a little of what is hard to read.
func FillSmall(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "many/deep/deeper"), 0o755))
	for i := range 120 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("many/%s-%d", strings.Repeat("n", i%30), i)), nil, 0o600))
	}
	for _, n := range []int{0, 50, 100, 5000, 70_000} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("many/deep/size%d", n)), make([]byte, n), 0o600))
	}
	f, err := os.Create(filepath.Join(dir, "holes"))
	require.NoError(t, err)
	for i := range 60 {
		_, err = f.WriteAt([]byte("block"), int64(i)*8192)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	for i, n := range []int{1, 59, 100, 900} {
		require.NoError(t, os.Symlink(strings.Repeat("t", n), filepath.Join(dir, fmt.Sprintf("link%d", i))))
	}
}

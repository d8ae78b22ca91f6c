package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func root(t testing.TB) {
	if os.Getuid() != 0 {
		lacks(t, "root rights")
	}
}

func TestFullDiskLeavesEarlierPointsWhole(t *testing.T) {
	root(t)
	r := random(t)
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=24m"); err != nil {
		lacks(t, "file system that can be mounted: "+err.Error())
	}
	defer syscall.Unmount(small, syscall.MNT_DETACH)
	store, image := filepath.Join(small, "store"), filepath.Join(t.TempDir(), "disk.img")
	content := make([]byte, 40<<20)
	noise(r, content[:6<<20])
	write(t, image, content)
	first := id(t, ok(t, "add", "--store", store, "--machine", "m", image))

	full := bytes.Clone(content)
	noise(r, full)
	write(t, image, full)
	for range 2 {
		res := run(t, "add", "--store", store, "--machine", "m", image)
		require.Equal(t, 1, res.code)
		require.Contains(t, res.errors, "no space left on device")
		require.Contains(t, res.errors, "make room")
		require.Equal(t, first, last(t, store).ID)
		equal(t, content, exported(t, store, "m", first))
		require.Equal(t, "no damage: 1 point of 1 machine\n", ok(t, "verify", "--store", store))
	}
	out := filepath.Join(small, "out")
	write(t, image, content)
	require.NoError(t, syscall.Mount("", small, "", syscall.MS_REMOUNT, "size=10m"))
	res := run(t, "export", "--store", store, "--machine", "m", out)
	require.Equal(t, 1, res.code)
	require.Contains(t, res.errors, "no space left on device")
	require.NoFileExists(t, out)
	require.NoFileExists(t, out+".partial")
	// With room it is as if nothing had been.
	require.NoError(t, syscall.Mount("", small, "", syscall.MS_REMOUNT, "size=80m"))
	write(t, image, full)
	ok(t, "add", "--store", store, "--machine", "m", image)
	equal(t, full, exported(t, store, "m", "latest"))
}

// loop makes a block device of a new file.
func loop(t testing.TB, size int64) string {
	t.Helper()
	tool(t, "losetup")
	file := filepath.Join(t.TempDir(), "device")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, size))
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		lacks(t, "loop devices: "+string(out))
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", dev).Run() })
	return dev
}

func TestBlockDevices(t *testing.T) {
	root(t)
	dev := loop(t, 9<<20)
	r := random(t)
	dir := t.TempDir()
	store, image := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img")
	content := picture(r, 8<<20+512)
	clear(content[2<<20 : 4<<20])
	write(t, image, content)
	ok(t, "add", "--store", store, "--machine", "m", image)

	// What was there shines through nowhere but behind the disk's end.
	before := bytes.Repeat([]byte{0xee}, 9<<20)
	require.NoError(t, os.WriteFile(dev, before, 0))
	ok(t, "export", "--store", store, "--machine", "m", dev)
	copy(before, content)
	equalFile(t, before, dev)

	ok(t, "add", "--store", store, "--machine", "m", "disk.img="+dev)
	equal(t, before, exported(t, store, "m", "latest"))

	small := loop(t, 8<<20)
	fails(t, 1, small+" has 8388608 bytes, and the disk 9437184: it was not written", "export", "--store", store, "--machine", "m", small)

	tool(t, "mkfs.ext4")
	shell(t, "mkfs.ext4", "-q", dev)
	mount := t.TempDir()
	require.NoError(t, syscall.Mount(dev, mount, "ext4", 0, ""))
	defer syscall.Unmount(mount, syscall.MNT_DETACH)
	fails(t, 11, dev+" is busy: it, or a part of it, is mounted or used by another device; it was not written", "export", "--store", store, "--machine", "m", dev)
	fails(t, 11, dev+" is busy: it, or a part of it, is mounted or used by another device; add a snapshot of it instead", "add", "--store", store, "--machine", "m", dev)
}

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience for a disk to show up: controllers are probed beside us.
const patience = 20 * time.Second

// enterRoot mounts the file system that the kernel's command line names,
// makes it the root, and becomes its init. It returns only if that fails.
func enterRoot(init string) error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.kind, err)
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	uuid := argument(string(line), "root=UUID")
	if uuid == "" {
		return errors.New("the kernel's command line has no root=UUID=")
	}
	d, err := readDrivers("/drivers")
	if err != nil {
		return err
	}
	var device string
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if err := d.load(); err != nil {
			return err
		}
		if device = find(uuid); device != "" {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("no disk has the root file system %s; there are: %s", uuid, strings.Join(disks(), " "))
		}
	}
	if err := os.MkdirAll("/root", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/"+device, "/root", "ext4", unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mounting %s: %w", device, err)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(dir, "/root"+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", dir, err)
		}
	}
	if err := unix.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", init, unix.Exec(init, []string{init}, []string{"PATH=/sbin:/bin", "ROOT=" + device}))
}

func argument(line, name string) string {
	for _, word := range strings.Fields(line) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

func disks() []string {
	entries, _ := os.ReadDir("/sys/class/block")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// find looks for an ext4 by its UUID, which is 104 bytes into the superblock.
func find(uuid string) string {
	want := strings.ReplaceAll(strings.ToLower(uuid), "-", "")
	for _, name := range disks() {
		f, err := os.Open("/dev/" + name)
		if err != nil {
			continue
		}
		super := make([]byte, 120)
		_, err = f.ReadAt(super, 1024)
		f.Close()
		if (err == nil || err == io.EOF) && super[56] == 0x53 && super[57] == 0xef && hex.EncodeToString(super[104:120]) == want {
			return name
		}
	}
	return ""
}

package minilinux

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

// epoch is when everything on the disk was made, so that builds are equal.
var epoch = time.Unix(1767225600, 0) // 2026-01-01

const epochText = "1767225600"

// rootPartition makes the root file system in its place on the disk: a small
// Debian, as far as a look from outside goes.
func (p packages) rootPartition(ctx context.Context, o Options, dir string, init []byte, at part) error {
	busybox, err := os.ReadFile(p.file("bin", "busybox"))
	if err != nil {
		return err
	}
	config, err := json.Marshal(guest.Config{Port: o.Service.Port, Every: o.Service.Every, Ring: o.Service.Ring, Hello: o.Service.Hello})
	if err != nil {
		return err
	}
	release, err := os.ReadFile(p.file("etc", "debian_version"))
	if err != nil {
		release = []byte("12\n")
	}
	boot, machine := o.id("boot"), o.id("machine")
	mount := "/boot"
	if o.Firmware == dr.UEFI {
		mount = "/boot/efi"
	}
	tree := filepath.Join(dir, "root")
	files := map[string][]byte{
		"bin/busybox":        busybox,
		"sbin/init":          init,
		"etc/debian_version": release,
		"etc/os-release":     []byte("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n"),
		"etc/hostname":       []byte(o.Name + "\n"),
		"etc/machine-id":     fmt.Appendf(nil, "%x\n", machine),
		"etc/fstab": fmt.Appendf(nil, "UUID=%s / ext4 errors=remount-ro 0 1\nUUID=%X-%X %s vfat umask=0077 0 1\n",
			uuid(o.id("root")), [2]byte{boot[0], boot[1]}, [2]byte{boot[2], boot[3]}, mount),
		guest.NetworkFile: fmt.Appendf(nil, "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n\taddress %s\n", o.Address),
		guest.ConfigFile:  append(config, '\n'),
		// Whole from the start: a number then changes blocks, and no metadata
		// but times.
		guest.CounterFile: make([]byte, guest.CounterSize),
		guest.RingFile:    make([]byte, o.Service.Ring*guest.RecordSize),
	}
	for _, empty := range []string{"proc", "sys", "dev", "run", "tmp", "root", mount} {
		if err := os.MkdirAll(filepath.Join(tree, empty), 0o755); err != nil {
			return err
		}
	}
	if err := writeTree(tree, files); err != nil {
		return err
	}
	for _, program := range []string{"bin/busybox", "sbin/init"} {
		if err := os.Chmod(filepath.Join(tree, program), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("busybox", filepath.Join(tree, "bin", "sh")); err != nil {
		return err
	}
	if err := p.run(ctx, dir, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "root", "-U", uuid(o.id("root")),
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard", at.off, uuid(o.id("hash"))),
		"-d", tree, o.Path, fmt.Sprint(at.size/4096)); err != nil {
		return err
	}
	return p.settle(ctx, dir, tree, fmt.Sprintf("%s?offset=%d", o.Path, at.off))
}

// settle gives every node the owner and the times that can't be given to a
// file here: mke2fs took over whose it is, and when it was read and changed.
func (p packages) settle(ctx context.Context, dir, tree, image string) error {
	var script bytes.Buffer
	err := filepath.WalkDir(tree, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		for _, field := range []string{"atime", "ctime", "mtime", "crtime"} {
			fmt.Fprintf(&script, "sif /%s %s @%s\nsif /%[1]s %[2]s_extra 0\n", filepath.ToSlash(name), field, epochText)
		}
		fmt.Fprintf(&script, "sif /%s uid 0\nsif /%[1]s gid 0\n", filepath.ToSlash(name))
		return nil
	})
	if err != nil {
		return err
	}
	commands := filepath.Join(dir, "commands")
	if err := os.WriteFile(commands, script.Bytes(), 0o600); err != nil {
		return err
	}
	return p.run(ctx, dir, "debugfs", "-w", "-f", commands, image)
}

// writeTree writes files below dir, and gives everything there one time, and
// a mode that doesn't depend on this process's.
func writeTree(dir string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		return os.Chtimes(path, epoch, epoch)
	})
}

package minilinux

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// commandLine of the kernel. The serial console is the last one, so it is the
// init's standard output; the screen shows the same for screenshots. A kernel
// that panics restarts at once: nobody is there to read.
func (o Options) commandLine() string {
	return "root=UUID=" + uuid(o.id("root")) + " ro console=tty0 console=ttyS0,115200 quiet panic=-1"
}

// bootPartition makes the FAT that the firmware starts from, as a file in dir,
// with the kernel, the initramfs and a loader that starts them without asking.
func (p packages) bootPartition(ctx context.Context, o Options, dir string, initrd []byte) (string, error) {
	image := filepath.Join(dir, "boot.img")
	f, err := os.Create(image)
	if err != nil {
		return "", err
	}
	if err := f.Truncate(bootSize); err != nil {
		f.Close()
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	id := o.id("boot")
	if err := p.run(ctx, dir, "mkfs.vfat", "--invariant", "-i", hex.EncodeToString(id[:4]), "-n", "BOOT", "-h", fmt.Sprint(bootStart/sector), image); err != nil {
		return "", err
	}
	tree := filepath.Join(dir, "boot")
	files := map[string][]byte{"initrd.img": initrd}
	if files["vmlinuz"], err = os.ReadFile(p.file("boot", "vmlinuz-"+p.version)); err != nil {
		return "", err
	}
	if o.Firmware == dr.UEFI {
		loader, err := os.ReadFile(p.file("usr", "lib", "systemd", "boot", "efi", "systemd-bootx64.efi"))
		if err != nil {
			return "", err
		}
		// The name that firmware without a boot entry of ours looks for.
		files["EFI/BOOT/BOOTX64.EFI"] = loader
		files["loader/loader.conf"] = []byte("timeout 0\neditor no\n")
		files["loader/entries/debian.conf"] = []byte("title Debian\nversion " + p.version +
			"\nlinux /vmlinuz\ninitrd /initrd.img\noptions " + o.commandLine() + "\n")
	} else {
		files["syslinux.cfg"] = []byte("default debian\nprompt 0\ntimeout 0\nlabel debian\n kernel /vmlinuz\n initrd /initrd.img\n append " +
			o.commandLine() + "\n")
	}
	if err := writeTree(tree, files); err != nil {
		return "", err
	}
	tops, err := filepath.Glob(filepath.Join(tree, "*"))
	if err != nil {
		return "", err
	}
	if o.Firmware == dr.BIOS {
		// First, so that its loader's file lies at the beginning.
		if err := p.run(ctx, dir, "syslinux", "--install", image); err != nil {
			return "", err
		}
	}
	return image, p.run(ctx, dir, "mcopy", append(append([]string{"-s", "-m", "-i", image}, tops...), "::")...)
}

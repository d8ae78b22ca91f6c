package minilinux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Build writes the raw image of a machine's disk. It returns ErrNoPackages
// where .ci/minilinux did not run. A build that fails leaves no image.
func Build(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return fmt.Errorf("minilinux: %w", err)
	}
	p, err := findPackages()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "minilinux-")
	if err != nil {
		return fmt.Errorf("minilinux: %w", err)
	}
	defer os.RemoveAll(dir)
	if o.Path, err = filepath.Abs(o.Path); err != nil {
		return fmt.Errorf("minilinux: %w", err)
	}
	if err := p.build(ctx, o, dir); err != nil {
		return fmt.Errorf("minilinux: building %s: %w", o.Path, err)
	}
	return nil
}

func (p packages) build(ctx context.Context, o Options, dir string) (err error) {
	init, err := p.buildInit(ctx, dir)
	if err != nil {
		return err
	}
	initrd, err := p.initramfs(init)
	if err != nil {
		return err
	}
	bootImage, err := p.bootPartition(ctx, o, dir, initrd)
	if err != nil {
		return err
	}
	disk, err := os.Create(o.Path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // only what was made here is removed
			err = errors.Join(err, os.Remove(o.Path))
		}
	}()
	defer disk.Close()
	if err := disk.Truncate(o.Size); err != nil {
		return err
	}
	boot, root := layout(o.Size)
	if err := copySparse(disk, boot, bootImage); err != nil {
		return err
	}
	if err := p.rootPartition(ctx, o, dir, init, root); err != nil {
		return err
	}
	if o.Firmware == dr.UEFI {
		err = writeGPT(disk, o.Size, o, boot, root)
	} else {
		var code []byte
		if code, err = os.ReadFile(p.file("usr", "lib", "syslinux", "mbr", "mbr.bin")); err == nil {
			err = writeMBR(disk, code, o.id("disk"), boot, root)
		}
	}
	if err != nil {
		return err
	}
	return disk.Close()
}

// copySparse copies a file to its place on the disk, and leaves zeros out.
func copySparse(disk io.WriterAt, to part, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	zeros := make([]byte, len(buf))
	for off := int64(0); off < to.size; off += int64(len(buf)) {
		n, err := io.ReadFull(f, buf[:min(int64(len(buf)), to.size-off)])
		if err != nil {
			return err
		}
		if string(buf[:n]) == string(zeros[:n]) {
			continue
		}
		if _, err := disk.WriteAt(buf[:n], to.off+off); err != nil {
			return err
		}
	}
	return nil
}

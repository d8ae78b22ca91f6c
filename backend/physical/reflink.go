package physical

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// Reflink is a [Snapshotter] of image files on file systems that share blocks
// between files: btrfs, and XFS made with reflink=1. The copy takes no time to
// speak of, and only the room of what the disk is written until it is removed.
// It lies beside the disk, hidden, with the end ".snapshot". Only Linux has it.
//
// The whole file is locked while its extents are cloned, so the copy of one
// disk is of one moment without a freeze too.
type Reflink struct{}

var _ Snapshotter = Reflink{}

func (Reflink) at(s Snapshot) string {
	return filepath.Join(filepath.Dir(s.Of), "."+s.Name+".snapshot")
}

// Takes implements [Snapshotter]. It asks the file system, by sharing a block
// with a temporary file.
func (Reflink) Takes(_ context.Context, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is not there", dr.ErrUnsupported, path)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is no file, whose blocks could be shared", dr.ErrUnsupported, path)
	}
	probe, err := os.CreateTemp(filepath.Dir(path), ".lifeboat-*.probe")
	if err != nil {
		return fmt.Errorf("%w: no room for a snapshot beside the disk: %w", dr.ErrUnsupported, err)
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	return share(probe, path, min(info.Size(), 1<<16))
}

// Snapshot implements [Snapshotter].
func (r Reflink) Snapshot(ctx context.Context, s Snapshot) (string, error) {
	if err := r.Remove(ctx, s); err != nil {
		return "", err
	}
	at := r.at(s)
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	return at, errors.Join(share(f, s.Of, 0), f.Close())
}

// Remove implements [Snapshotter].
func (r Reflink) Remove(_ context.Context, s Snapshot) error {
	err := os.Remove(r.at(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fsys.OS().SyncDir(filepath.Dir(s.Of))
	}
	return err
}

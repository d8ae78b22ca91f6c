package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// folderPrefix is what folders of proofs are named by.
const folderPrefix = "lifeboat-machine-"

const (
	ownerFile     = "owner"
	machineFolder = "machine" // made once the owner's lock is held
)

// Folder is a folder of a machine that ends with this process: whoever makes the
// next one removes it, if this process could not.
type Folder struct {
	// Path is the folder, which QEMU can't write to; Machine, in it, is what
	// becomes Config.Dir.
	Path, Machine string

	lock io.Closer
}

// NewFolder makes one in parent ("": the system's folder for temporary files), and
// removes those there whose process is gone.
func NewFolder(parent string) (*Folder, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	if err := sweep(parent); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(parent, folderPrefix)
	if err != nil {
		return nil, err
	}
	// The lock ends with the process, however that ends.
	lock, err := fsys.OS().Lock(filepath.Join(path, ownerFile), true)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("folder %s: %w", path, err), os.RemoveAll(path))
	}
	f := &Folder{path, filepath.Join(path, machineFolder), lock}
	if err := os.Mkdir(f.Machine, 0o700); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close removes it, with all that is in it.
func (f *Folder) Close() error {
	err := os.RemoveAll(f.Path)
	return errors.Join(err, f.lock.Close())
}

// youngest is how old a folder must be that isn't whole to be nobody's: it becomes
// so right after it was made, and until then its lock may not be held yet.
const youngest = time.Hour

// sweep removes folders whose process is gone. Those of other users can't be
// locked, and are left.
func sweep(parent string) error {
	found, err := filepath.Glob(filepath.Join(parent, folderPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range found {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || !mine(info) {
			continue
		}
		owner := filepath.Join(path, ownerFile)
		_, noOwner := os.Lstat(owner)
		_, noMachine := os.Lstat(filepath.Join(path, machineFolder))
		if noOwner != nil || noMachine != nil {
			if time.Since(info.ModTime()) > youngest {
				_ = os.RemoveAll(path)
			}
			continue
		}
		lock, err := fsys.OS().Lock(owner, true)
		if err != nil {
			continue // it lives
		}
		_ = os.RemoveAll(path) // what stays is tried again by the next one
		lock.Close()
	}
	return nil
}

package fsys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tempInfix stands between a file's name and a number in the name of the
// temporary file that will become it.
const tempInfix = ".tmp"

// temps bounds the search for a free temporary name. So many are taken only if
// so many writers died, or write the same file at once.
const temps = 10_000

// WriteFileAtomic makes name a file that holds data, replacing one that is
// there. When it returns nil this is durable; whenever it fails or power is
// cut, name is what it was or the new file, whole. Racing callers leave the
// file of one of them.
//
// A crash may leave a temporary file beside name, which [IsTemp] recognises and
// anyone who knows that no writer is at work may remove.
func WriteFileAtomic(f FS, name string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(f, name, data, perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Rename(temp, name); err != nil {
		return fmt.Errorf("write %s: publish: %w", name, errors.Join(err, f.Remove(temp)))
	}
	if err := f.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("write %s: make its name durable: %w", name, err)
	}
	return nil
}

// IsTemp tells whether a name without its folder is one that [WriteFileAtomic]
// gives to temporary files.
func IsTemp(base string) bool {
	i := strings.LastIndex(base, tempInfix)
	if i <= 0 {
		return false
	}
	_, err := strconv.ParseUint(base[i+len(tempInfix):], 10, 32)
	return err == nil
}

// writeTemp leaves data, synced, in a new file beside name. The names are
// numbered, not random, so that a run can be repeated exactly.
func writeTemp(f FS, name string, data []byte, perm fs.FileMode) (temp string, err error) {
	var file File
	for i := 0; ; i++ {
		temp = name + tempInfix + strconv.Itoa(i)
		file, err = f.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) || i == temps {
			return "", err
		}
	}
	_, err = file.WriteAt(data, 0)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, f.Remove(temp))
	}
	return temp, nil
}

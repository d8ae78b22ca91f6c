package enrol

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// folder is where an authority or an identity keeps what it knows: small files, each
// whole and durable or not there.
type folder struct {
	fs  fsys.FS
	dir string
}

// maxFile bounds what is read back, in bytes.
const maxFile = 4 << 20

func openFolder(f fsys.FS, dir string, sub ...string) (folder, error) {
	if f == nil {
		f = fsys.OS()
	}
	d := folder{f, dir}
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return d, err
	}
	for _, s := range sub {
		if err := f.MkdirAll(d.path(s), 0o700); err != nil {
			return d, err
		}
	}
	if err := f.SyncDir(dir); err != nil {
		return d, err
	}
	return d, f.SyncDir(filepath.Dir(dir))
}

func (d folder) path(name string) string { return filepath.Join(d.dir, filepath.FromSlash(name)) }

// put writes a file, in place of one that is there.
func (d folder) put(name string, b []byte) error {
	return fsys.WriteFileAtomic(d.fs, d.path(name), b, 0o600)
}

// claim writes a file that wasn't there: of all that try, in whatever process, one
// succeeds and the others fail with fs.ErrExist. A failure of another kind leaves it open
// whether it is there.
func (d folder) claim(name string, b []byte) (err error) {
	path := d.path(name)
	temp := filepath.Join(filepath.Dir(path), ".claim-"+rand.Text())
	f, err := d.fs.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.fs.Remove(temp)) }()
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.fs.Link(temp, path); err != nil {
		return err
	}
	return d.fs.SyncDir(filepath.Dir(path))
}

func (d folder) claimJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return d.claim(name, b)
}

// get reads a file; fs.ErrNotExist if there is none.
func (d folder) get(name string) ([]byte, error) {
	f, err := d.fs.OpenFile(d.path(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	if n > maxFile {
		return nil, fmt.Errorf("%s: a file of %d bytes", d.path(name), n)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

func (d folder) getJSON(name string, v any) error {
	b, err := d.get(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", d.path(name), err)
	}
	return nil
}

// has tells whether a file is there.
func (d folder) has(name string) (bool, error) {
	_, err := d.fs.Stat(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// list returns the names in a folder that end so, without their end.
func (d folder) list(sub, end string) (names []string, err error) {
	entries, err := d.fs.ReadDir(d.path(sub))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), end); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names, nil
}

func (d folder) remove(name string) error {
	err := d.fs.Remove(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

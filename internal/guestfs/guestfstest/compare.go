package guestfstest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Listing says of each path what is there: its type, and size and sum of a
// file or the target of a link. It is read by walking the tree.
func Listing(t testing.TB, tree fs.FS, skip ...string) map[string]string {
	t.Helper()
	list := map[string]string{}
	require.NoError(t, fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, s := range skip {
			if ok, _ := path.Match(s, name); ok {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
		}
		in, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case in.Mode().IsRegular():
			f, err := tree.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, f)
			if err != nil {
				return err
			}
			if n != in.Size() {
				return fmt.Errorf("%s: %d bytes of %d", name, n, in.Size())
			}
			list[name] = fmt.Sprintf("file %d %x %v", n, sum.Sum(nil)[:8], in.ModTime().Unix())
		case in.Mode()&fs.ModeSymlink != 0:
			to, err := fs.ReadLink(tree, name)
			if err != nil {
				return err
			}
			list[name] = "link " + to
		default:
			list[name] = in.Mode().Type().String()
		}
		return nil
	}))
	return list
}

// Dir is a folder of the host as a file system.
func Dir(dir string) fs.FS { return os.DirFS(dir) }

// Open opens an image for reading until the test ends.
func Open(t testing.TB, name string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(filepath.Clean(name))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	in, err := f.Stat()
	require.NoError(t, err)
	return f, in.Size()
}

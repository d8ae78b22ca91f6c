//go:build !linux

package physical

import (
	"io/fs"
	"os"
)

// sameDisk reports whether two paths are one file.
func sameDisk(a, b string) (bool, error) {
	var infos [2]fs.FileInfo
	for i, path := range []string{a, b} {
		info, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		infos[i] = info
	}
	return os.SameFile(infos[0], infos[1]), nil
}

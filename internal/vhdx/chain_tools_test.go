package vhdx

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// libvhdi prints a disk of several files, the base first, with its Python
// module.
const libvhdi = `
import sys, pyvhdi
files = []
for name in sys.argv[1:]:
    f = pyvhdi.file()
    f.open(name)
    if files:
        f.set_parent(files[-1])
    files.append(f)
top, left = files[-1], files[-1].get_media_size()
while left:
    data = top.read_buffer(min(left, 1 << 20))
    sys.stdout.buffer.write(data)
    left -= len(data)
`

// chain makes a base and children in dir, and says what each shows.
func chain(t testing.TB, dir string, sector uint32, blocks ...uint32) (names []string, models [][]byte) {
	t.Helper()
	rng := newRand(t)
	var parent *Disk
	// 7-Zip refuses a disk of an odd number of sectors of 4096 bytes, which
	// nothing forbids.
	model := make([]byte, 10*mib+8192*rng.Int64N(250))
	for i, block := range blocks {
		name := fmt.Sprintf("disk%d.vhdx", i)
		o := Options{Size: int64(len(model)), BlockSize: block, LogicalSector: sector, Parent: parent}
		if parent != nil {
			o.ParentRelative, o.ParentAbsolute = `.\`+filepath.Base(names[i-1]), `C:\disks\`+filepath.Base(names[i-1])
		}
		d := create(t, filepath.Join(dir, name), o)
		scatter(t, rng, d, model, 5)
		require.NoError(t, d.Flush())
		parent = d
		names, models = append(names, filepath.Join(dir, name)), append(models, bytes.Clone(model))
	}
	for d := parent; d != nil; d = d.Parent() {
		require.NoError(t, d.Close())
	}
	return names, models
}

func TestLibvhdiReadsChains(t *testing.T) {
	const python = "/usr/bin/python3"
	if exec.Command(python, "-c", "import pyvhdi").Run() != nil {
		missing(t, "module pyvhdi for "+python, "python3-libvhdi")
	}
	for _, sector := range []uint32{512, 4096} {
		names, models := chain(t, t.TempDir(), sector, 4*mib, 2*mib, 1*mib)
		for i := range names {
			out, err := exec.CommandContext(t.Context(), python, append([]string{"-c", libvhdi}, names[:i+1]...)...).Output()
			require.NoError(t, err)
			require.Equal(t, -1, differs(models[i], out), "sectors of %d, %d files", sector, i+1)
		}
	}
}

func Test7zipReadsChains(t *testing.T) {
	need(t, "7zz", "7zip")
	for _, sector := range []uint32{512, 4096} {
		dir := t.TempDir()
		names, models := chain(t, dir, sector, 4*mib, 2*mib, 1*mib)
		for i := range names {
			out := filepath.Join(dir, fmt.Sprint("out", i))
			run(t, "7zz", "x", "-y", "-tvhdx", "-o"+out, names[i])
			list, err := os.ReadDir(out)
			require.NoError(t, err)
			require.Len(t, list, 1)
			got, err := os.ReadFile(filepath.Join(out, list[0].Name()))
			require.NoError(t, err)
			require.Equal(t, -1, differs(models[i], got), "sectors of %d, %d files", sector, i+1)
		}
	}
}

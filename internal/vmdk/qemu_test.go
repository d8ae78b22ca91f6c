package vmdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var sizes = []int64{
	sector, grainBytes - sector, grainBytes, grainBytes + sector, 5*grainBytes + 3*sector,
	tableEntries * grainBytes, tableEntries*grainBytes + sector, 70<<20 + sector,
}

func TestQemuReadsWhatIsWritten(t *testing.T) {
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			if testing.Short() && size > 1<<20 {
				t.Skip("large")
			}
			plain := disk(uint64(size), size)
			made := image(t, plain, Options{})
			requireDisk(t, plain, made)
			raw, path := file(t, "disk.raw", plain), file(t, "disk.vmdk", made)
			var info struct {
				Format  string
				Virtual int64 `json:"virtual-size"`
				Special struct {
					Data struct {
						Type    string `json:"create-type"`
						Extents []struct {
							Compressed bool
							Cluster    int64 `json:"cluster-size"`
						}
					}
				} `json:"format-specific"`
			}
			require.NoError(t, json.Unmarshal([]byte(qemuImg(t, "info", "--output=json", path)), &info))
			require.Equal(t, "vmdk", info.Format)
			require.Equal(t, size, info.Virtual)
			require.Equal(t, "streamOptimized", info.Special.Data.Type)
			require.True(t, info.Special.Data.Extents[0].Compressed)
			require.EqualValues(t, grainBytes, info.Special.Data.Extents[0].Cluster)
			qemuImg(t, "check", "-f", "vmdk", path)
			qemuImg(t, "compare", "-f", "vmdk", "-F", "raw", path, raw)
			back := filepath.Join(t.TempDir(), "back.raw")
			qemuImg(t, "convert", "-f", "vmdk", "-O", "raw", path, back)
			got, err := os.ReadFile(back)
			require.NoError(t, err)
			require.True(t, bytes.Equal(plain, got))
		})
	}
}

func TestReadsWhatQemuWrites(t *testing.T) {
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			if testing.Short() && size > 1<<20 {
				t.Skip("large")
			}
			plain := disk(uint64(size)+1, size)
			path := filepath.Join(t.TempDir(), "disk.vmdk")
			qemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", file(t, "disk.raw", plain), path)
			made, err := os.ReadFile(path)
			require.NoError(t, err)
			got, r, err := read(bytes.NewReader(made))
			require.NoError(t, err)
			require.True(t, bytes.Equal(plain, got))
			require.Empty(t, bytes.Trim(made[r.Consumed():], "\x00"))
			require.Contains(t, r.Descriptor(), `createType="streamOptimized"`)

			// qemu-img writes no footer, and an end marker by accident: it pads
			// with zeros, sometimes. The tables alone must find every cut.
			whole := int64(len(bytes.TrimRight(made, "\x00"))+sector-1) / sector * sector
			_, _, err = read(bytes.NewReader(made[:whole]))
			require.NoError(t, err)
			for _, cut := range []int64{whole - sector, whole - 1, whole / 2, whole / 2 / sector * sector, 64 << 10, 512, 511, 1, 0} {
				_, _, err := read(bytes.NewReader(made[:cut]))
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d of %d", cut, len(made))
			}
			// An end that comes early is no cut, and refused as well.
			early := bytes.Clone(made[:whole])
			clear(early[len(early)/2/sector*sector:])
			_, _, err = read(bytes.NewReader(early))
			require.Error(t, err)
		})
	}
}

// A disk of 3 TiB with a grain at either end, and some between.
func TestHugeSparseDisk(t *testing.T) {
	const size = 3<<40 + 512
	at := map[int64]string{0: "first", 1 << 40: "a TiB", 2<<40 - 3: "over the second TiB", size - 4: "last"}
	var b bytes.Buffer
	w, err := NewWriter(&b, Options{Capacity: size})
	require.NoError(t, err)
	for _, off := range []int64{0, 1 << 40, 2<<40 - 3, size - 4} {
		_, err := w.WriteAt([]byte(at[off]), off)
		require.NoError(t, err)
	}
	require.NoError(t, w.Commit())
	require.Less(t, b.Len(), 1<<20)

	check := func(t *testing.T, src *bytes.Reader) {
		r, err := NewReader(src)
		require.NoError(t, err)
		require.EqualValues(t, size, r.Capacity())
		found, data := map[int64]string{}, 0
		told := int64(0)
		for e, err := range r.Extents() {
			require.NoError(t, err)
			require.Equal(t, told, e.Off)
			told += e.Len
			if e.Data == nil {
				continue
			}
			data++
			for off, s := range at {
				if off >= e.Off && off < e.Off+e.Len {
					found[off] = string(e.Data[off-e.Off:][:min(int64(len(s)), e.Off+e.Len-off)])
				}
			}
		}
		require.EqualValues(t, size, told)
		require.Equal(t, 5, data)
		require.Equal(t, map[int64]string{0: "first", 1 << 40: "a TiB", 2<<40 - 3: "ove", size - 4: "last"}, found)
	}
	check(t, bytes.NewReader(b.Bytes()))
	path := file(t, "disk.vmdk", b.Bytes())
	qemuImg(t, "check", "-f", "vmdk", path)
	require.Contains(t, qemuImg(t, "info", path), fmt.Sprintf("(%d bytes)", int64(size)))
	for _, part := range []string{"-P 102 0 1", "-P 97 1T 1", "-P 111 2199023255549 1", "-P 114 2T 1", "-P 0 2200000000000 1M", "-P 116 3298534883839 1"} {
		run(t, "qemu-io", "-r", "-f", "vmdk", "-c", "read "+part, path)
	}
}

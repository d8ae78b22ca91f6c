package inventory_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
	"github.com/lifeboat-dr/lifeboat/internal/signature/signaturetest"
)

// fixture is a machine that a text describes, line by line:
//
//	PATH = VALUE             a file; VALUE may be a quoted Go string
//	PATH -> TARGET           a symbolic link
//	PATH <<                  a file of the lines until "."
//	block DIR DEV BYTES      a whole device, in sysfs' DIR, linked into /sys/block
//	part DISK N DEV OFF BYTES  its partition
//	slot DISK N OFF BYTES    a partition of the table that sysfs doesn't have there
//	holds LOWER UPPER        UPPER is built on LOWER
//	table DISK KIND ID       the disk's table, of its parts: then
//	entry DISK N TYPE UUID [LABEL]
//	sig DEVICE KIND UUID [LABEL [DEVICES]]
//	address CARD PREFIX
type fixture struct {
	t         testing.TB
	root      string
	dirs      map[string]string
	sizes     map[string]int64
	parts     map[string][]*entry
	tables    map[string][2]string
	addresses map[string][]netip.Prefix
}

type entry struct {
	n         int
	off, size int64
	kind, id  string
	label     string
}

func load(t testing.TB, name string) *fixture {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".machine"))
	require.NoError(t, err)
	return build(t, string(text))
}

func build(t testing.TB, text string) *fixture {
	t.Helper()
	f := &fixture{t: t, root: t.TempDir(), dirs: map[string]string{}, sizes: map[string]int64{}, parts: map[string][]*entry{}, tables: map[string][2]string{}, addresses: map[string][]netip.Prefix{}}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		l := strings.TrimSpace(lines[i])
		if l == "" || l[0] == '#' {
			continue
		}
		if name, ok := strings.CutSuffix(l, " <<"); ok {
			var b strings.Builder
			for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "."; i++ {
				b.WriteString(strings.TrimSpace(lines[i]) + "\n")
			}
			f.file(name, b.String())
			continue
		}
		if name, value, ok := strings.Cut(l, " = "); ok {
			if q, err := strconv.Unquote(value); err == nil {
				value = q
			} else {
				value += "\n"
			}
			f.file(name, value)
			continue
		}
		if name, to, ok := strings.Cut(l, " -> "); ok {
			f.link(name, to)
			continue
		}
		f.do(strings.Fields(l))
	}
	for disk, table := range f.tables {
		f.writeTable(disk, table[0], table[1])
	}
	return f
}

func (f *fixture) path(name string) string {
	p := filepath.Join(f.root, name)
	require.NoError(f.t, os.MkdirAll(filepath.Dir(p), 0o755))
	return p
}

func (f *fixture) file(name, value string) {
	require.NoError(f.t, os.WriteFile(f.path(name), []byte(value), 0o644))
}

func (f *fixture) link(name, to string) {
	require.NoError(f.t, os.Symlink(to, f.path(name)))
}

func (f *fixture) number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(f.t, err)
	return n
}

func (f *fixture) do(w []string) {
	arg := func(i int) string {
		if i < len(w) {
			return w[i]
		}
		return ""
	}
	switch w[0] {
	case "block":
		dir, bytes := strings.Trim(w[1], "/"), f.number(w[3])
		name := filepath.Base(dir)
		f.dirs[name], f.sizes[name] = dir, bytes
		f.link("sys/block/"+name, "../../"+dir)
		for k, v := range map[string]string{"dev": w[2], "size": fmt.Sprint(bytes / 512), "ro": "0", "removable": "0",
			"queue/rotational": "0", "queue/logical_block_size": "512", "queue/physical_block_size": "512"} {
			f.file(dir+"/"+k, v+"\n")
		}
		f.device(name, bytes)
	case "part":
		n := int(f.number(w[2]))
		name := w[1] + w[2]
		if last := w[1][len(w[1])-1]; last >= '0' && last <= '9' {
			name = w[1] + "p" + w[2]
		}
		off, size := f.number(w[4]), f.number(w[5])
		dir := f.dirs[w[1]] + "/" + name
		f.dirs[name], f.sizes[name] = dir, size
		for k, v := range map[string]string{"dev": w[3], "size": fmt.Sprint(size / 512), "ro": "0", "start": fmt.Sprint(off / 512), "partition": w[2]} {
			f.file(dir+"/"+k, v+"\n")
		}
		f.parts[w[1]] = append(f.parts[w[1]], &entry{n: n, off: off, size: size})
		f.device(name, size)
	case "slot":
		f.parts[w[1]] = append(f.parts[w[1]], &entry{n: int(f.number(w[2])), off: f.number(w[3]), size: f.number(w[4])})
	case "holds":
		f.link(f.dirs[w[1]]+"/holders/"+w[2], "/"+f.dirs[w[2]])
		f.link(f.dirs[w[2]]+"/slaves/"+w[1], "/"+f.dirs[w[1]])
	case "table":
		f.tables[w[1]] = [2]string{w[2], w[3]}
	case "entry":
		for _, e := range f.parts[w[1]] {
			if e.n == int(f.number(w[2])) {
				e.kind, e.id, e.label = w[3], arg(4), strings.ReplaceAll(arg(5), "_", " ")
			}
		}
	case "sig":
		devices := 1
		if len(w) > 5 {
			devices = int(f.number(w[5]))
		}
		file, err := os.OpenFile(f.path("dev/"+w[1]), os.O_RDWR, 0)
		require.NoError(f.t, err)
		label := strings.TrimSuffix(arg(4), "-")
		require.NoError(f.t, signaturetest.Write(file, f.sizes[w[1]], w[2], w[3], label, devices))
		require.NoError(f.t, file.Close())
	case "address":
		f.addresses[w[1]] = append(f.addresses[w[1]], netip.MustParsePrefix(w[2]))
	default:
		f.t.Fatalf("fixture: %q", w)
	}
}

// device makes a sparse file that stands for a device.
func (f *fixture) device(name string, size int64) {
	p := f.path("dev/" + name)
	require.NoError(f.t, os.WriteFile(p, nil, 0o644))
	require.NoError(f.t, os.Truncate(p, size))
}

func (f *fixture) options() inventory.Options {
	return inventory.Options{Root: f.root, Addresses: func(name string) ([]netip.Prefix, error) { return f.addresses[name], nil }}
}

func (f *fixture) read() inventory.Report {
	f.t.Helper()
	r, err := inventory.Read(f.t.Context(), f.options())
	require.NoError(f.t, err)
	return r
}

var le = binary.LittleEndian

// guid is one as GPT stores it.
func guid(s string) []byte {
	b, _ := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	b = append(b, make([]byte, 16)...)[:16]
	le.PutUint32(b, binary.BigEndian.Uint32(b))
	le.PutUint16(b[4:], binary.BigEndian.Uint16(b[4:]))
	le.PutUint16(b[6:], binary.BigEndian.Uint16(b[6:]))
	return b
}

// writeTable writes the parts that have an entry.
func (f *fixture) writeTable(disk, kind, id string) {
	file, err := os.OpenFile(f.path("dev/"+disk), os.O_RDWR, 0)
	require.NoError(f.t, err)
	defer file.Close()
	boot := make([]byte, 512)
	boot[510], boot[511] = 0x55, 0xaa
	if kind == "mbr" {
		n, err := strconv.ParseUint(id, 16, 32)
		require.NoError(f.t, err)
		le.PutUint32(boot[0x1b8:], uint32(n))
		for _, p := range f.parts[disk] {
			if p.kind == "" || p.n > 4 {
				continue
			}
			typ, err := strconv.ParseUint(p.kind, 0, 8)
			require.NoError(f.t, err)
			e := boot[0x1be+16*(p.n-1):]
			e[4] = byte(typ)
			le.PutUint32(e[8:], uint32(p.off/512))
			le.PutUint32(e[12:], uint32(p.size/512))
		}
		_, err = file.WriteAt(boot, 0)
		require.NoError(f.t, err)
		return
	}
	boot[0x1be+4] = 0xee
	le.PutUint32(boot[0x1be+8:], 1)
	le.PutUint32(boot[0x1be+12:], 0xffffffff)
	entries := make([]byte, 128*128)
	for _, p := range f.parts[disk] {
		if p.kind == "" {
			continue
		}
		e := entries[128*(p.n-1):]
		copy(e, guid(p.kind))
		copy(e[16:], guid(p.id))
		le.PutUint64(e[32:], uint64(p.off/512))
		le.PutUint64(e[40:], uint64((p.off+p.size)/512-1))
		for i, c := range utf16.Encode([]rune(p.label)) {
			le.PutUint16(e[56+2*i:], c)
		}
	}
	h := make([]byte, 512)
	copy(h, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], 1)
	copy(h[56:], guid(id))
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	_, err = io.Copy(io.NewOffsetWriter(file, 0), bytes.NewReader(append(append(boot, h...), entries...)))
	require.NoError(f.t, err)
}

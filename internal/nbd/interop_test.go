package nbd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// oddSize is no multiple of any block.
const oddSize = 3<<20 + 64<<10 + 777

func TestQemuImg(t *testing.T) {
	tool(t, "qemu-img")
	want := picture(oddSize, 1)
	sock := serve(t, &Server{Exports: []Export{{Name: "disk", Device: &memDevice{data: bytes.Clone(want)}, ReadOnly: true}}})
	dir := t.TempDir()

	var info struct {
		Size int64 `json:"virtual-size"`
	}
	require.NoError(t, json.Unmarshal([]byte(command(t, "qemu-img", "info", "--output=json", "-f", "raw", uri(sock, "disk"))), &info))
	require.GreaterOrEqual(t, info.Size, int64(oddSize), "qemu rounds sizes up to sectors")

	var regions []struct {
		Start, Length int64
		Zero, Data    bool
	}
	require.NoError(t, json.Unmarshal([]byte(command(t, "qemu-img", "map", "--output=json", "-f", "raw", uri(sock, "disk"))), &regions))
	var next int64
	for _, r := range regions {
		require.Equal(t, next, r.Start)
		next += r.Length
		part := want[r.Start:min(r.Start+r.Length, oddSize)]
		if r.Zero {
			require.Empty(t, bytes.Trim(part, "\x00"), "zero at %d", r.Start)
		}
	}
	require.Greater(t, len(regions), 10, "holes are told")

	raw := filepath.Join(dir, "out.raw")
	command(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri(sock, "disk"), raw)
	got, err := os.ReadFile(raw)
	require.NoError(t, err)
	equalBytes(t, want, got[:oddSize], "converted")
	require.Contains(t, command(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri(sock, "disk"), raw), "identical")
}

func TestQemuImgConvertInto(t *testing.T) {
	tool(t, "qemu-img")
	want := picture(4<<20, 3)
	file := filepath.Join(t.TempDir(), "in.raw")
	require.NoError(t, os.WriteFile(file, want, 0o600))
	dev := &memDevice{data: bytes.Repeat([]byte{0xee}, len(want))}
	sock := serve(t, &Server{Exports: []Export{{Device: dev}}})
	command(t, "qemu-img", "convert", "-n", "-W", "-f", "raw", "-O", "raw", file, uri(sock, ""))
	equalBytes(t, want, dev.bytes(), "written")
	require.NotZero(t, dev.flushed(), "qemu-img flushes at the end")
}

func TestQemuIO(t *testing.T) {
	tool(t, "qemu-io")
	base := picture(oddSize, 5)
	dev := &memDevice{data: bytes.Clone(base)}
	sock := serve(t, &Server{Exports: []Export{{Name: "rw", Device: dev}}})
	run := func(cmds ...string) string {
		args := []string{"-f", "raw", "-d", "unmap"}
		for _, c := range cmds {
			args = append(args, "-c", c)
		}
		out := command(t, "qemu-io", append(args, uri(sock, "rw"))...)
		require.NotContains(t, out, "failed")
		require.NotContains(t, out, "error")
		return out
	}
	run("write -P 0xaa 4096 8192", "read -P 0xaa 4096 8192", "write -f -P 0xbb 70000 13", "read -P 0xbb 70000 13",
		"write -z 131072 65536", "read -P 0 131072 65536", "write -z -u 300000 100000", "read -P 0 300000 100000",
		"discard 1048576 65536", "flush", "aio_write -P 0x11 2097152 1048576", "aio_flush", "read -P 0x11 2097152 1048576")
	model := bytes.Clone(base)
	fill := func(c byte, off, n int) { copy(model[off:], bytes.Repeat([]byte{c}, n)) }
	fill(0xaa, 4096, 8192)
	fill(0xbb, 70000, 13)
	fill(0, 131072, 65536)
	fill(0, 300000, 100000)
	fill(0, 1048576, 65536)
	fill(0x11, 2097152, 1048576)
	equalBytes(t, model, dev.bytes(), "after qemu-io")
	require.NotZero(t, dev.flushed())
}

func TestNbdcopy(t *testing.T) {
	tool(t, "nbdcopy")
	for _, size := range []int{1, 511, 65536, oddSize, 20<<20 + 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			want := picture(size, 9)
			dst := &memDevice{data: bytes.Repeat([]byte{0xee}, size)}
			sock := serve(t, &Server{Exports: []Export{
				{Name: "src", Device: &memDevice{data: bytes.Clone(want)}, ReadOnly: true},
				{Name: "dst", Device: dst},
			}})
			file := filepath.Join(t.TempDir(), "copy")
			command(t, "nbdcopy", uri(sock, "src"), file)
			got, err := os.ReadFile(file)
			require.NoError(t, err)
			equalBytes(t, want, got, "out")
			command(t, "nbdcopy", "--flush", file, uri(sock, "dst"))
			equalBytes(t, want, dst.bytes(), "in")
			require.NotZero(t, dst.flushed())
			require.NoError(t, dst.Zero(t.Context(), 0, int64(size)))
			command(t, "nbdcopy", uri(sock, "src"), uri(sock, "dst"))
			equalBytes(t, want, dst.bytes(), "across")
		})
	}
}

func TestNbdinfo(t *testing.T) {
	tool(t, "nbdinfo")
	dev := &memDevice{data: picture(192<<10, 1)}
	sock := serve(t, &Server{Exports: []Export{
		{Name: "one", Description: "the first", Device: dev},
		{Name: "two", Device: plainDevice{dev}},
	}})

	var list struct {
		Exports []struct {
			Name        string `json:"export-name"`
			Description string
			Size        int64 `json:"export-size"`
			ReadOnly    bool  `json:"is_read_only"`
			Multi       bool  `json:"can_multi_conn"`
			FUA         bool  `json:"can_fua"`
			FastZero    bool  `json:"can_fast_zero"`
			Trim        bool  `json:"can_trim"`
			DF          bool  `json:"can_df"`
			Min         int   `json:"block_size_minimum"`
			Preferred   int   `json:"block_size_preferred"`
			Max         int   `json:"block_size_maximum"`
			Contexts    []string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(command(t, "nbdinfo", "--json", "--list", uri(sock, ""))), &list))
	require.Len(t, list.Exports, 2)
	one, two := list.Exports[0], list.Exports[1]
	require.Equal(t, "one", one.Name)
	require.Equal(t, "the first", one.Description)
	require.EqualValues(t, 192<<10, one.Size)
	require.Equal(t, []string{contextAllocation}, one.Contexts)
	require.True(t, !one.ReadOnly && one.Multi && one.FUA && one.FastZero && one.Trim && one.DF, "%+v", one)
	require.Equal(t, []int{1, 64 << 10, 32 << 20}, []int{one.Min, one.Preferred, one.Max})
	require.True(t, two.ReadOnly && two.Multi && !two.FUA && !two.Trim, "%+v", two)

	var m []struct {
		Offset, Length int64
		Type           int
	}
	require.NoError(t, json.Unmarshal([]byte(command(t, "nbdinfo", "--map", "--json", uri(sock, "one"))), &m))
	require.Len(t, m, 3)
	require.EqualValues(t, 64<<10, m[1].Offset)
	require.EqualValues(t, 64<<10, m[1].Length)
	require.Equal(t, 3, m[1].Type)
	require.Zero(t, m[0].Type)
}

// TestParallelClients copies one export with several clients at once, each
// with several connections.
func TestParallelClients(t *testing.T) {
	tool(t, "nbdcopy")
	want := picture(8<<20+5, 2)
	sock := serve(t, &Server{Exports: []Export{{Device: &memDevice{data: want}, ReadOnly: true}}})
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { command(t, "nbdcopy", "--connections=4", uri(sock, ""), filepath.Join(dir, fmt.Sprint(i))) })
	}
	wg.Wait()
	for i := range 4 {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
		require.NoError(t, err)
		equalBytes(t, want, got, "copy")
	}
}

func TestOverlayThroughQemu(t *testing.T) {
	tool(t, "qemu-io")
	base := picture(oddSize, 7)
	file := filepath.Join(t.TempDir(), "overlay")
	model := bytes.Clone(base)
	for round := range 3 {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		v, err := OpenOverlay(&memDevice{data: base}, OverlayOptions{File: f, Identity: "point 7 disk 0"})
		require.NoError(t, err)
		sock, stop := serveUntil(t, &Server{Exports: []Export{{Device: v}}})
		at := 500000 + round*111111
		out := command(t, "qemu-io", "-f", "raw", "-d", "unmap",
			"-c", fmt.Sprintf("write -P %d %d 70000", round+1, at), "-c", fmt.Sprintf("write -z %d 30000", at+20000),
			"-c", fmt.Sprintf("discard %d 8192", round*8192), "-c", "flush", uri(sock, ""))
		require.NotContains(t, strings.ToLower(out), "fail")
		copy(model[at:], bytes.Repeat([]byte{byte(round + 1)}, 70000))
		clear(model[at+20000:][:30000])
		clear(model[round*8192:][:8192])
		copied := filepath.Join(t.TempDir(), "copy")
		command(t, "nbdcopy", uri(sock, ""), copied)
		got, err := os.ReadFile(copied)
		require.NoError(t, err)
		equalBytes(t, model, got, fmt.Sprint("round ", round))
		stop()
		require.NoError(t, f.Close())
	}
}

package vhd

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func aFooter(size int64) Footer {
	return Footer{Size: size, ID: uuid.MustParse("6f2c1f6e-8a49-4d0c-9a5e-0a1b2c3d4e5f"), Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
}

func TestAFooterIsReadAsItWasWritten(t *testing.T) {
	for _, size := range []int64{MinSize, 1 << 30, 2040 << 30, 4095 << 30, 32 << 40} {
		f, err := Parse(aFooter(size).Bytes())
		require.NoError(t, err)
		require.Equal(t, aFooter(size), f)
	}
}

func TestAnyFlippedBitIsNoFooter(t *testing.T) {
	b := aFooter(1 << 30).Bytes()
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			_, err := Parse(c)
			require.ErrorIs(t, err, ErrFormat, "byte %d, bit %d", i, bit)
		}
	}
}

func TestPadded(t *testing.T) {
	for n, want := range map[int64]int64{0: 20 << 20, 512: 20 << 20, 20 << 20: 20 << 20, 20<<20 + 512: 21 << 20, 1 << 40: 1 << 40, 1<<40 + 1: 1<<40 + 1<<20} {
		require.Equal(t, want, Padded(n))
	}
	require.EqualValues(t, 20_972_032, MinSize+FooterSize, "the least that Azure lets one upload")
}

// qemu-img is the oracle of the format, at sizes on both sides of every limit
// of the geometry.
func TestQemuReadsIt(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip("qemu-img not found: install qemu-utils")
	}
	for _, size := range []int64{MinSize, MinSize + Unit, 504 << 20, 505 << 20, 8 << 30, 127<<30 + Unit, 128 << 30, 2040 << 30} { // more QEMU refuses
		name := filepath.Join(t.TempDir(), "disk.vhd")
		f, err := os.Create(name)
		require.NoError(t, err)
		_, err = f.WriteAt(aFooter(size).Bytes(), size)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		out, err := exec.Command(qemu, "info", "-f", "vpc", "--output=json", name).Output()
		require.NoError(t, err)
		var info struct {
			Format string
			Size   int64 `json:"virtual-size"`
		}
		require.NoError(t, json.Unmarshal(out, &info))
		require.Equal(t, "vpc", info.Format)
		require.Equal(t, size, info.Size)
	}
}

func TestQemusOwnIsRead(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip("qemu-img not found: install qemu-utils")
	}
	name := filepath.Join(t.TempDir(), "disk.vhd")
	out, err := exec.Command(qemu, "create", "-q", "-f", "vpc", "-o", "subformat=fixed,force_size=on", name, "64M").CombinedOutput()
	require.NoError(t, err, "%s", out)
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	f, err := Parse(b[len(b)-FooterSize:])
	require.NoError(t, err)
	require.EqualValues(t, len(b)-FooterSize, f.Size)
}

func FuzzParse(f *testing.F) {
	f.Add(aFooter(1 << 30).Bytes())
	f.Add([]byte(cookie))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Parse(b)
		if err != nil {
			require.ErrorIs(t, err, ErrFormat)
			return
		}
		again, err := Parse(got.Bytes())
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}

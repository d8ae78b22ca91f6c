package vhdx

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkWrite writes a new dynamic disk, and a child's, from start to end in
// requests of 1 MiB, with a Flush at the end.
func BenchmarkWrite(b *testing.B) {
	const size = 256 * mib
	buf := noise(newRand(b), mib)
	for _, child := range []bool{false, true} {
		b.Run(map[bool]string{false: "dynamic", true: "differencing"}[child], func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				name := filepath.Join(b.TempDir(), "disk")
				f, err := os.Create(name)
				require.NoError(b, err)
				o := Options{Size: size}
				if child {
					o.Parent, _ = newDisk(b, o)
				}
				d, err := Create(OSFile(f), o)
				require.NoError(b, err)
				for off := int64(0); off < size; off += mib {
					_, err := d.WriteAt(buf, off)
					require.NoError(b, err)
				}
				require.NoError(b, d.Close())
				require.NoError(b, f.Close())
				require.NoError(b, os.Remove(name))
			}
		})
	}
}

// BenchmarkRead reads a disk whose every other 4 KiB are a child's,
// and one that is all its own, from memory.
func BenchmarkRead(b *testing.B) {
	const size = 64 * mib
	base, _ := newDisk(b, Options{Size: size})
	buf := noise(newRand(b), mib)
	for off := int64(0); off < size; off += mib {
		_, err := base.WriteAt(buf, off)
		require.NoError(b, err)
	}
	child, _ := newDisk(b, Options{Parent: base})
	for off := int64(0); off < size; off += 8 * kib {
		_, err := child.WriteAt(buf[:4*kib], off)
		require.NoError(b, err)
	}
	for name, d := range map[string]*Disk{"dynamic": base, "differencing": child} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				for off := int64(0); off < size; off += mib {
					_, err := d.ReadAt(buf, off)
					require.NoError(b, err)
				}
			}
		})
	}
}

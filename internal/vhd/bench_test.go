package vhd

import (
	"bytes"
	"fmt"
	"testing"
)

// Images of 64 MiB in memory: what the format costs, not what a disk does.
func benchmark(b *testing.B, use func(b *testing.B, d *Disk, off int64, p []byte)) {
	const size = 64 << 20
	for _, o := range []Options{{Size: size, Fixed: true}, {Size: size}, {Parent: create(b, newMemory(nil), Options{Size: size}), ParentRelative: "p"}} {
		for _, n := range []int{4 << 10, 1 << 20} {
			d := create(b, newMemory(nil), o)
			p := bytes.Repeat([]byte{7}, n)
			write(b, d, bytes.Repeat(p, size/n), 0)
			b.Run(fmt.Sprintf("%s/%d", d.Kind(), n), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(n))
				for i := 0; b.Loop(); i++ {
					use(b, d, int64(i*n%size), p)
				}
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	benchmark(b, func(b *testing.B, d *Disk, off int64, p []byte) {
		if _, err := d.ReadAt(p, off); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	benchmark(b, func(b *testing.B, d *Disk, off int64, p []byte) {
		if _, err := d.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkFill writes new dynamic images on the file system, flushed at the end.
func BenchmarkFill(b *testing.B) {
	const size = 256 << 20
	p := bytes.Repeat([]byte{7}, 1<<20)
	b.SetBytes(size)
	for b.Loop() {
		d := create(b, tempFile(b), Options{Size: size})
		for off := int64(0); off < size; off += int64(len(p)) {
			write(b, d, p, off)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	f := newMemory(nil)
	if err := create(b, f, Options{Size: MaxDynamic}).Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		open(b, f, OpenOptions{ReadOnly: true})
	}
}

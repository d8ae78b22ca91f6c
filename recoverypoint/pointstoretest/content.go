package pointstoretest

import (
	"fmt"
	"io"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// contentPromises are about bytes: what is written is what is read.
var contentPromises = []promise{
	{"a draft starts as the content of its parent", func(k *kit) {
		old := disks{"d": fill("d", 5*block+512), "e": fill("e", block)}
		k.put("m", "old", "", old)
		k.put("m", "newer", "", disks{"d": fill("newer", 5*block+512), "e": fill("newer", block)})
		p := point("m", "p", "old", old)
		d := k.create(p)
		k.write(d, "d", fill("new", 3), 2*block+7)
		want := old.clone()
		copy(want["d"][2*block+7:], fill("new", 3))
		k.commit(d, p)
		k.holds("m", "p", want)
		k.holds("m", "old", old)
	}},

	{"a draft without a parent starts as zeros", func(k *kit) {
		k.put("m", "old", "", disks{"d": fill("d", 3*block)})
		want := disks{"d": make([]byte, 3*block)}
		p := point("m", "p", "", want)
		d := k.create(p)
		copy(want["d"][block+1:], "x")
		k.write(d, "d", []byte("x"), block+1)
		k.commit(d, p)
		k.holds("m", "p", want)
	}},

	{"disks grow and shrink, come and go", func(k *kit) {
		one := disks{"grows": fill("a", block+512), "shrinks": fill("b", 3*block), "goes": fill("c", block), "stays": fill("d", block)}
		two := disks{"grows": append(one["grows"][:block+512:block+512], make([]byte, 3*block)...), "shrinks": one["shrinks"][:block+1024], "stays": one["stays"], "comes": make([]byte, block)}
		// What was cut off must not come back, nor a disk that had gone.
		three := disks{"grows": two["grows"], "shrinks": append(two["shrinks"][:block+1024:block+1024], make([]byte, 2*block)...), "stays": one["stays"], "goes": make([]byte, block)}
		k.put("m", "one", "", one)
		for _, step := range []struct {
			id, parent dr.PointID
			content    disks
		}{{"two", "one", two}, {"three", "two", three}} {
			p := point("m", step.id, step.parent, step.content)
			k.commit(k.create(p), p)
		}
		k.holds("m", "one", one)
		k.holds("m", "two", two)
		k.holds("m", "three", three)
	}},

	{"sizes and offsets need no alignment", func(k *kit) {
		want := disks{}
		for _, size := range []int{512, block - 512, block, block + 512, 2*block - 512, 5*block + 1536} {
			want[dr.DiskID(fmt.Sprintf("disk of %d", size))] = make([]byte, size)
		}
		p := point("m", "p", "", want)
		d := k.create(p)
		for id, b := range want {
			size := len(b)
			for i, r := range [][2]int{{1, 2}, {size - 1, 1}, {size / 3, size / 2}, {block - 1, 2}, {block, block}, {size - 513, 512}, {0, 1}, {7, 0}, {size, 0}} {
				off, n := r[0], r[1]
				if off < 0 || off+n > size {
					continue
				}
				data := fill(fmt.Sprint(id, i), n)
				copy(b[off:], data)
				k.write(d, id, data, int64(off))
			}
		}
		k.commit(d, p)
		k.holds("m", "p", want)
		img := k.open("m", "p")
		defer k.close(img)
		for id, b := range want {
			for _, r := range [][2]int{{1, 5}, {len(b) - 3, 3}, {len(b) / 2, len(b) / 3}, {block - 2, 4}, {0, 0}} {
				if r[0]+r[1] > len(b) {
					continue
				}
				got := make([]byte, r[1])
				n, err := img.ReadAt(k.ctx, id, got, int64(r[0]))
				if r[0]+r[1] < len(b) || err != io.EOF {
					require.NoError(k, err)
				}
				require.Equal(k, r[1], n)
				require.Equal(k, b[r[0]:r[0]+r[1]], got, "%q at %d", id, r[0])
			}
		}
	}},

	{"parts of a block are written at once", func(k *kit) {
		const pieces = 64
		size := 4*block + 512
		old, want := disks{"d": fill("old", size)}, disks{"d": fill("new", size)}
		k.put("m", "old", "", old)
		p := point("m", "p", "old", want)
		d := k.create(p)
		z, _ := dr.As[dr.Zeroer](d)
		var wg sync.WaitGroup
		errs := make(chan error, pieces)
		for i := range pieces {
			// Neighbours share blocks; every seventh piece is made zero.
			from, to := i*size/pieces, (i+1)*size/pieces
			if i%7 == 0 {
				clear(want["d"][from:to])
			}
			b := want["d"][from:to]
			wg.Go(func() {
				var err error
				if i%7 == 0 && z != nil {
					err = z.Zero(k.ctx, "d", int64(from), int64(to-from))
				} else {
					_, err = d.WriteAt(k.ctx, "d", b, int64(from))
				}
				errs <- err
			})
		}
		wg.Wait()
		for range pieces {
			require.NoError(k, <-errs)
		}
		k.commit(d, p)
		k.holds("m", "p", want)
		k.holds("m", "old", old)
	}},

	{"images are read by many at once", func(k *kit) {
		want := disks{"d": fill("d", 4*block+512)}
		k.put("m", "p", "", want)
		img := k.open("m", "p")
		defer k.close(img)
		var wg sync.WaitGroup
		bad := make(chan string, 16)
		for i := range 16 {
			wg.Go(func() {
				got := make([]byte, 30_011)
				for off := i * 997; off+len(got) < len(want["d"]); off += len(got) {
					if _, err := img.ReadAt(k.ctx, "d", got, int64(off)); err != nil || string(got) != string(want["d"][off:off+len(got)]) {
						bad <- fmt.Sprintf("read at %d: wrong bytes, or %v", off, err)
						return
					}
				}
			})
		}
		wg.Wait()
		close(bad)
		for msg := range bad {
			require.Fail(k, msg)
		}
	}},

	{"a buffer is the caller's again after WriteAt", func(k *kit) {
		want := disks{"d": make([]byte, 6*block)}
		p := point("m", "p", "", want)
		d := k.create(p)
		buf := make([]byte, block)
		for off := 0; off < 6*block; off += block {
			copy(buf, fill(fmt.Sprint(off), block))
			copy(want["d"][off:], buf)
			k.write(d, "d", buf, int64(off))
			clear(buf)
		}
		k.commit(d, p)
		k.holds("m", "p", want)
	}},

	{"the last write of a byte counts", func(k *kit) {
		want := disks{"d": make([]byte, 3*block)}
		p := point("m", "p", "", want)
		d := k.create(p)
		for i, r := range [][2]int{{0, 3 * block}, {100, block}, {block, 2 * block}, {block - 1, 2}, {0, block}, {50, 10}} {
			data := fill(fmt.Sprint("layer", i), r[1])
			copy(want["d"][r[0]:], data)
			k.write(d, "d", data, int64(r[0]))
		}
		k.commit(d, p)
		k.holds("m", "p", want)
	}},

	{"Zero makes zeros, of any part", func(k *kit) {
		size := 6*block + 512
		old := disks{"d": fill("old", size)}
		k.put("m", "old", "", old)
		p := point("m", "p", "old", old)
		d := k.create(p)
		want := old.clone()
		k.write(d, "d", fill("new", 2*block), 3*block)
		copy(want["d"][3*block:], fill("new", 2*block))
		for _, r := range [][2]int{{0, block}, {block + 5, 100}, {2*block - 1, 2}, {3*block + 10, block}, {5*block + 100, size - 5*block - 100}, {size, 0}} {
			k.zero(d, "d", int64(r[0]), int64(r[1]))
			clear(want["d"][r[0] : r[0]+r[1]])
		}
		// Written again after it was zeroed.
		k.write(d, "d", fill("again", 10), 20)
		copy(want["d"][20:], fill("again", 10))
		k.commit(d, p)
		k.holds("m", "p", want)
		k.holds("m", "old", old)
	}},

	{"written zeros are zeros", func(k *kit) {
		old := disks{"d": fill("old", 4*block+512)}
		k.put("m", "old", "", old)
		p := point("m", "p", "old", old)
		d := k.create(p)
		want := old.clone()
		for _, r := range [][2]int{{block, block}, {3 * block, block + 512}, {10, 10}} {
			clear(want["d"][r[0] : r[0]+r[1]])
			k.write(d, "d", make([]byte, r[1]), int64(r[0]))
		}
		k.commit(d, p)
		k.holds("m", "p", want)
	}},

	{"writing beyond the end is refused and writes nothing", func(k *kit) {
		want := disks{"d": fill("d", block+512)}
		k.put("m", "old", "", want)
		p := point("m", "p", "old", want)
		d := k.create(p)
		size := int64(block + 512)
		for _, r := range [][2]int64{{size, 1}, {size - 1, 2}, {0, size + 1}, {size + block, 512}, {1 << 62, 512}} {
			n, err := d.WriteAt(k.ctx, "d", make([]byte, r[1]), r[0])
			require.ErrorIs(k, err, dr.ErrOutOfRange, "write %d at %d of %d", r[1], r[0], size)
			require.Zero(k, n)
			if z, ok := dr.As[dr.Zeroer](d); ok {
				require.ErrorIs(k, z.Zero(k.ctx, "d", r[0], r[1]), dr.ErrOutOfRange, "zero %d at %d of %d", r[1], r[0], size)
			}
		}
		_, err := d.WriteAt(k.ctx, "d", make([]byte, 1), -1)
		require.Error(k, err, "negative offset")
		_, err = d.WriteAt(k.ctx, "nowhere", make([]byte, 1), 0)
		require.ErrorIs(k, err, dr.ErrNotFound, "no such disk")
		k.commit(d, p)
		k.holds("m", "p", want)
	}},

	{"reading ends with the disk", func(k *kit) {
		content := disks{"d": fill("d", block+512)}
		k.put("m", "p", "", content)
		img := k.open("m", "p")
		defer k.close(img)
		got := make([]byte, 100)
		n, err := img.ReadAt(k.ctx, "d", got, block+512-40)
		require.ErrorIs(k, err, io.EOF)
		require.Equal(k, 40, n)
		require.Equal(k, content["d"][block+512-40:], got[:40])
		for _, off := range []int64{block + 512, block + 513, 10 * block, 1 << 62} {
			n, err = img.ReadAt(k.ctx, "d", got, off)
			require.Error(k, err, "read at %d", off)
			require.Zero(k, n)
		}
		_, err = img.ReadAt(k.ctx, "d", got, -1)
		require.Error(k, err, "negative offset")
		_, err = img.ReadAt(k.ctx, "nowhere", got, 0)
		require.ErrorIs(k, err, dr.ErrNotFound, "no such disk")
	}},
}

package vhdx

import (
	"math/bits"
	"sync"
)

const (
	pageBits = page * 8
	// maxBitmapPages bounds how much of the sector bitmaps is kept in memory, to
	// 4 MiB. Pages that wait for the log come on top.
	maxBitmapPages = 1024
)

// bitmaps keeps pages of sector bitmaps by their place in the file. Pages may be
// looked at by many at once; they are changed only by a caller who excludes
// everybody else.
type bitmaps struct {
	medium medium

	mu    sync.Mutex
	pages map[int64]*[page]byte
	dirty map[int64]struct{}
}

func (b *bitmaps) page(off int64) (*[page]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pages[off]; p != nil {
		return p, nil
	}
	for at := range b.pages {
		if len(b.pages) < maxBitmapPages {
			break
		}
		if _, waits := b.dirty[at]; !waits {
			delete(b.pages, at)
		}
	}
	p := new([page]byte)
	if err := b.medium.read(p[:], off); err != nil {
		return nil, err
	}
	if b.pages == nil {
		b.pages, b.dirty = map[int64]*[page]byte{}, map[int64]struct{}{}
	}
	b.pages[off] = p
	return p, nil
}

// run tells about bit i of the bitmap at base, and how many that follow, of n at
// most, are as it is. It looks at one page: a run may go on behind it.
func (b *bitmaps) run(base, i, n int64) (set bool, length int64, err error) {
	p, err := b.page(base + i/pageBits*page)
	if err != nil {
		return false, 0, err
	}
	i %= pageBits
	n = min(n, pageBits-i)
	set = p[i/8]>>(i%8)&1 == 1
	flip := byte(0)
	if set {
		flip = 0xff
	}
	for length < n {
		at := i + length
		// Zeros are bits that are like the first.
		rest := (p[at/8] ^ flip) >> (at % 8)
		if rest != 0 {
			length += int64(bits.TrailingZeros8(rest))
			break
		}
		length += 8 - at%8
	}
	return set, min(length, n), nil
}

// set changes n bits from i on.
func (b *bitmaps) set(base, i, n int64, value bool) error {
	for n > 0 {
		off := base + i/pageBits*page
		p, err := b.page(off)
		if err != nil {
			return err
		}
		first := i % pageBits
		last := min(first+n, pageBits)
		for at := first; at < last; {
			mask, step := byte(1)<<(at%8), int64(1)
			if at%8 == 0 && last-at >= 8 {
				mask, step = 0xff, 8
			}
			if value {
				p[at/8] |= mask
			} else {
				p[at/8] &^= mask
			}
			at += step
		}
		b.dirty[off] = struct{}{}
		i, n = i+last-first, n-(last-first)
	}
	return nil
}

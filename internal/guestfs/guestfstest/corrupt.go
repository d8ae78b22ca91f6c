package guestfstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Opener opens the file system of an image.
type Opener func(r io.ReaderAt, size int64) (guestfs.Volume, error)

// damaged is an image with bytes changed. It counts what is read: more than
// an honest walk could need is a reader that goes round in circles.
type damaged struct {
	whole []byte
	read  int64
}

func (d *damaged) ReadAt(p []byte, off int64) (int, error) {
	if d.read += int64(len(p)); d.read > 256<<20 {
		return 0, fmt.Errorf("the budget is spent")
	}
	return bytes.NewReader(d.whole).ReadAt(p, off)
}

// base is an image, and where in it there is something.
type base struct {
	whole []byte
	spots []int
	open  Opener
}

func newBase(t testing.TB, image string, open Opener) *base {
	b, err := os.ReadFile(image)
	require.NoError(t, err)
	s := &base{whole: b, open: open}
	for i, c := range b {
		if c != 0 {
			s.spots = append(s.spots, i)
		}
	}
	return s
}

// try changes bytes, walks what is left, and puts the bytes back. Each change
// is five bytes: where, counted in bytes that are not zero and from there,
// and what.
func (s *base) try(changes []byte) {
	old := map[int]byte{}
	for ; len(changes) >= 5; changes = changes[5:] {
		at := s.spots[int(binary.LittleEndian.Uint32(changes)>>2)%len(s.spots)] + int(changes[0]&3)
		if at >= len(s.whole) {
			continue
		}
		if _, ok := old[at]; !ok {
			old[at] = s.whole[at]
		}
		s.whole[at] = changes[4]
	}
	defer func() {
		for at, c := range old {
			s.whole[at] = c
		}
	}()
	v, err := s.open(&damaged{whole: s.whole}, int64(len(s.whole)))
	if err != nil {
		return
	}
	root, err := v.Root()
	if err != nil {
		return
	}
	b := make([]byte, 64<<10)
	todo := []guestfs.Node{root}
	for left := 400; len(todo) > 0 && left > 0; left-- {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n.ReadAt(b, 0)
		n.ReadAt(b, max(0, n.Info().Size-100))
		n.Link()
		names := 0
		for e, err := range n.Entries() {
			if names++; err != nil || names > 400 {
				break
			}
			if c, err := v.Node(e.ID); err == nil && len(todo) < 400 {
				todo = append(todo, c)
			}
		}
	}
}

// Corrupt walks a file system again and again with bytes of it changed at
// random: nothing may panic or hang. The seed is in the log.
func Corrupt(t *testing.T, image string, rounds int, open Opener) {
	s := newBase(t, image, open)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	start := time.Now()
	for range rounds {
		c := make([]byte, 5*(1+r.IntN(12)))
		for i := range c {
			c[i] = byte(r.Uint32())
		}
		begun := time.Now()
		s.try(c)
		require.Less(t, time.Since(begun), 20*time.Second, "%x hangs", c)
	}
	t.Logf("%d images in %v", rounds, time.Since(start).Round(time.Millisecond))
}

// Fuzz lets the fuzzer choose what to change.
func Fuzz(f *testing.F, image string, open Opener) {
	s := newBase(f, image, open)
	f.Add([]byte{0, 0, 0, 0, 0xff})
	f.Add([]byte{7, 1, 0, 0, 0xff, 200, 2, 0, 0, 1})
	f.Fuzz(func(t *testing.T, changes []byte) {
		if len(changes) <= 200 {
			s.try(changes)
		}
	})
}

package main

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bench is a computer in memory.
type bench struct {
	mu    sync.Mutex
	off   bool
	disks [][]byte
}

func newBench(sizes ...int64) *bench {
	b := &bench{}
	for _, n := range sizes {
		b.disks = append(b.disks, make([]byte, n))
	}
	return b
}

func (b *bench) computer() computer {
	return computer{disks: len(b.disks), read: over(b.disks), write: func(disk int, p []byte, off int64) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.off {
			return errors.New("off")
		}
		copy(b.disks[disk][off:], p)
		return nil
	}}
}

func over(disks [][]byte) reader {
	return func(disk int, p []byte, off int64) error {
		copy(p, disks[disk][off:])
		return nil
	}
}

// freeze copies the disks at one moment.
func (b *bench) freeze() (disks [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.disks {
		disks = append(disks, slices.Clone(d))
	}
	return disks
}

func (b *bench) powerOff() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.off = true
}

// work lets the guest write for a while.
func work(t *testing.T, w *witness, name string) {
	t.Helper()
	from := w.present(name).Writes
	require.Eventually(t, func() bool { return w.present(name).Writes >= from+20 }, time.Minute, time.Millisecond)
}

// start has a guest write on two disks, until the test ends.
func start(t *testing.T) (*witness, *bench) {
	w, b := newWitness(), newBench(4<<20, 2<<20+512)
	require.NoError(t, w.install("app", b.computer(), []int64{4 << 20, 2<<20 + 512}))
	t.Cleanup(func() {
		b.powerOff()
		<-w.lives[0].gone
	})
	work(t, w, "app")
	return w, b
}

func TestWitnessKnowsTheMoment(t *testing.T) {
	w, b := start(t)
	for range 5 {
		before := w.present("app")
		disks := b.freeze()
		after := w.present("app")
		at, _, err := w.locate("app", over(disks))
		require.NoError(t, err)
		require.Zero(t, at.Life)
		require.GreaterOrEqual(t, at.Writes, before.Writes)
		require.LessOrEqual(t, at.Writes, after.Writes+1, "the bytes may be there before they are noted")
		work(t, w, "app")
	}
}

func TestWitnessKnowsAnotherLife(t *testing.T) {
	w, b := start(t)
	other := &bench{disks: b.freeze()}
	require.NoError(t, w.boot(other.computer()))
	defer other.powerOff()
	at, err := w.booted("app", false)
	require.NoError(t, err)
	require.Zero(t, at.Life)
	work(t, w, "app")
	found, _, err := w.locate("app", over(other.freeze()))
	require.NoError(t, err)
	require.Equal(t, 1, found.Life)
}

func TestWitnessRefusesWhatNeverWas(t *testing.T) {
	w, b := start(t)
	earlier := b.freeze()
	work(t, w, "app")
	now := b.freeze()
	for name, disks := range map[string][][]byte{
		"one disk is older":           {now[0], earlier[1]},
		"the other disk is older":     {earlier[0], now[1]},
		"a bit is another":            {flipped(now[0], 3<<20+77), now[1]},
		"a bit of the last sector":    {now[0], flipped(now[1], len(now[1])-1)},
		"a bit before the guest's":    {flipped(now[0], 1<<10), now[1]},
		"empty disks":                 {make([]byte, 4<<20), make([]byte, 2<<20+512)},
		"a life that there never was": {flipped(now[0], headAt), now[1]},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := w.locate("app", over(disks))
			require.Error(t, err)
		})
	}
	_, _, err := w.locate("web", over(now))
	require.ErrorContains(t, err, "machine app", "the disks are another machine's")
}

func flipped(p []byte, at int) []byte {
	p = slices.Clone(p)
	p[at] ^= 1
	return p
}

package guest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cell is a file in memory that loses what is not synced, eight bytes at a
// time: some media tear a sector.
type cell struct {
	durable, now []byte
	fail         func() error
}

func newCell(size int) *cell { return &cell{durable: make([]byte, size), now: make([]byte, size)} }

func (c *cell) ReadAt(p []byte, off int64) (int, error) {
	if n := copy(p, c.now[off:]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

func (c *cell) WriteAt(p []byte, off int64) (int, error) {
	if err := c.fail(); err != nil {
		return 0, err
	}
	return copy(c.now[off:], p), nil
}

func (c *cell) Sync() error {
	if err := c.fail(); err != nil {
		return err
	}
	copy(c.durable, c.now)
	return nil
}

// crash keeps a random part of what was not synced.
func (c *cell) crash(r *rand.Rand) {
	for at := 0; at < len(c.now); at += 8 {
		if r.IntN(2) == 0 {
			copy(c.durable[at:at+8], c.now[at:])
		}
	}
	copy(c.now, c.durable)
}

// Power fails at any operation of any number: what was returned is never
// lost, at most one more is there, and every record is whole.
func TestPowerMayFailAnywhere(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const records = 4
	counter, ring := newCell(CounterSize), newCell(records*RecordSize)
	left := 0
	fail := func() error {
		if left--; left < 0 {
			return fmt.Errorf("power is off")
		}
		return nil
	}
	counter.fail, ring.fail = fail, fail
	var served, boots uint64
	for range 2000 {
		tally, err := OpenTally(counter, ring, records)
		require.NoError(t, err)
		require.GreaterOrEqual(t, tally.Value(), served, "a number that was given away is lost")
		require.LessOrEqual(t, tally.Value(), served+1)
		whole, err := tally.Check()
		require.NoError(t, err)
		// The oldest may be under the record that was being written.
		require.GreaterOrEqual(t, whole, min(int(tally.Value()), records-1))
		if tally.Value() > served {
			boots = tally.Boots() - 1 // it counted, without being asked
		}
		require.Equal(t, boots+1, tally.Boots())
		left, served = r.IntN(40), tally.Value()
		for {
			n, err := tally.Next()
			if err != nil {
				break
			}
			require.Equal(t, served+1, n)
			served, boots = n, tally.Boots()
		}
		counter.crash(r)
		ring.crash(r)
	}
	require.Greater(t, served, uint64(2000))
}

// A number whose records were not kept is found: a copy that mixes two
// moments, or a disk that reordered its writes.
func TestCheckFindsAMixOfTwoMoments(t *testing.T) {
	on := func() error { return nil }
	counter, ring := newCell(CounterSize), newCell(8*RecordSize)
	counter.fail, ring.fail = on, on
	tally, err := OpenTally(counter, ring, 8)
	require.NoError(t, err)
	for range 20 {
		_, err := tally.Next()
		require.NoError(t, err)
	}
	old := append([]byte(nil), ring.now...)
	for range 3 {
		_, err := tally.Next()
		require.NoError(t, err)
	}
	whole, err := tally.Check()
	require.NoError(t, err)
	require.Equal(t, 8, whole)
	copy(ring.now, old)
	_, err = tally.Check()
	require.ErrorContains(t, err, "record 23 of 23")
	ring.now[int(22%8)*RecordSize+100]++
	_, err = tally.Check()
	require.Error(t, err)

	_, err = OpenTally(counter, ring, 0)
	require.Error(t, err)
}

package replication

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A byte of a small disk, as a sequence of extents tells it.
const (
	none = iota
	data
	zero
)

// decode makes extents of fuzz input, three bytes each: in order or not,
// overlapping, negative, beyond the end. The unit is an eighth of a block.
func decode(b []byte) (es []dr.Extent) {
	const unit = dr.SumBlock / 8
	for ; len(b) >= 3; b = b[3:] {
		es = append(es, dr.Extent{Off: int64(int8(b[0])) * unit, Len: int64(int8(b[1])) * unit, Zero: b[2]%2 == 1})
	}
	return es
}

func sequence(es []dr.Extent) extents {
	return func(yield func(dr.Extent, error) bool) {
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// mark draws a sequence on a map of units, and demands that it ascends.
func mark(t *testing.T, seq extents, size int64) (units []byte, err error) {
	const unit = dr.SumBlock / 8
	units = make([]byte, (size+unit-1)/unit)
	var pos int64
	for e, err := range seq {
		if err != nil {
			return units, err
		}
		require.Positive(t, e.Len)
		require.GreaterOrEqual(t, e.Off, pos, "out of order")
		require.LessOrEqual(t, e.End(), size)
		pos = e.End()
		for i := e.Off / unit; i*unit < e.End(); i++ {
			units[i] = data
			if e.Zero {
				units[i] = zero
			}
		}
	}
	return units, nil
}

// said is what foreign extents say of each unit: data wins over zero.
func said(es []dr.Extent, size int64) []byte {
	const unit = dr.SumBlock / 8
	units := make([]byte, (size+unit-1)/unit)
	for _, e := range es {
		for off := max(0, e.Off); off < min(e.End(), size); off += unit {
			switch {
			case !e.Zero:
				units[off/unit] = data
			case units[off/unit] == none:
				units[off/unit] = zero
			}
		}
	}
	return units
}

// FuzzExtents: whatever backends say, in whatever order, nothing is lost: it
// is passed on or refused.
func FuzzExtents(f *testing.F) {
	f.Add([]byte{0, 8, 0, 16, 8, 1}, []byte{4, 8, 1}, []byte{0, 4, 0}, uint8(40))
	f.Add([]byte{0, 3, 1, 3, 10, 1, 20, 1, 0}, []byte{2, 2, 0, 12, 9, 0}, []byte{8, 8, 0}, uint8(33))
	f.Add([]byte{9, 3, 0, 3, 10, 1}, []byte{2, 250, 0}, []byte{8, 8, 0, 2, 3, 0}, uint8(12))
	f.Add([]byte{0, 10, 1, 4, 10, 1}, []byte{0, 10, 0, 4, 2, 1}, []byte{}, uint8(17))
	f.Add([]byte{0, 10, 1, 4, 10, 0}, []byte{}, []byte{}, uint8(30)) // zeros, some of which are data
	f.Add([]byte{}, []byte{}, []byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, a, b, c []byte, units uint8) {
		const unit = dr.SumBlock / 8
		size := int64(units)*unit - min(int64(units), 1)*512 // the last unit is short
		ours, theirs, have := decode(a), decode(b), decode(c)

		first, err := mark(t, ordered(sequence(ours), size), size)
		wantOurs := said(ours, size)
		if err != nil {
			require.ErrorIs(t, err, errDisorder)
			return
		}
		for i := range first {
			if wantOurs[i] == zero {
				require.Equal(t, byte(zero), first[i], "unit %d", i)
			} else {
				require.Equal(t, wantOurs[i], first[i], "unit %d", i)
			}
		}

		both, err := mark(t, union(ordered(sequence(ours), size), ordered(sequence(theirs), size)), size)
		if err != nil {
			require.ErrorIs(t, err, errDisorder)
			return
		}
		for i, w := range said(theirs, size) {
			switch {
			case first[i] != none:
				require.Equal(t, first[i], both[i], "unit %d: ours", i)
			case w != none:
				require.Equal(t, byte(data), both[i], "unit %d: theirs is data", i)
			default:
				require.Equal(t, byte(none), both[i], "unit %d", i)
			}
		}

		covered := cover(ordered(sequence(ours), size), 0, size)
		all, err := mark(t, covered, size)
		require.NoError(t, err)
		snapped, err := mark(t, snap(covered, size), size)
		require.NoError(t, err)
		for i := range all {
			require.NotEqual(t, byte(none), all[i])
			require.NotEqual(t, byte(none), snapped[i])
			if all[i] == data {
				require.Equal(t, byte(data), snapped[i], "unit %d lost by snapping", i)
			}
			require.Equal(t, snapped[i/8*8], snapped[i], "block of unit %d is split", i)
		}

		wide, err := mark(t, blocks(ordered(sequence(ours), size), size), size)
		require.NoError(t, err)
		for i, w := range first {
			switch wide[i] {
			case none:
				require.Equal(t, byte(none), w, "unit %d lost by widening", i)
			case zero:
				require.Equal(t, byte(zero), w, "unit %d is no zero", i)
			}
			require.Equal(t, wide[i/8*8], wide[i], "block of unit %d is split", i)
		}
		for i := 0; i < len(first); i += 8 {
			if !bytes.ContainsAny(first[i:min(i+8, len(first))], string([]byte{data, zero})) {
				require.Equal(t, byte(none), wide[i], "the block of unit %d is added", i)
			}
		}

		var gone int64
		rest, err := mark(t, without(covered, sequence(have), func(n int64) { require.Positive(t, n); gone += n }), size)
		require.NoError(t, err)
		var left int64
		for i, w := range said(have, size) {
			if rest[i] == none {
				require.NotEqual(t, byte(none), w, "unit %d was left out, nobody has it", i)
			} else {
				left += min(unit, size-int64(i)*unit)
			}
		}
		require.Equal(t, size, left+gone)
	})
}

// TestEarlyStop: sequences end when nobody listens, and free what they hold.
func TestEarlyStop(t *testing.T) {
	es := []dr.Extent{{Len: 10}, {Off: 20, Len: 10, Zero: true}, {Off: 40, Len: 10}}
	more := []dr.Extent{{Off: 5, Len: 2}, {Off: 12, Len: 20}, {Off: 60, Len: 5}}
	for _, seq := range []extents{
		ordered(sequence(es), 100), union(sequence(es), sequence(more)), cover(sequence(es), 3, 100),
		snap(cover(sequence(es), 0, 100), 100), without(sequence(es), sequence(more), func(int64) {}), inwards(sequence(es), 100), whole(5),
		blocks(sequence([]dr.Extent{{Off: 9, Len: 3 * dr.SumBlock, Zero: true}, {Off: 5 * dr.SumBlock, Len: 9}}), 6*dr.SumBlock),
	} {
		total := 0
		for range seq {
			total++
		}
		for n := 1; n <= total; n++ {
			seen := 0
			for range seq {
				if seen++; seen == n {
					break
				}
			}
			require.Equal(t, n, seen)
		}
	}
}

// TestErrorsPass: an error of any input ends the sequence, and isn't lost.
func TestErrorsPass(t *testing.T) {
	fault := errors.New("fault")
	good := sequence([]dr.Extent{{Len: 10}, {Off: 40, Len: 10}})
	bad := func(after int) extents {
		return func(yield func(dr.Extent, error) bool) {
			for i := range after {
				if !yield(dr.Extent{Off: int64(i) * 20, Len: 10}, nil) {
					return
				}
			}
			yield(dr.Extent{}, fault)
		}
	}
	for n := range 4 {
		for name, seq := range map[string]extents{
			"ordered": ordered(bad(n), 100), "union, ours": union(bad(n), good), "union, theirs": union(good, bad(n)),
			"cover": cover(bad(n), 0, 100), "snap": snap(bad(n), 100), "without": without(bad(n), good, func(int64) {}),
			"blocks": blocks(bad(n), 100),
		} {
			var last error
			for _, err := range seq {
				require.NoError(t, last, name)
				last = err
			}
			require.ErrorIs(t, last, fault, name)
		}
	}
}

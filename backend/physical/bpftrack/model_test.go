package bpftrack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// fake is a system whose programs are what the test does.
type fake struct {
	size  int64
	seq   uint64
	block int64
	taps  map[string]words
	skips uint64
	fails error // of attach, when it was half done
}

func (f *fake) find(path string) (device, error) {
	return device{Major: uint32(len(path)), Seq: f.seq, size: f.size}, nil
}

func (f *fake) attach(d device, name string) (*tap, error) {
	if f.fails != nil {
		return &tap{device: d, kernel: f}, f.fails
	}
	w := make(words, headerWords+(f.size/f.block+63)/64)
	f.taps[string(rune('a'+d.Major))] = w
	return &tap{device: d, name: name, words: w, kernel: f}, nil
}

func (f *fake) pinned(device, kept) (*tap, error) { return nil, errMemory }
func (f *fake) sweep([]string) error              { return nil }
func (f *fake) skipped() (uint64, uint64, error)  { return f.skips, 0, nil }
func (f *fake) close(bool)                        {}

// Epochs against a model that remembers every write.
func TestAgainstAModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const block, blocks = 4096, 3*64*pageWords + 7
	sys := &fake{size: block * blocks, seq: 1, block: block, taps: map[string]words{}}
	tr, err := open(Options{BlockSize: block, Memory: DefaultMemory}, sys)
	require.NoError(t, err)
	for _, m := range []dr.MachineID{"m", "other"} {
		require.NoError(t, tr.Track(physical.Machine{ID: m, Disks: []physical.Disk{{ID: "d", Path: string(m)}, {ID: "e", Path: string(m) + "e"}}}))
	}
	kernel := sys.taps[string(rune('a'+1))]
	type epochModel struct {
		mark  dr.Cursor
		dirty map[int64]bool
	}
	var live []*epochModel
	for range 2000 {
		switch rng.IntN(7) {
		case 0:
			mark, err := tr.Cut(t.Context(), "m")
			require.NoError(t, err)
			live = append(live, &epochModel{mark, map[int64]bool{}})
		case 1:
			if rng.IntN(4) > 0 {
				continue
			}
			live = slices.DeleteFunc(live, func(*epochModel) bool { return rng.IntN(3) == 0 })
			var keep []dr.Cursor
			for _, e := range live {
				keep = append(keep, e.mark)
			}
			rng.Shuffle(len(keep), func(i, j int) { keep[i], keep[j] = keep[j], keep[i] })
			require.NoError(t, tr.Keep(t.Context(), "m", keep))
		case 2:
			_, err := tr.Cut(t.Context(), "other")
			require.NoError(t, err)
			require.NoError(t, tr.Keep(t.Context(), "other", nil))
		default:
			first := rng.Int64N(blocks)
			last := min(first+rng.Int64N(1<<rng.IntN(9)), blocks-1)
			if rng.IntN(2) == 0 {
				kernel.mark(first, last)
			} else {
				tr.Mark("m", "d", first*block+1+rng.Int64N(block-1), max((last-first)*block, 1))
			}
			for _, e := range live {
				for i := first; i <= last; i++ {
					e.dirty[i] = true
				}
			}
			tr.Mark("m", "e", 0, sys.size)
			tr.Mark("other", "d", 0, sys.size)
		}
		if len(live) == 0 {
			continue
		}
		e := live[rng.IntN(len(live))]
		got, end := map[int64]bool{}, int64(-1)
		for x, err := range tr.Since(t.Context(), "m", "d", e.mark) {
			require.NoError(t, err)
			require.Greater(t, x.Off, end, "ascending, and neighbours are one")
			require.Positive(t, x.Len)
			end = x.End()
			require.LessOrEqual(t, end, sys.size)
			for i := x.Off / block; i < x.End()/block; i++ {
				got[i] = true
			}
		}
		require.Equal(t, e.dirty, got)
	}
	mark, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	sys.skips++ // a program has not run
	var all []dr.Extent
	for x, err := range tr.Since(t.Context(), "m", "d", mark) {
		require.NoError(t, err)
		all = append(all, x)
	}
	require.Equal(t, []dr.Extent{{Len: sys.size}}, all)
	next, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	for range tr.Since(t.Context(), "m", "d", next) {
		require.Fail(t, "accounted for once")
	}
	sys.seq++ // another medium
	for _, m := range []dr.Cursor{mark, "", "foreign", "foreign.1"} {
		n := 0
		for _, err := range tr.Since(t.Context(), "m", "d", m) {
			require.ErrorIs(t, err, dr.ErrChangesLost)
			n++
		}
		require.Equal(t, 1, n)
	}
}

// Older marks that have no room answer that everything was written.
func TestMemoryIsBounded(t *testing.T) {
	const block = 4096
	sys := &fake{size: block * 64 * pageWords * 100, seq: 1, block: block, taps: map[string]words{}}
	room := int64(8*headerWords+64*pageWords*100/8) + 20*(pageBytes+32)
	tr, err := open(Options{BlockSize: block, Memory: room}, sys)
	require.NoError(t, err)
	require.NoError(t, tr.Track(physical.Machine{ID: "m", Disks: []physical.Disk{{ID: "d", Path: "m"}}}))
	first, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	for i := range int64(100) {
		tr.Mark("m", "d", i*block*64*pageWords, 1)
	}
	second, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	require.LessOrEqual(t, tr.used(), room)
	for x := range tr.Since(t.Context(), "m", "d", first) {
		require.Equal(t, dr.Extent{Len: sys.size}, x)
	}
	for range tr.Since(t.Context(), "m", "d", second) {
		require.Fail(t, "nothing was written since the second")
	}
}

// A disk that comes later has room all the same: older marks give it up.
func TestALaterDiskHasRoom(t *testing.T) {
	const block = 4096
	sys := &fake{size: block * 64 * pageWords * 10, seq: 1, block: block, taps: map[string]words{}}
	each := int64(8*headerWords + 64*pageWords*10/8)
	tr, err := open(Options{BlockSize: block, Memory: 2*each + 2*(pageBytes+32)}, sys)
	require.NoError(t, err)
	m := machineAt("m")
	require.NoError(t, tr.Track(m))
	first, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	tr.Mark("m", "d", 0, sys.size)
	second, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	m.Disks = append(m.Disks, physical.Disk{ID: "e", Path: "me"})
	require.NoError(t, tr.Track(m))
	for x, err := range tr.Since(t.Context(), "m", "d", first) {
		require.NoError(t, err)
		require.Equal(t, dr.Extent{Len: sys.size}, x)
	}
	for range tr.Since(t.Context(), "m", "d", second) {
		require.Fail(t, "nothing was written since the second")
	}
	m.Disks = append(m.Disks, physical.Disk{ID: "f", Path: "mef"})
	require.ErrorContains(t, tr.Track(m), "Options.Memory")
}

// What is written down is what is read again.
func TestStateOfASet(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		s := &set{}
		for range rng.IntN(200) {
			s.or(rng.Int64N(1<<rng.IntN(46)), 1<<rng.IntN(64))
		}
		kept := stateOf(s)
		got, err := kept.set()
		require.NoError(t, err)
		require.Equal(t, s, got)
		if n := len(kept.Pages); n > 0 {
			_, err = stateSet{Pages: kept.Pages[:n-1-rng.IntN(8)]}.set()
			require.Error(t, err)
		}
	}
	require.Equal(t, stateSet{All: true}, stateOf(&set{all: true, pages: map[int64]*[pageWords]uint64{1: {1}}}))
}

func FuzzState(f *testing.F) {
	some := &set{}
	some.or(3*pageWords+5, 9)
	good, err := state{Format: format, Block: 1 << 16, Session: "s", N: 2, Machines: map[dr.MachineID]stateMachine{
		"m": {Disks: map[dr.DiskID]kept{"d": {Name: "n", Words: 9}}, Epochs: []stateEpoch{{1, map[dr.DiskID]stateSet{"d": stateOf(some)}}}},
	}}.encode()
	require.NoError(f, err)
	_, err = decodeState(good)
	require.NoError(f, err)
	_, body, _ := bytes.Cut(good, []byte("\n"))
	f.Add(body)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeState(b)
		s, err := decodeState(seal(b))
		if err != nil {
			return
		}
		for _, m := range s.Machines {
			for _, e := range m.Epochs {
				for _, d := range e.Dirty {
					_, _ = d.set()
				}
			}
		}
	})
}

// Clearing takes what was read, and no bit that was set beside it meanwhile.
func TestClearTakesOnlyWhatWasRead(t *testing.T) {
	w := make(words, headerWords+2)
	w.mark(3, 3)
	read := &set{}
	w.read(read)
	w.mark(4, 64)
	w.markAll()
	w.clear(read)
	left := &set{}
	w.read(left)
	require.True(t, left.all)
	require.Equal(t, ^uint64(15), left.pages[0][0])
	require.Equal(t, uint64(1), left.pages[0][1])
}

// A mark that can't be written down wasn't set, and nothing is lost by it: so
// neither by a process that dies in its place.
func TestACutThatFails(t *testing.T) {
	sys := &fake{size: 64 << 20, seq: 1, block: 1 << 16, taps: map[string]words{}}
	tr, err := open(Options{BlockSize: 1 << 16, Memory: DefaultMemory}, sys)
	require.NoError(t, err)
	require.NoError(t, tr.Track(physical.Machine{ID: "m", Disks: []physical.Disk{{ID: "d", Path: "m"}}}))
	mark, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	tr.Mark("m", "d", 5<<16, 1)
	tr.o.State = t.TempDir()
	tr.lock, err = os.Create(filepath.Join(tr.o.State, "lock"))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(tr.o.State, "state", "x"), 0o700)) // nor removed
	for range 2 {
		_, err = tr.Cut(t.Context(), "m")
		require.Error(t, err)
		var bits set
		tr.machines["m"].disks["d"].in.words.read(&bits)
		require.NotEmpty(t, bits.pages, "cleared before it was written down")
	}
	for e, err := range tr.Since(t.Context(), "m", "d", mark) {
		require.NoError(t, err)
		require.Equal(t, dr.Extent{Off: 5 << 16, Len: 1 << 16}, e)
	}
	require.NoError(t, tr.Close())
}

// What the agent can't write down it goes on without: the state that a restart
// would believe is gone, and no part of it is left to fill the memory.
func TestAStateThatCannotBeWritten(t *testing.T) {
	sys := &fake{size: 64 << 20, seq: 1, block: 1 << 16, taps: map[string]words{}}
	tr, err := open(Options{BlockSize: 1 << 16, Memory: DefaultMemory}, sys)
	require.NoError(t, err)
	tr.o.State = t.TempDir()
	tr.lock, err = os.Create(filepath.Join(tr.o.State, "lock"))
	require.NoError(t, err)
	require.NoError(t, tr.Track(physical.Machine{ID: "m", Disks: []physical.Disk{{ID: "d", Path: "m"}}}))
	mark, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	require.True(t, tr.Health()[0].Kept)
	files := func() (names []string) {
		all, err := os.ReadDir(tr.o.State)
		require.NoError(t, err)
		for _, f := range all {
			names = append(names, f.Name())
		}
		return names
	}
	require.Equal(t, []string{"lock", "state"}, files())

	tr.save = func(path string, b []byte) error { // a tmpfs that is full
		require.NoError(t, os.WriteFile(path, b[:len(b)/2], 0o600))
		return errors.New("no space left on device")
	}
	tr.Mark("m", "d", 5<<16, 1)
	next, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err, "points are made all the same")
	require.Equal(t, []string{"lock"}, files())
	require.False(t, tr.Health()[0].Kept)
	for e, err := range tr.Since(t.Context(), "m", "d", mark) {
		require.NoError(t, err)
		require.Equal(t, dr.Extent{Off: 5 << 16, Len: 1 << 16}, e)
	}
	for range tr.Since(t.Context(), "m", "d", next) {
		require.Fail(t, "nothing was written since")
	}
	tr.save = writeState
	require.NoError(t, tr.Keep(t.Context(), "m", []dr.Cursor{next}))
	require.Equal(t, []string{"lock", "state"}, files())
	require.True(t, tr.Health()[0].Kept)
	require.NoError(t, tr.Close())
}

// A kernel that gives no memory when a disk is to be watched anew costs the
// marks, and no more; and a machine that nobody told of isn't silently compared.
func TestADiskThatCannotBeWatched(t *testing.T) {
	sys := &fake{size: 64 << 20, seq: 1, block: 1 << 16, taps: map[string]words{}}
	tr, err := open(Options{BlockSize: 1 << 16, Memory: DefaultMemory}, sys)
	require.NoError(t, err)
	defer tr.Close()
	require.Len(t, tr.Problems("m"), 1)
	require.NoError(t, tr.Track(machineAt("m")))
	require.Empty(t, tr.Problems("m"))
	require.NotEmpty(t, tr.Problems("other"))
	mark, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	sys.seq++ // another medium
	sys.fails = errors.New("cannot allocate memory")
	next, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	sys.fails = nil
	for _, mark := range []dr.Cursor{mark, next} {
		for _, err := range tr.Since(t.Context(), "m", "d", mark) {
			require.ErrorIs(t, err, dr.ErrChangesLost)
		}
	}
	require.Contains(t, tr.Problems("m")[0].Text, "allocate")
	_, err = tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	require.Empty(t, tr.Problems("m"))
}

func machineAt(path string) physical.Machine {
	return physical.Machine{ID: "m", Disks: []physical.Disk{{ID: "d", Path: path}}}
}

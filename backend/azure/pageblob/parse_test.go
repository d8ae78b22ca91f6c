package pageblob

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func someManifest() *manifest {
	return &manifest{
		Point: dr.Point{ID: "p", Time: time.Unix(5, 0).UTC(), Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 9000}, {ID: "b", Size: 0}}}},
		Draft: "0123456789abcdef", Segments: []string{segmentName(1, 0), segmentName(1, 1)},
		Disks: []stored{{ID: "a", Size: 9000, Blob: blobName("a", "0123456789abcdef"), Snapshot: "2026-01-01T00:00:00.0000000Z"}, {ID: "b"}},
		delta: []pieces{{{off: 5, n: 10, seg: 1, at: 7}, {off: 15, n: 100, seg: noSegment, at: isZero}, {off: 8000, n: 1000, seg: noSegment, at: 0}}, {}},
	}
}

func someHead() *head {
	return &head{
		Format: headFormat, Next: 7, Epoch: 3,
		Drafts: []begun{{ID: "0123456789abcdef", Point: someManifest().Point, Parent: 4}},
		Points: []entry{
			{Seq: 2, ID: "o", Draft: "aaaaaaaaaaaaaaaa", Manifest: "p/o.aaaaaaaaaaaaaaaa"},
			{Seq: 4, ID: "q", Draft: "bbbbbbbbbbbbbbbb", Parent: 2, Received: true, Manifest: "s/bbbbbbbbbbbbbbbb/received-cccccccccccccccc"},
		},
		Blobs: []base{{Name: blobName("a", "aaaaaaaaaaaaaaaa"), Disk: "a", Holds: 2, Applying: 4, By: "x"}},
	}
}

func TestManifestsAreReadAsTheyWereWritten(t *testing.T) {
	want := someManifest()
	got, err := parseManifest(want.bytes())
	require.NoError(t, err)
	require.Equal(t, want, got)
	b := want.bytes()
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		_, err := parseManifest(c)
		require.ErrorIs(t, err, dr.ErrCorrupt, "byte %d", i)
	}
}

func TestHeadsAreReadAsTheyWereWritten(t *testing.T) {
	got, err := parseHead(someHead().bytes())
	require.NoError(t, err)
	require.Equal(t, someHead(), got)
	for what, spoil := range map[string]func(*head){
		"format":           func(h *head) { h.Format = 0 },
		"order":            func(h *head) { h.Points[1].Seq = 2 },
		"number":           func(h *head) { h.Points[1].Seq = 7 },
		"parent":           func(h *head) { h.Points[0].Parent = 2 },
		"point's name":     func(h *head) { h.Points[0].ID = "../x" },
		"manifest outside": func(h *head) { h.Points[0].Manifest = "p/../../x.aaaaaaaaaaaaaaaa" },
		"blob outside":     func(h *head) { h.Blobs[0].Name = "d/../x.vhd" },
		"draft's name":     func(h *head) { h.Drafts[0].ID = "/" },
		"draft's disks":    func(h *head) { h.Drafts[0].Point.Machine.Disks = []dr.Disk{{ID: "a", Size: -1}} },
	} {
		h := someHead()
		spoil(h)
		_, err := parseHead(h.bytes())
		require.ErrorIs(t, err, dr.ErrCorrupt, what)
	}
	h := someHead()
	h.Format = headFormat + 1
	_, err = parseHead(h.bytes())
	require.ErrorIs(t, err, dr.ErrUnsupported)
}

func FuzzHead(f *testing.F) {
	f.Add(someHead().bytes())
	f.Add([]byte(`{"format":1,"next":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHead(b)
		if err != nil {
			return
		}
		h.settle()
		h.merges()
		again, err := parseHead(h.bytes())
		require.NoError(t, err)
		require.Equal(t, h.bytes(), again.bytes())
	})
}

// signed gives a manifest's bytes the sum that they need to be looked at.
func signed(b []byte) []byte {
	sum := blake3.Sum256(b)
	return append(bytes.Clone(b), sum[:]...)
}

func FuzzManifest(f *testing.F) {
	b := someManifest().bytes()
	f.Add(b[:len(b)-32])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(signed(b))
		if err != nil {
			return
		}
		for i, l := range m.delta {
			at := int64(0)
			for _, p := range l {
				require.GreaterOrEqual(t, p.off, at)
				require.Positive(t, p.n)
				require.Less(t, int(p.seg), len(m.Segments))
				at = p.end()
			}
			require.LessOrEqual(t, at, m.Disks[i].Size)
		}
		again, err := parseManifest(m.bytes())
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

func FuzzSegmentTail(f *testing.F) {
	b := appendSegmentTail([]byte("0123456789"), "name", []record{{0, 5, 10, false}, {1, 0, 4096, true}})
	f.Add(b[10 : len(b)-segmentFooter])
	f.Fuzz(func(t *testing.T, index []byte) {
		// The sum is made right, or nothing would be looked at.
		data := int64(10)
		foot := make([]byte, 0, segmentFooter)
		foot = append(foot, 10, 0, 0, 0, 0, 0, 0, 0)
		foot = append(foot, byte(len(index)), byte(len(index)>>8), byte(len(index)>>16), 0, 0, 0, 0, 0)
		foot = append(foot, make([]byte, 32)...)
		tail := append(bytes.Clone(index), foot...)
		sum := tailSum("name", tail)
		tail = append(append(tail, sum[:]...), segmentMagic...)
		ft, ok := parseFooter(tail[len(index):], data+int64(len(tail)))
		if len(index) < 1<<24 {
			require.True(t, ok)
		}
		sizes := []int64{100, 8192}
		records, ok := parseTail(tail, "name", ft, sizes)
		if !ok {
			return
		}
		n := int64(0)
		for _, r := range records {
			require.LessOrEqual(t, r.off+r.n, sizes[r.disk])
			if !r.zero {
				n += r.n
			}
		}
		require.Equal(t, data, n)
	})
}

func FuzzFooter(f *testing.F) {
	b := appendSegmentTail([]byte("0123456789"), "name", []record{{0, 5, 10, false}})
	f.Add(b[len(b)-segmentFooter:], int64(len(b)))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if ft, ok := parseFooter(b, size); ok {
			require.Equal(t, size, ft.data+ft.index+int64(segmentFooter))
			require.True(t, ft.data >= 0 && ft.index >= 0)
		}
	})
}

func TestNamesGoThereAndBack(t *testing.T) {
	for _, m := range []dr.MachineID{"m", "m.", "a..", ".a", "A-_.", "m.."} {
		dir := machineDir(m)
		got, rest, ok := machineOf(dir + "p/x")
		require.True(t, ok, m)
		require.Equal(t, m, got)
		require.Equal(t, "p/x", rest)
		require.NotRegexp(t, `\./`, dir, "Azure wants no part of a name to end with a dot")
	}
	for _, name := range []string{"", "m/", "m/x", "x/m/head", "m/../head", "m/a=/head", "m/a..==/head"} {
		_, _, ok := machineOf(name)
		require.False(t, ok, name)
	}
}

// Pieces are compared with a disk of which each byte knows where it is from.
func TestPiecesAreAMap(t *testing.T) {
	const size = 300
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		type place struct {
			seg, at int32
			known   bool
		}
		var want [size]place
		var l pieces
		for range rnd.IntN(30) {
			p := piece{off: rnd.Int64N(size), seg: int32(rnd.IntN(4) - 1), at: int32(rnd.IntN(50) - 1)}
			p.n = 1 + rnd.Int64N(min(size-p.off, 60))
			if p.seg == noSegment {
				p.at = min(p.at, 0)
			}
			l.put(p)
			for i := range p.n {
				at := p.at
				if at != isZero && p.seg != noSegment {
					at += int32(i)
				}
				want[p.off+i] = place{p.seg, at, true}
			}
		}
		from := rnd.Int64N(size)
		next := from
		for p, known := range l.within(from, size) {
			require.Equal(t, next, p.off)
			for i := range p.n {
				got := place{p.seg, p.at, known}
				if known && p.at != isZero && p.seg != noSegment {
					got.at += int32(i)
				}
				if !known {
					got = place{}
				}
				require.Equal(t, want[p.off+i], got)
			}
			next = p.end()
		}
		require.EqualValues(t, size, next)
		for i := 1; i < len(l); i++ {
			require.False(t, l[i-1].continues(l[i]), "pieces that go on in each other are one")
			require.LessOrEqual(t, l[i-1].end(), l[i].off)
		}
	}
}

// Runs of pages are compared with each page looked at by itself.
func TestRunsAreWholePages(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const pages = 20
	for range 5000 {
		var l extents
		told, zero := [pages * pageSize]bool{}, [pages * pageSize]bool{}
		at := int64(0)
		for at < pages*pageSize {
			e := dr.Extent{Off: at + rnd.Int64N(1500)*int64(rnd.IntN(2)), Len: 1 + rnd.Int64N(3000), Zero: rnd.IntN(2) == 0}
			if e.End() > pages*pageSize {
				break
			}
			for i := e.Off; i < e.End(); i++ {
				told[i], zero[i] = true, e.Zero
			}
			l.add(e.Off, e.End(), e.Zero)
			at = e.End()
		}
		kinds := [pages]string{}
		last := int64(0)
		for r := range runs(l, pages*pageSize) {
			require.GreaterOrEqual(t, r.Off, last)
			require.Zero(t, r.Off%pageSize+r.Len%pageSize)
			for p := r.Off / pageSize; p < r.End()/pageSize; p++ {
				kinds[p] = map[bool]string{true: "zero", false: "data"}[r.Zero]
			}
			last = r.End()
		}
		for p := range pages {
			any, all := false, true
			for i := p * pageSize; i < (p+1)*pageSize; i++ {
				any = any || told[i]
				all = all && told[i] && zero[i]
			}
			want := ""
			if any {
				want = "data"
			}
			if all {
				want = "zero"
			}
			require.Equal(t, want, kinds[p], "page %d of %v", p, l)
		}
	}
}

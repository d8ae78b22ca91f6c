package physical

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestPlaceOfDisks(t *testing.T) {
	disk := func(id dr.DiskID, boot bool) dr.Disk { return dr.Disk{ID: id, Size: 100, Boot: boot} }
	bare := func(id dr.DiskID, boot bool) slot {
		return slot{id: id, own: id, path: "/dev/" + string(id), size: 100, boot: boot, givenUp: true, larger: true}
	}
	own := func(id dr.DiskID) slot { return slot{id: id, own: id, path: "/dev/" + string(id), size: 100} }
	named := func(id, as dr.DiskID) slot { s := bare(id, false); s.id = as; return s }
	type m = map[dr.DiskID]dr.DiskID
	for _, c := range []struct {
		name     string
		want     []dr.Disk
		have     []slot
		explicit m
		at       []int
		is       error
		says     string
	}{
		{"by ID", []dr.Disk{disk("a", true), disk("b", false)}, []slot{own("b"), own("a")}, nil, []int{1, 0}, nil, ""},
		{"by ID, though others are given up", []dr.Disk{disk("a", false)}, []slot{own("a"), bare("b", false), bare("c", true)}, nil, []int{0}, nil, ""},
		{"the only one for the only one", []dr.Disk{disk("a", false)}, []slot{own("x"), bare("y", false)}, nil, []int{1}, nil, ""},
		{"boot for boot, then the only one left", []dr.Disk{disk("data", false), disk("os", true)}, []slot{bare("x", true), bare("y", false)}, nil, []int{1, 0}, nil, ""},
		{"two data disks", []dr.Disk{disk("os", true), disk("d", false), disk("e", false)}, []slot{bare("x", true), bare("y", false), bare("z", false)}, nil, nil, dr.ErrAmbiguous, "y (/dev/y, 100 bytes, given up)"},
		{"two data disks, one is said", []dr.Disk{disk("os", true), disk("d", false), disk("e", false)}, []slot{bare("x", true), bare("y", false), bare("z", false)}, m{"d": "z"}, []int{0, 2, 1}, nil, ""},
		{"one disk, two to choose from", []dr.Disk{disk("a", false)}, []slot{bare("x", false), bare("y", false)}, nil, nil, dr.ErrAmbiguous, `{"disks": {"a": "x"}}`},
		{"exchanged", []dr.Disk{disk("a", false), disk("b", false)}, []slot{bare("a", false), bare("b", false)}, m{"a": "b", "b": "a"}, []int{1, 0}, nil, ""},
		{"stands already", []dr.Disk{disk("a", false)}, []slot{named("x", "a"), bare("y", false)}, nil, []int{0}, nil, ""},
		{"said again", []dr.Disk{disk("a", false)}, []slot{named("x", "a"), bare("y", false)}, m{"a": "x"}, []int{0}, nil, ""},
		{"not given up", []dr.Disk{disk("a", false)}, []slot{own("x")}, nil, nil, dr.ErrInvalid, "no disk a"},
		{"not given up, but said", []dr.Disk{disk("a", false)}, []slot{own("x")}, m{"a": "x"}, nil, dr.ErrInvalid, "not given up"},
		{"said of nothing", []dr.Disk{disk("a", false)}, []slot{bare("x", false)}, m{"a": "z"}, nil, dr.ErrInvalid, "here are x"},
		{"said of nobody's", []dr.Disk{disk("a", false)}, []slot{bare("x", false)}, m{"b": "x"}, nil, dr.ErrInvalid, "the source has a"},
		{"one for two", []dr.Disk{disk("a", false), disk("b", false)}, []slot{bare("x", false)}, m{"a": "x", "b": "x"}, nil, dr.ErrInvalid, "two of the source's"},
		{"too few", []dr.Disk{disk("a", false), disk("b", false)}, []slot{bare("x", false)}, nil, nil, dr.ErrInvalid, "it has x"},
	} {
		at, err := place(c.want, c.have, c.explicit)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, c.name)
			require.ErrorContains(t, err, c.says, c.name)
			continue
		}
		require.NoError(t, err, c.name)
		require.Equal(t, c.at, at, c.name)
	}
}

// givenUp makes an image file that is given up.
func givenUp(t *testing.T, dir, name string, size int64) Disk {
	path := filepath.Join(dir, name)
	require.NoError(t, errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)))
	return Disk{ID: dr.DiskID(name), Path: path, GivenUp: true}
}

// A machine that was rebuilt with other, larger disks takes the place of the
// one that was: its disks get the IDs of those that they stand for, for good.
func TestRebuiltMachineTakesTheOriginalsPlace(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	x, y := givenUp(t, dir, "x", 8<<20), givenUp(t, dir, "y", 4<<20)
	x.Boot = true
	cfg := Config{Root: root, Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{x, y}}}}
	h, err := Open(cfg)
	require.NoError(t, err)
	want := dr.Machine{ID: "src", Disks: []dr.Disk{{ID: "os", Size: 6 << 20, Boot: true}, {ID: "data", Size: 4 << 20}}}
	p := backend.Placement{Original: "m", Machine: want}

	// Never smaller.
	small := p
	small.Machine.Disks = []dr.Disk{{ID: "os", Size: 6 << 20, Boot: true}, {ID: "data", Size: 5 << 20}}
	_, err = h.Prepare(t.Context(), small)
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.ErrorContains(t, err, "4194304")
	require.ErrorContains(t, err, "5242880")

	r, err := h.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.True(t, r.Torn, "nobody has copied to it")
	again, err := h.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, r, again)
	d, err := h.Draft(t.Context(), "m", dr.Point{ID: "p", Machine: want})
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "os", []byte("the system"), 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p"}))
	require.NoError(t, d.Close())
	b, err := os.ReadFile(x.Path)
	require.NoError(t, err)
	require.Equal(t, "the system", string(b[:10]))
	require.NoError(t, h.Close())

	// The word may be taken out again; what stands for what stays, and so does
	// that they may be larger.
	cfg.Machines[0].Disks[0].GivenUp, cfg.Machines[0].Disks[1].GivenUp = false, false
	h, err = Open(cfg)
	require.NoError(t, err)
	defer h.Close()
	r, err = h.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: "m", Holds: "p"}, r)
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.EqualValues(t, "os", m.Disks[0].ID)
	require.EqualValues(t, 8<<20, m.Disks[0].Size)
	require.EqualValues(t, "data", m.Disks[1].ID)
	require.NoError(t, h.Start(t.Context(), "m"))
}

// A machine that runs from a disk which is still given up is told of.
func TestWordThatWasLeftIsTold(t *testing.T) {
	x := givenUp(t, t.TempDir(), "x", 1<<20)
	h, err := Open(Config{Root: t.TempDir(), Tracker: NewBitmapTracker(0), Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{x}}}})
	require.NoError(t, err)
	defer h.Close()
	told := func() (n int) {
		list, err := h.Preflight(t.Context(), "m")
		require.NoError(t, err)
		for _, p := range list {
			require.False(t, p.Blocker)
			if p.Code == "given-up" {
				n++
			}
		}
		return n
	}
	require.Zero(t, told())
	require.NoError(t, h.Start(t.Context(), "m"))
	require.Equal(t, 1, told())
}

func TestOptionsOfAPlacement(t *testing.T) {
	dir := t.TempDir()
	x, y := givenUp(t, dir, "x", 1<<20), givenUp(t, dir, "y", 1<<20)
	h, err := Open(Config{Root: t.TempDir(), Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{x, y}}}})
	require.NoError(t, err)
	defer h.Close()
	p := backend.Placement{Original: "m", Machine: dr.Machine{ID: "src", Disks: []dr.Disk{{ID: "a", Size: 1 << 20}}}}
	_, err = h.Prepare(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrAmbiguous)
	for _, bad := range []string{`{"disk": {}}`, `[]`, `{"disks": {"a": 1}}`, `{} {}`} {
		p.Options = json.RawMessage(bad)
		_, err = h.Prepare(t.Context(), p)
		require.ErrorIs(t, err, dr.ErrInvalid, bad)
	}
	p.Options = json.RawMessage(`{"disks": {"a": "y"}}`)
	_, err = h.Prepare(t.Context(), p)
	require.NoError(t, err)
	paths, err := h.Paths("m")
	require.NoError(t, err)
	require.Equal(t, []string{x.Path, y.Path}, paths)
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.EqualValues(t, "a", m.Disks[1].ID)
	p.Original, p.Key = "", "k"
	_, err = h.Prepare(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrInvalid, "a replica's disks are made")
}

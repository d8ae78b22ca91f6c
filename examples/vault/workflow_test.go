package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// change writes to some places of content and returns the list of them.
func change(r *rand.Rand, content []byte) string {
	var list strings.Builder
	for range 1 + r.IntN(12) {
		off := r.IntN(len(content))
		n := min(len(content)-off, 1+r.IntN(200<<10))
		scribble(r, content[off:off+n])
		fmt.Fprintf(&list, "%d %d\n", off, n)
	}
	return list.String()
}

func TestPointsComeOutAsTheyWentIn(t *testing.T) {
	r := random(t)
	for _, c := range []struct {
		name string
		size int
		args []string
	}{
		{"whole", 5 << 20, nil},
		{"ragged", 3<<20 + 64<<10 + 512, nil},
		{"tiny", 512, nil},
		{"odd", 777, nil},
		{"empty", 0, nil},
		{"s2", 2<<20 + 512, []string{"--compress", "s2"}},
		{"none", 2<<20 + 512, []string{"--compress", "none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			store, image, list := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "list")
			content := picture(r, c.size)
			base := append([]string{"add", "--store", store, "--machine", "m"}, c.args...)
			want := map[string][]byte{}
			for round := range 5 {
				args := base
				if round > 0 && c.size > 0 {
					changes := change(r, content)
					if round%2 == 1 {
						require.NoError(t, os.WriteFile(list, []byte("# changed\n\n"+changes), 0o600))
						args = append(args, "--changed", list)
					}
				}
				write(t, image, content)
				want[id(t, ok(t, append(args, image)...))] = bytes.Clone(content)
			}
			require.Len(t, want, 5)
			for point, content := range want {
				equal(t, content, exported(t, store, "m", point))
			}
			equal(t, content, exported(t, store, "m", "latest"))
			require.Equal(t, "no damage: 5 points of 1 machine\n", ok(t, "verify", "--store", store))
		})
	}
}

var summary = regexp.MustCompile(`^\S+Z: 1 disk, (.+): read (.+), changed (.+), \d+\.\d s\n$`)

func TestOnlyWhatTheListNamesIsRead(t *testing.T) {
	dir := t.TempDir()
	store, image, list := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "list")
	content := make([]byte, 8<<20)
	noise(random(t), content)
	write(t, image, content)
	add := func(args ...string) []string {
		t.Helper()
		out := ok(t, append([]string{"add", "--store", store, "--machine", "m"}, args...)...)
		require.Regexp(t, summary, out)
		return summary.FindStringSubmatch(out)[1:]
	}
	require.Equal(t, []string{"8.0 MiB", "8.0 MiB", "8.0 MiB"}, add(image))
	// Of three changes the list keeps one back.
	old := bytes.Clone(content)
	for _, off := range []int{100, 1 << 20, 5<<20 + 3} {
		content[off] ^= 1
	}
	write(t, image, content)
	require.NoError(t, os.WriteFile(list, []byte("1048576 1\n100 1\n"), 0o600))
	require.Equal(t, []string{"8.0 MiB", "128.0 KiB", "128.0 KiB"}, add("--changed", list, image))
	old[100], old[1<<20] = content[100], content[1<<20]
	equal(t, old, exported(t, store, "m", "latest"))
	// Comparing finds it.
	require.Equal(t, []string{"8.0 MiB", "8.0 MiB", "64.0 KiB"}, add(image))
	equal(t, content, exported(t, store, "m", "latest"))
	require.Equal(t, []string{"8.0 MiB", "8.0 MiB", "0 B"}, add(image))
	// An empty list is a point without changes.
	require.NoError(t, os.WriteFile(list, nil, 0o600))
	require.Equal(t, []string{"8.0 MiB", "0 B", "0 B"}, add("--changed", list, image))
}

func TestFirstPointReadsAllWhateverTheListSays(t *testing.T) {
	dir := t.TempDir()
	store, image, list := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "list")
	content := picture(random(t), 2<<20)
	write(t, image, content)
	require.NoError(t, os.WriteFile(list, []byte("0 512\n"), 0o600))
	r := run(t, "add", "--store", store, "--machine", "m", "--changed", list, image)
	require.Equal(t, 0, r.code, r.errors)
	require.Equal(t, "vault: note: machine m has no point yet: all is read, whatever --changed says\n", r.errors)
	equal(t, content, exported(t, store, "m", "latest"))
}

func TestDisksGrowShrinkComeAndGo(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	store, list := filepath.Join(dir, "store"), filepath.Join(dir, "list")
	file := func(name string) string { return filepath.Join(dir, name) }
	disks := map[string][]byte{}
	args := func(extra ...string) []string {
		a := append([]string{"add", "--store", store, "--machine", "m"}, extra...)
		for _, name := range []string{"a", "b", "c"} {
			if content, there := disks[name]; there {
				write(t, file(name), content)
				a = append(a, file(name))
			}
		}
		return a
	}
	check := func() {
		t.Helper()
		out := filepath.Join(t.TempDir(), "new") + "/"
		ok(t, "export", "--store", store, "--machine", "m", out)
		entries, err := os.ReadDir(out)
		require.NoError(t, err)
		require.Len(t, entries, len(disks))
		for name, content := range disks {
			equalFile(t, content, filepath.Join(out, name))
		}
	}
	disks["a"], disks["b"] = picture(r, 1<<20+512), picture(r, 300<<10)
	ok(t, args()...)
	check()
	// a grows, b shrinks, and the list knows of one change.
	disks["a"] = append(disks["a"], picture(r, 700<<10+512)...)
	disks["b"] = disks["b"][:100<<10]
	disks["a"][5] ^= 1
	require.NoError(t, os.WriteFile(list, []byte("a 5 1\n"), 0o600))
	ok(t, args("--changed", list)...)
	check()
	// c comes, and isn't in the list.
	disks["c"] = picture(r, 200<<10)
	require.NoError(t, os.WriteFile(list, nil, 0o600))
	res := run(t, args("--changed", list)...)
	require.Equal(t, 0, res.code, res.errors)
	require.Equal(t, "vault: note: disk c isn't in the last point: all of it is read\n", res.errors)
	check()
	delete(disks, "a")
	res = run(t, args()...)
	require.Equal(t, 0, res.code, res.errors)
	require.Equal(t, "vault: note: disk a of the last point isn't in this one\n", res.errors)
	check()

	out := file("one")
	ok(t, "export", "--store", store, "--machine", "m", "--disk", "c", out)
	equalFile(t, disks["c"], out)
	fails(t, 2, "the point has 2 disks (b, c): pick one with --disk, or let OUT be a folder", "export", "--store", store, "--machine", "m", out)
	fails(t, 1, "not found: point "+last(t, store).ID+" has no disk d, but b, c", "export", "--store", store, "--machine", "m", "--disk", "d", out)
}

type pointJSON struct {
	Machine, ID, Consistency, Parent string
	Time                             time.Time
	Disks                            []struct {
		ID   string
		Size int64
	}
}

func list(t testing.TB, store string, args ...string) (points []pointJSON) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(ok(t, append([]string{"ls", "--json", "--store", store}, args...)...)))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&points))
	return points
}

func last(t testing.TB, store string) pointJSON {
	t.Helper()
	points := list(t, store)
	require.NotEmpty(t, points)
	return points[len(points)-1]
}

func TestLs(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	write(t, filepath.Join(dir, "x"), make([]byte, 1024))
	ok(t, "add", "--store", store, "--machine", "b", filepath.Join(dir, "x"))
	first := ok(t, "add", "--store", store, "--machine", "a", "boot="+filepath.Join(dir, "x"), "data="+filepath.Join(dir, "x"))
	second := ok(t, "add", "--machine", "a", "boot="+filepath.Join(dir, "x"), "--store="+store, "data="+filepath.Join(dir, "x"))

	points := list(t, store)
	require.Len(t, points, 3)
	require.Equal(t, "a", points[0].Machine)
	require.Equal(t, id(t, first), points[0].ID)
	require.Equal(t, id(t, second), points[1].ID)
	require.Equal(t, points[0].ID, points[1].Parent)
	require.Equal(t, "crash", points[1].Consistency)
	require.Equal(t, "boot", points[1].Disks[0].ID)
	require.EqualValues(t, 1024, points[1].Disks[1].Size)
	require.WithinDuration(t, time.Now(), points[1].Time, time.Minute)
	require.Equal(t, points[2:], list(t, store, "--machine", "b"))

	text := strings.Split(ok(t, "ls", "--store", store), "\n")
	require.Equal(t, []string{"MACHINE", "POINT", "TIME", "CONSISTENCY", "DISKS", "SIZE"}, strings.Fields(text[0]))
	require.Regexp(t, `^a +`+points[0].ID+` +\S+ \S+ +crash +2 +2\.0 KiB$`, text[1])
	require.Len(t, text, 5)
	fails(t, 1, "machine c: no such recovery point: the store knows a, b", "ls", "--store", store, "--machine", "c")
}

func TestExportReplacesAFileOnlyByAWholeOne(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	store, image, out := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "out")
	content := picture(r, 3<<20+512)
	clear(content[1<<20 : 2<<20])
	write(t, image, content)
	ok(t, "add", "--store", store, "--machine", "m", image)

	old := bytes.Repeat([]byte{0xee}, 4<<20)
	require.NoError(t, os.WriteFile(out, old, 0o640))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(out, link))
	ok(t, "export", "--store", store, "--machine", "m", link)
	equalFile(t, content, out)
	info, err := os.Stat(out)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	info, err = os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink)

	require.NoError(t, os.WriteFile(out, old, 0o640))
	damage(t, store, 0)
	require.Equal(t, 1, run(t, "export", "--store", store, "--machine", "m", out).code)
	equalFile(t, old, out)
	require.NoFileExists(t, out+".partial")
}

func TestPruneKeepsTheNewest(t *testing.T) {
	r := random(t)
	store := filepath.Join(t.TempDir(), "store")
	now := time.Now()
	content := make([]byte, 1<<20)
	for _, m := range []string{"a", "b"} {
		for day := 40; day >= 20; day -= 10 {
			noise(r, content)
			put(t, store, m, now.AddDate(0, 0, -day).Add(time.Minute), content)
		}
	}
	all := list(t, store)
	require.Len(t, all, 6)
	want := "would delete a " + all[0].ID + "\n"
	require.Equal(t, want, ok(t, "prune", "--store", store, "--keep", "30d", "--machine", "a", "--dry-run"))
	require.Equal(t, all, list(t, store))
	out := ok(t, "prune", "--store", store, "--keep", "30d")
	require.Regexp(t, `^deleted a `+all[0].ID+"\ndeleted b "+all[3].ID+"\n"+`freed 2\d{6} bytes \(2\.\d MiB\)\n$`, out)
	require.Equal(t, []pointJSON{all[1], all[2], all[4], all[5]}, list(t, store))
	ok(t, "prune", "--store", store, "--keep", "1h")
	require.Equal(t, []pointJSON{all[2], all[5]}, list(t, store))
	equal(t, content, exported(t, store, "b", "latest"))
	require.Equal(t, "freed 0 bytes (0 B)\n", ok(t, "prune", "--store", store, "--keep", "1h"))
}

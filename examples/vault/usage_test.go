package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHelpSaysEverything(t *testing.T) {
	text := ok(t, "--help")
	require.Equal(t, text, ok(t, "help"))
	r := run(t)
	require.Equal(t, result{2, "", text + "vault: a command is missing\n"}, r)
	for _, c := range commands {
		require.Contains(t, text, "\n  "+c.name+" ")
		require.Contains(t, text, c.brief)
		help := ok(t, c.name, "--help")
		require.Equal(t, help, ok(t, c.name, "-h"))
		require.Equal(t, help, ok(t, "help", c.name))
		require.Equal(t, c.help, help)
		require.True(t, strings.HasPrefix(help, "Usage: vault "+c.name+" --store DIR"))
		fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
		c.setup(fs)
		fs.VisitAll(func(f *flag.Flag) {
			require.Regexp(t, `(\n  |, )--`+f.Name+`\b`, help, "vault %s --help explains --%s", c.name, f.Name)
		})
		for line := range strings.SplitSeq(help+text, "\n") {
			require.LessOrEqual(t, len(line), 80, line)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "none")
	image := filepath.Join(dir, "disk.img")
	write(t, image, make([]byte, 1<<20))
	for _, c := range []struct{ args, line string }{
		{"frobnicate", `there is no command "frobnicate"; see vault --help`},
		{"add", "--store and --machine must be given; see vault add --help"},
		{"add --store STORE", "--machine must be given; see vault add --help"},
		{"add --store STORE --machine m", "which images? See vault add --help"},
		{"add --store STORE --machine a/b IMAGE", `invalid: machine "a/b": only letters, digits, '-', '_' and '.' are allowed`},
		{"add --store STORE --machine m --compress best IMAGE", "--compress best: want zstd, s2 or none"},
		{"add --store STORE --machine m IMAGE IMAGE", "IMAGE and IMAGE would both be disk disk.img: name them, as in sda=IMAGE"},
		{"add --store STORE --machine m --frob IMAGE", "flag provided but not defined: -frob; see vault add --help"},
		{"ls", "--store must be given; see vault ls --help"},
		{"ls --store STORE more", "ls takes no arguments; see vault ls --help"},
		{"export --store STORE --machine m", "want one OUT, not 0; see vault export --help"},
		{"export --store STORE --machine m a b", "want one OUT, not 2; see vault export --help"},
		{"prune --store STORE", "--keep must be given; see vault prune --help"},
		{"prune --store STORE --keep 5", `invalid value "5" for flag -keep: "5" is no duration above zero, as 30d, 72h or 1w12h; see vault prune --help`},
		{"serve --store STORE --machine m", "--listen must be given; see vault serve --help"},
	} {
		in := strings.NewReplacer("STORE", store, "IMAGE", image).Replace
		fails(t, 2, in(c.line), strings.Fields(in(c.args))...)
	}
	for _, args := range []string{"ls", "verify", "export --machine m OUT", "prune --keep 1d", "serve --machine m --listen unix:S"} {
		fails(t, 10, "there is no store in "+store+": check --store; vault add makes one", append(strings.Fields(args), "--store", store)...)
	}
	require.NoDirExists(t, store)
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	store, image := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img")
	write(t, image, make([]byte, 1<<20))
	ok(t, "add", "--store", store, "--machine", "m", image)
	fails(t, 1, "machine x: no such recovery point: the store knows m", "export", "--store", store, "--machine", "x", filepath.Join(dir, "out"))
	r := run(t, "export", "--store", store, "--machine", "m", "--point", "p", filepath.Join(dir, "out"))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errors, "machine m, point p: not found")
	fails(t, 1, "stat "+image+"2: no such file or directory", "add", "--store", store, "--machine", "m", image+"2")
	fails(t, 1, dir+" is neither a raw image file nor a block device", "add", "--store", store, "--machine", "m", dir)
	fails(t, 1, "/dev/null is neither a file nor a block device: it can't be written to", "export", "--store", store, "--machine", "m", "/dev/null")
	fails(t, 2, "--listen nowhere: want unix:PATH or HOST:PORT", "serve", "--store", store, "--machine", "m", "--listen", "nowhere")
	require.Len(t, list(t, store), 1)

	// Two images of one name; a path with '=' in its folder.
	other := filepath.Join(dir, "a=b")
	require.NoError(t, os.Mkdir(other, 0o700))
	write(t, filepath.Join(other, "disk.img"), make([]byte, 512))
	ok(t, "add", "--store", store, "--machine", "n", filepath.Join(other, "disk.img"))
	require.Equal(t, "disk.img", last(t, store).Disks[0].ID)
	ok(t, "add", "--store", store, "--machine", "o", "sda="+image, "sdb="+filepath.Join(other, "disk.img"))
	require.Equal(t, "sdb", last(t, store).Disks[1].ID)
	// Options end at "--".
	fails(t, 1, "stat --machine: no such file or directory", "add", "--store", store, "--machine", "m", "--", "--machine")
}

func TestBadChangeLists(t *testing.T) {
	dir := t.TempDir()
	store, a, b := filepath.Join(dir, "store"), filepath.Join(dir, "a"), filepath.Join(dir, "b c")
	write(t, a, make([]byte, 1<<20))
	write(t, b, make([]byte, 1000))
	file := filepath.Join(dir, "list")
	for _, c := range []struct {
		list, want string
		images     []string
	}{
		{"0 512\nx 5\n", `line 2: invalid: "x" is not a number of bytes`, []string{a}},
		{"0\n", `line 1: invalid: "0": want OFFSET LENGTH`, []string{a}},
		{"# one\n\n0 1048577\n", "line 3: beyond the end of the disk: 1048577 bytes at 0: disk a has 1048576 bytes", []string{a}},
		{"1048577 0\n", "line 1: beyond the end of the disk: 0 bytes at 1048577: disk a has 1048576 bytes", []string{a}},
		{"9223372036854775807 9223372036854775807\n", "line 1: beyond the end of the disk: 9223372036854775807 bytes at 9223372036854775807: disk a has 1048576 bytes", []string{a}},
		{"0 9223372036854775808\n", `line 1: invalid: "9223372036854775808" is not a number of bytes`, []string{a}},
		{"-1 5\n", `line 1: invalid: "-1" is not a number of bytes`, []string{a}},
		{"0 512 512\n", `line 1: invalid: there is no disk "0"`, []string{a}},
		{"0 512\n", `line 1: invalid: "0 512": want DISK OFFSET LENGTH, as there are several disks`, []string{a, b}},
		{"a 0 5\nb c 900 101\n", "line 2: beyond the end of the disk: 101 bytes at 900: disk b c has 1000 bytes", []string{a, b}},
		{"a 0 5\nb 900 101\n", `line 2: invalid: there is no disk "b"`, []string{a, b}},
	} {
		require.NoError(t, os.WriteFile(file, []byte(c.list), 0o600))
		fails(t, 1, file+", "+c.want, append([]string{"add", "--store", store, "--machine", "m", "--changed", file}, c.images...)...)
	}
	require.NoDirExists(t, store, "nothing was made")
	require.NoError(t, os.WriteFile(file, []byte("b c 10 10\na 0 0\na 1048576 0"), 0o600))
	require.Equal(t, 0, run(t, "add", "--store", store, "--machine", "m", "--changed", file, a, b).code)
}

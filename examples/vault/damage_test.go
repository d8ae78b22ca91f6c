package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// segments are the files that hold data, in the order of their writing.
func segments(t testing.TB, store string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(store, "seg", "*", "*"))
	require.NoError(t, err)
	return files
}

// damage flips a bit in the middle of the largest segment: in chunks.
func damage(t testing.TB, store string, shift int64) string {
	t.Helper()
	var file string
	var size int64
	for _, name := range segments(t, store) {
		info, err := os.Stat(name)
		require.NoError(t, err)
		if info.Size() > size {
			file, size = name, info.Size()
		}
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], size/2+shift)
	require.NoError(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], size/2+shift)
	require.NoError(t, err)
	return strings.TrimPrefix(file, store+"/")
}

func TestVerifyNamesWhatIsDamaged(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	store, image := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img")
	content := make([]byte, 5<<20)
	noise(r, content)
	write(t, image, content[:4<<20])
	first := id(t, ok(t, "add", "--store", store, "--machine", "m", image))
	// The disk has grown and nothing else: whatever chunk of the first is
	// damaged, the second has it too.
	write(t, image, content)
	second := id(t, ok(t, "add", "--store", store, "--machine", "m", image))
	noise(r, content)
	write(t, image, content[:1<<20])
	third := id(t, ok(t, "add", "--store", store, "--machine", "m", image))

	object := damage(t, store, 0)
	res := run(t, "verify", "--store", store)
	require.Equal(t, 3, res.code)
	require.Equal(t, "vault: damage was found: 2 points are damaged\n", res.errors)
	lines := strings.Split(strings.TrimSuffix(res.out, "\n"), "\n")
	require.Len(t, lines, 2, res.out)
	for i, point := range []string{first, second} {
		require.Regexp(t, `^damaged: machine m, point `+point+`, disk disk\.img, bytes \d+-\d+: `+object+`: .*corrupt`, lines[i])
	}
	// What isn't named is whole; what is named says why it isn't.
	equal(t, content[:1<<20], exported(t, store, "m", third))
	out := filepath.Join(dir, "out")
	res = run(t, "export", "--store", store, "--machine", "m", "--point", first, out)
	require.Equal(t, 1, res.code)
	require.Regexp(t, `machine m, point `+first+`, disk disk\.img at \d+: corrupt: object `+object, res.errors)
	require.NoFileExists(t, out)
}

func TestVerifyFindsWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	store, image := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img")
	content := make([]byte, 1<<20)
	noise(random(t), content)
	write(t, image, content)
	point := id(t, ok(t, "add", "--store", store, "--machine", "m", image))
	for _, name := range segments(t, store) {
		require.NoError(t, os.Remove(name))
	}
	res := run(t, "verify", "--store", store)
	require.Equal(t, 3, res.code, res.errors)
	require.Contains(t, res.out, "machine m, point "+point)
}

func TestPassphrase(t *testing.T) {
	dir := t.TempDir()
	store, image, out := filepath.Join(dir, "store"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "out")
	right, wrong, empty := filepath.Join(dir, "right"), filepath.Join(dir, "wrong"), filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(right, []byte("correct horse\n"), 0o600))
	require.NoError(t, os.WriteFile(wrong, []byte("battery staple\n"), 0o600))
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	content := bytes.Repeat([]byte("a secret that must not be seen. "), 64<<10)
	write(t, image, content)
	ok(t, "add", "--store", store, "--passphrase-file", right, "--machine", "m", image)
	require.NoError(t, filepath.Walk(store, func(path string, info os.FileInfo, err error) error {
		require.NoError(t, err)
		if !info.IsDir() {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NotContains(t, string(b), "secret", path)
		}
		return nil
	}))
	ok(t, "export", "--store", store, "--passphrase-file", right, "--machine", "m", out)
	equalFile(t, content, out)

	in := func(env ...string) result {
		c := start(t, "ls", "--store", store)
		c.Env = append(c.Env, env...)
		return end(t, c)
	}
	require.Equal(t, 0, in(envFile+"="+right).code)
	require.Equal(t, 0, in(envPhrase+"=correct horse").code)
	require.Equal(t, 0, in(envFile+"="+right, envPhrase+"=wrong").code, "files count first")
	require.Equal(t, result{12, "", "vault: store " + store + ": open vault on store: invalid: the vault can't be opened with this key: wrong passphrase\n"}, in(envPhrase+"=x"))
	require.Equal(t, result{2, "", "vault: $LIFEBOAT_PASSPHRASE is set and empty: unset it for a store without a passphrase\n"}, in(envPhrase+"="))
	require.Equal(t, 12, run(t, "ls", "--store", store, "--passphrase-file", wrong).code)
	fails(t, 12, "store "+store+" is encrypted: give its passphrase with --passphrase-file or $LIFEBOAT_PASSPHRASE_FILE: invalid: the vault can't be opened with this key",
		"ls", "--store", store)
	fails(t, 1, "read the passphrase: read "+empty+": the file is empty", "ls", "--store", store, "--passphrase-file", empty)

	plain := filepath.Join(dir, "plain")
	ok(t, "add", "--store", plain, "--machine", "m", image)
	require.Equal(t, 12, run(t, "add", "--store", plain, "--passphrase-file", right, "--machine", "m", image).code)
}

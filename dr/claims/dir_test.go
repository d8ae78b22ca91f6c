package claims

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// late is a file system whose links are held up.
type late struct {
	fsys.FS
	before func() error
}

func (l *late) Link(from, to string) error {
	if do := l.before; do != nil {
		l.before = nil
		if err := do(); err != nil {
			return err
		}
	}
	return l.FS.Link(from, to)
}

// TestStoodStill: a process that stands still just before it links, and whose
// number was passed and removed meanwhile, holds nothing when it wakes.
func TestStoodStill(t *testing.T) {
	disk := crashfs.New(1)
	slow := &late{FS: disk}
	a, b := newDir(slow, "/c", Options{}), newDir(disk, "/c", Options{})
	_, err := a.Acquire(t.Context(), "m", "first")
	require.NoError(t, err)
	require.NoError(t, a.Release(t.Context(), "m", "first"))
	links := 0
	slow.before = func() error {
		for _, owner := range []string{"x", "y", "z"} {
			_, err := b.Acquire(t.Context(), "m", owner)
			require.NoError(t, err)
			if owner != "z" {
				require.NoError(t, b.Release(t.Context(), "m", owner))
			}
		}
		// Its own new file went with what was tidied up; it had another handle
		// on it, as a hung request would.
		links++
		entries, err := disk.ReadDir("/c/of-m")
		require.NoError(t, err)
		require.Len(t, entries, 1)
		f, err := disk.OpenFile("/c/of-m/revived", os.O_CREATE|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		return disk.Link("/c/of-m/revived", "/c/of-m/"+fileName(3))
	}
	_, err = a.Acquire(t.Context(), "m", "late")
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "held by z")
	require.Equal(t, 1, links)
}

// TestPassedNumber: a swap to a number that is free because it was passed fails.
func TestPassedNumber(t *testing.T) {
	disk := crashfs.New(1)
	d := dirAt(disk, "/c")
	v1, err := d.SwapHead(t.Context(), "claims/of-m", "", []byte("1"))
	require.NoError(t, err)
	v := v1
	for range 3 {
		v, err = d.SwapHead(t.Context(), "claims/of-m", v, []byte("2"))
		require.NoError(t, err)
	}
	_, err = disk.Stat("/c/of-m/" + fileName(2))
	require.Error(t, err, "it was removed")
	_, err = d.SwapHead(t.Context(), "claims/of-m", v1, []byte("late"))
	require.ErrorIs(t, err, dr.ErrConflict)
	_, now, err := d.ReadHead(t.Context(), "claims/of-m")
	require.NoError(t, err)
	require.Equal(t, v, now)
}

func TestWithoutHardLinks(t *testing.T) {
	_, err := newDir(noLink{crashfs.New(1)}, "/c", Options{}).Acquire(t.Context(), "m", "me")
	require.ErrorIs(t, err, dr.ErrUnsupported)
	require.ErrorContains(t, err, "database")
}

type noLink struct{ fsys.FS }

func (noLink) Link(from, to string) error {
	return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EOPNOTSUPP}
}

// TestDamagedClaims: what is not a claim is told by its name, and only that
// claim is out of use until it is repaired.
func TestDamagedClaims(t *testing.T) {
	good := `{"format":"lifeboat-claim/1","resource":"m","epoch":3333333333,"since":"2026-01-02T03:04:05Z","nonce":"x"}`
	for name, c := range map[string]struct {
		content string
		want    error
	}{
		"empty":            {"", dr.ErrCorrupt},
		"cut":              {good[:40], dr.ErrCorrupt},
		"another's":        {strings.Replace(good, `"m"`, `"n"`, 1), dr.ErrCorrupt},
		"no epoch":         {strings.Replace(good, "3333333333", "0", 1), dr.ErrCorrupt},
		"a negative epoch": {strings.Replace(good, "3333333333", "-3", 1), dr.ErrCorrupt},
		"the last epoch":   {strings.Replace(good, "3333333333", "9223372036854775807", 1), dr.ErrCorrupt},
		"two":              {good + good, dr.ErrCorrupt},
		"long":             {good + strings.Repeat(" ", maxRecord), dr.ErrCorrupt},
		"no format":        {`{"resource":"m","epoch":3,"nonce":"x"}`, dr.ErrCorrupt},
		"a later format":   {strings.Replace(good, "claim/1", "claim/2", 1), dr.ErrUnsupported},
		"fine":             {good, nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(root, "of-m"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(root, "of-m", fileName(7)), []byte(c.content), 0o600))
			claims := NewDir(root, Options{})
			_, err := claims.Acquire(t.Context(), "other", "me")
			require.NoError(t, err)
			epoch, err := claims.Acquire(t.Context(), "m", "me")
			listed := 0
			var listErr error
			for _, err := range claims.Claims(t.Context()) {
				if listErr = err; err == nil {
					listed++
				}
			}
			if c.want == nil {
				require.NoError(t, errors.Join(err, listErr))
				require.Equal(t, 2, listed)
				require.Equal(t, uint64(3333333334), epoch)
				require.ErrorIs(t, claims.Repair(t.Context(), "m", far), dr.ErrNotAllowed)
				return
			}
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, listErr, c.want)
			require.ErrorContains(t, err, "of-m")
			require.Equal(t, 1, listed, "the others are listed")
			require.ErrorIs(t, claims.Repair(t.Context(), "m", 0), dr.ErrInvalid, "that would be none, either")
			err = claims.Repair(t.Context(), "m", far)
			if c.want == dr.ErrUnsupported {
				require.ErrorIs(t, err, dr.ErrNotAllowed)
				return
			}
			require.NoError(t, err)
			epoch, err = claims.Acquire(t.Context(), "m", "me")
			require.NoError(t, err)
			require.Equal(t, far+1, epoch)
		})
	}
	require.ErrorIs(t, NewDir(t.TempDir(), Options{}).Repair(t.Context(), "m", 1), dr.ErrNotAllowed, "there is none")
}

// TestForeignFilesInTheFolder are passed over.
func TestForeignFilesInTheFolder(t *testing.T) {
	root := t.TempDir()
	c := NewDir(root, Options{})
	_, err := c.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	for _, name := range []string{"of-m/readme", "of-m/00000000000000000009", "of-m/99999999999999999999.json", "of-m/9.json", "notes", "of-m/.nfs0001"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte("x"), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(root, "lost+found"), 0o700))
	_, err = c.Acquire(t.Context(), "m", "you")
	require.ErrorContains(t, err, "held by me")
	require.NoError(t, c.Release(t.Context(), "m", "me"))
	for _, err := range c.Claims(t.Context()) {
		require.NoError(t, err)
	}
	require.FileExists(t, filepath.Join(root, "of-m", "readme"))
}

func TestObjectNames(t *testing.T) {
	seen := map[string]string{}
	for _, r := range []string{"a", "A", "con", "protection/web-01", "protection_2fweb-01", "protection%2fweb-01", ".", "..", "a/../b", "ä", "a b", "_", "__", strings.Repeat("a", 5000), strings.Repeat("a", 5001), strings.Repeat("A", 60), strings.Repeat("A", 61)} {
		name := objectName(r)
		require.LessOrEqual(t, len(name), 217)
		require.Empty(t, strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_"), name)
		require.Empty(t, seen[name], "%q and %q", r, seen[name])
		seen[name] = r
	}
	require.Equal(t, "of-protection_2fweb-01", objectName("protection/web-01"))
}

// FuzzParse: a claim, or an error; what is parsed can be written and is parsed
// again to the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"format":"lifeboat-claim/1","resource":"m","epoch":3,"owner":"r@j","since":"2026-01-02T03:04:05Z","nonce":"x"}`))
	f.Add([]byte(`{"format":"lifeboat-claim/2"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse("claims/of-m", "", data)
		if err != nil {
			if !errors.Is(err, dr.ErrCorrupt) && !errors.Is(err, dr.ErrUnsupported) {
				t.Fatalf("%v", err)
			}
			return
		}
		if r.Resource != "m" || r.Epoch == 0 || r.Epoch+1 == 0 {
			t.Fatalf("%+v", r)
		}
		was := *r
		if err := r.give("me", r.Epoch+1); err != nil {
			return
		}
		if data, err = r.encode(was.Since); err != nil {
			t.Fatal(err)
		}
		again, err := parse("claims/of-m", "m", data)
		if err != nil || again.Epoch != was.Epoch+1 || again.Owner != "me" {
			t.Fatalf("%+v: %v", again, err)
		}
	})
}

package embedded

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestOnlyItsOwnerReadsTheFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no modes")
	}
	e := open(t, journal(t), Options{})
	require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "g", Gate: "?"})))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		fi, err := os.Stat(e.path + suffix)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode().Perm(), "journal%s", suffix)
	}
	require.NoError(t, e.Close())
	require.NoError(t, os.Chmod(e.path, 0o640))
	e = open(t, e.path, Options{})
	fi, err := os.Stat(e.path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), fi.Mode().Perm(), "what somebody has set stays")
}

// TestSettings: the promise that what is acknowledged survives a loss of power
// rests on these two.
func TestSettings(t *testing.T) {
	e := open(t, journal(t), Options{})
	var mode string
	var synchronous int
	require.NoError(t, e.w.row(`PRAGMA journal_mode`).Scan(&mode))
	require.NoError(t, e.w.row(`PRAGMA synchronous`).Scan(&synchronous))
	require.Equal(t, "wal", mode)
	require.Equal(t, 2, synchronous, "FULL")
}

func TestOneFileUnderTwoNames(t *testing.T) {
	e := open(t, journal(t), Options{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(e.path, link); err != nil {
		t.Skip(err)
	}
	_, err := Open(link, Options{})
	require.ErrorIs(t, err, dr.ErrBusy)
	_, err = e.Acquire(t.Context(), "m", "me")
	require.NoError(t, err, "the first is not fenced")
}

// TestDamage: a file that is damaged, cut off or none of ours is named as
// such, and left as it is.
func TestDamage(t *testing.T) {
	path := journal(t)
	e := open(t, path, Options{})
	for i := range 50 {
		require.NoError(t, e.Start(t.Context(), dr.RunID(fmt.Sprint("r", i)), chain(10)))
	}
	require.NoError(t, e.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	foreign := journal(t)
	db, err := sql.Open("sqlite", foreign)
	require.NoError(t, err)
	_, err = db.Exec(`CREATE TABLE customer(name TEXT)`)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	other, err := os.ReadFile(foreign)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		content []byte
		want    error
	}{
		"another database":  {other, dr.ErrInvalid},
		"no database":       {bytes.Repeat([]byte("all work and no play "), 1000), dr.ErrCorrupt},
		"a cut header":      {whole[:50], dr.ErrCorrupt},
		"cut in the middle": {whole[:len(whole)/2/4096*4096], dr.ErrCorrupt},
		"a zeroed page":     {bytes.Join([][]byte{whole[:4096], make([]byte, 4096), whole[2*4096:]}, nil), dr.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			path := journal(t)
			require.NoError(t, os.WriteFile(path, c.content, 0o600))
			_, err := Open(path, Options{})
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, path)
			require.Equal(t, 1, strings.Count(err.Error(), path), "%v", err)
			if errors.Is(c.want, dr.ErrInvalid) {
				now, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, c.content, now)
			}
		})
	}
}

// TestFull: when the disk is full the engine ends and says so, and with room
// everything goes on from what was acknowledged.
func TestFull(t *testing.T) {
	e := open(t, journal(t), Options{})
	require.NoError(t, e.w.exec(`PRAGMA max_page_count = 40`))
	var err error
	started := 0
	for ; err == nil; started++ {
		err = e.Start(t.Context(), dr.RunID(fmt.Sprint("r", started)), chain(10))
	}
	started--
	require.Positive(t, started)
	require.ErrorContains(t, err, "full")
	require.ErrorContains(t, err, "make room")
	again := e.Serve(t.Context(), nil)
	require.ErrorContains(t, again, "make room")
	require.Equal(t, 1, strings.Count(again.Error(), e.path), "%v", again)
	require.NoError(t, e.Close())
	e = open(t, e.path, Options{})
	serve(t, e, dr.Actions{"do": nothing})
	for i := range started {
		require.Equal(t, dr.RunDone, wait(t, e, dr.RunID(fmt.Sprint("r", i))).State)
	}
	_, err = e.Status(t.Context(), dr.RunID(fmt.Sprint("r", started)))
	require.ErrorIs(t, err, dr.ErrNotFound, "what was refused left nothing")
}

// TestLockedByAShell: somebody with SQLite's shell makes the engine wait, not
// end.
func TestLockedByAShell(t *testing.T) {
	log := &lines{first: make(chan struct{})}
	e := open(t, journal(t), Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, e.w.exec(`PRAGMA busy_timeout = 5`))
	shell, err := sql.Open("sqlite", e.path)
	require.NoError(t, err)
	defer shell.Close()
	conn, err := shell.Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`)
	require.NoError(t, err)
	started := make(chan error, 1)
	go func() { started <- e.Start(context.Background(), "r", one(dr.Step{ID: "g", Gate: "?"})) }()
	<-log.first
	require.Contains(t, log.String(), "locked by another process")
	_, err = conn.ExecContext(t.Context(), `ROLLBACK`)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, <-started)
}

// lines is a log that tells of its first line.
type lines struct {
	mu    sync.Mutex
	text  strings.Builder
	first chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() == 0 {
		close(l.first)
	}
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestLogIsBounded: SQLite's log starts again from its beginning, however much
// is journaled.
func TestLogIsBounded(t *testing.T) {
	e := open(t, journal(t), Options{})
	serve(t, e, dr.Actions{"do": nothing})
	for i := range 20 {
		id := dr.RunID(fmt.Sprint("r", i))
		require.NoError(t, e.Start(t.Context(), id, chain(100)))
		wait(t, e, id)
	}
	fi, err := os.Stat(e.path + "-wal")
	require.NoError(t, err)
	require.Less(t, fi.Size(), int64(16<<20))
}

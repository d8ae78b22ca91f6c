package embedded

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// explain says what a person can do about what SQLite could not, and wraps
// what callers branch on.
func explain(err error) error {
	switch sqliteCode(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w (keep it, with the file of that name and -wal, as evidence, and restore a copy)", dr.ErrCorrupt, err)
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("%w: %w (another process is writing to it)", dr.ErrBusy, err)
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w (make room and open it again: what was acknowledged is there)", err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN:
		return fmt.Errorf("%w (the file and its folder must be writable: others are made beside it)", err)
	}
	return err
}

// sqliteCode is the primary result code of SQLite's error, or 0.
func sqliteCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}

package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// migrations bring a file from the schema version that is their index to the
// next. They are only ever added to: files of every past version can be
// opened. The version is SQLite's user_version.
//
// Times are Unix nanoseconds; bodies are the JSON of package dr, so that a
// console can read the file beside a running engine.
var migrations = []string{`
CREATE TABLE owner(one INTEGER PRIMARY KEY CHECK(one = 1), epoch INTEGER NOT NULL);
INSERT INTO owner VALUES(1, 0);
CREATE TABLE run(
	n     INTEGER PRIMARY KEY AUTOINCREMENT,
	id    TEXT NOT NULL UNIQUE,
	fold  INTEGER NOT NULL, -- dr.FoldRev of who wrote it
	plan  BLOB NOT NULL,
	ended INTEGER           -- NULL: open
);
CREATE INDEX run_open ON run(n) WHERE ended IS NULL;
CREATE INDEX run_ended ON run(ended) WHERE ended IS NOT NULL;
CREATE TABLE event(run INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(run, seq)) WITHOUT ROWID;
CREATE TABLE claim(resource TEXT PRIMARY KEY, owner TEXT, epoch INTEGER NOT NULL) WITHOUT ROWID; -- owner NULL: free
CREATE TABLE protection(id TEXT PRIMARY KEY, version INTEGER NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
`}

// lockFile keeps other processes out.
func lockFile(path string) (io.Closer, error) {
	l, err := fsys.OS().Lock(path+".lock", true)
	if errors.Is(err, fsys.ErrLocked) {
		return nil, fmt.Errorf("journal %s: %w: another process has it open", path, dr.ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return l, nil
}

// openDB opens the file, brings its schema up to date and takes ownership over
// under the next epoch.
func openDB(path string) (db *sql.DB, epoch int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("journal %s: %w", path, err)
		}
	}()
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, 0, err
	}
	db, err = sql.Open("sqlite", dsn(filepath.ToSlash(abs)))
	if err != nil {
		return nil, 0, err
	}
	db.SetMaxOpenConns(4) // one of them is the writer's
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return db, 0, err
	}
	defer tx.Rollback()
	var version int
	if err := tx.QueryRow(`PRAGMA user_version`).Scan(&version); err != nil {
		return db, 0, err
	}
	if version > len(migrations) {
		return db, 0, fmt.Errorf("%w: its schema is version %d, this program knows %d", dr.ErrUnsupported, version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		if _, err := tx.Exec(migrations[version] + fmt.Sprintf(`PRAGMA user_version = %d`, version+1)); err != nil {
			return db, 0, fmt.Errorf("schema %d: %w", version+1, err)
		}
	}
	if err := tx.QueryRow(`UPDATE owner SET epoch = epoch + 1 RETURNING epoch`).Scan(&epoch); err != nil {
		return db, 0, err
	}
	if err := tx.Commit(); err != nil {
		return db, 0, err
	}
	// SQLite doesn't promise that a new file's name is durable by now.
	return db, epoch, fsys.OS().SyncDir(filepath.Dir(abs))
}

func dsn(abs string) string {
	if !strings.HasPrefix(abs, "/") { // a Windows drive
		abs = "/" + abs
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: url.Values{
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"},
		"_txlock": {"immediate"},
	}.Encode()}
	return u.String()
}

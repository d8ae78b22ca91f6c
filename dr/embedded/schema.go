package embedded

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
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
`, `
ALTER TABLE owner ADD COLUMN journal TEXT; -- tells this journal from all others, wherever the file goes
UPDATE owner SET journal = lower(hex(randomblob(8)));
`, `
CREATE TABLE past(id TEXT PRIMARY KEY) WITHOUT ROWID; -- of runs that were purged: never used again
`, `
ALTER TABLE run ADD COLUMN outside INTEGER; -- 1: its claims are Options.Claims', 0: this file's; NULL: not known, it is older
`}

// lockFile keeps other processes out.
func lockFile(path string) (io.Closer, error) {
	l, err := fsys.OS().Lock(path+".lock", true)
	if errors.Is(err, fsys.ErrLocked) {
		return nil, fmt.Errorf("%w: another process has it open", dr.ErrBusy)
	}
	return l, err
}

// realPath is the absolute name of the file without symbolic links, so that
// whoever opens it by whatever name takes the same lock.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return abs, nil
	}
	return real, err
}

// makeFile makes the file if there is none. SQLite would let everybody read
// it; the files that it puts beside get this one's mode. A file that is there
// keeps the mode that somebody gave it, and isn't opened here: closing it
// would drop the locks of others in this process.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// owner is who writes to the file.
type owner struct {
	epoch   int64
	journal string // the file's own name for itself
}

// openDB opens the file, brings its schema up to date and takes ownership over
// under the next epoch. The caller closes what it returns, also with an error.
func openDB(path string) (*sql.DB, owner, error) {
	var o owner
	if err := makeFile(path); err != nil {
		return nil, o, err
	}
	db, err := sql.Open("sqlite", dsn(filepath.ToSlash(path)))
	if err != nil {
		return nil, o, err
	}
	db.SetMaxOpenConns(4) // one of them is the writer's
	if err := ours(db); err != nil {
		return db, o, explain(err)
	}
	// The mode is kept in the file. Where it can't be had SQLite says so by
	// staying in another.
	var mode string
	if err := db.QueryRow(`PRAGMA journal_mode = WAL`).Scan(&mode); err != nil {
		return db, o, explain(err)
	}
	if mode != "wal" {
		return db, o, fmt.Errorf("%w: this file system takes no write-ahead log, only %q: keep the journal on a local disk", dr.ErrUnsupported, mode)
	}
	if o, err = takeOver(db); err != nil {
		return db, o, explain(err)
	}
	// What the log holds is moved to the file. It bounds the log, and it
	// heals: what a disk refused to sync before a crash may be in the page
	// cache, where it reads as if it were durable, and is written anew here.
	if _, err := db.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		return db, o, explain(err)
	}
	// SQLite doesn't promise that a new file's name is durable by now.
	return db, o, fsys.OS().SyncDir(filepath.Dir(path))
}

// ours refuses the files of later versions and of other programs, without
// having changed anything.
func ours(db *sql.DB) error {
	var version, tables int
	if err := db.QueryRow(`PRAGMA user_version`).Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("%w: its schema is version %d, this program knows %d", dr.ErrUnsupported, version, len(migrations))
	}
	err := db.QueryRow(`SELECT count(*) FROM sqlite_schema WHERE name IN ('owner', 'run', 'event', 'claim', 'protection') OR ?1 = 0`, version).Scan(&tables)
	if err != nil {
		return err
	}
	if version == 0 && tables > 0 || version > 0 && tables != 5 {
		return fmt.Errorf("%w: it is another program's database", dr.ErrInvalid)
	}
	return nil
}

func takeOver(db *sql.DB) (o owner, err error) {
	tx, err := db.Begin()
	if err != nil {
		return o, err
	}
	defer tx.Rollback()
	var version int
	if err := tx.QueryRow(`PRAGMA user_version`).Scan(&version); err != nil {
		return o, err
	}
	for ; version < len(migrations); version++ {
		if _, err := tx.Exec(migrations[version] + fmt.Sprintf(`PRAGMA user_version = %d`, version+1)); err != nil {
			return o, fmt.Errorf("schema %d: %w", version+1, err)
		}
	}
	if err := tx.QueryRow(`UPDATE owner SET epoch = epoch + 1 RETURNING epoch, journal`).Scan(&o.epoch, &o.journal); err != nil {
		return o, err
	}
	return o, tx.Commit()
}

func dsn(abs string) string {
	if !strings.HasPrefix(abs, "/") { // a Windows drive
		abs = "/" + abs
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: url.Values{
		"_pragma": {"busy_timeout(10000)", "synchronous(FULL)"},
		"_txlock": {"immediate"},
	}.Encode()}
	return u.String()
}

package suspicion_test

import (
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"database/sql"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
)

// work changes the mounted file system between two points. step counts from 0.
type work func(w *worker, step int)

type worker struct {
	*machine
	rnd *rand.Rand
}

func (w *worker) at(elem ...string) string {
	p := filepath.Join(append([]string{w.root}, elem...)...)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(p), 0o755))
	return p
}

// noise reads as random bytes.
func (w *worker) noise() io.Reader {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(w.rnd.Uint32())
	}
	return rand.NewChaCha8(seed)
}

// populate writes n bytes of documents: sources of the Go distribution, which
// are text, and its packed test data.
func (w *worker) populate(to string, n int64) {
	src := filepath.Join(goroot(w), "src")
	stop := fmt.Errorf("enough")
	err := filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(src, p)
		require.NoError(w.t, os.WriteFile(w.at(to, rel), b, 0o644))
		if n -= int64(len(b)); n <= 0 {
			return stop
		}
		return nil
	})
	if err != stop {
		require.NoError(w.t, err)
	}
}

func goroot(w *worker) string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(w.t, err)
	return strings.TrimSpace(string(out))
}

// files lists regular files below a folder, in a fixed order.
func (w *worker) files(under string) (all []string) {
	if _, err := os.Stat(filepath.Join(w.root, under)); err != nil {
		return nil
	}
	require.NoError(w.t, filepath.WalkDir(filepath.Join(w.root, under), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, p)
		}
		return err
	}))
	return all
}

// text appends log lines.
func (w *worker) text(path string, n int) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(w.t, err)
	defer f.Close()
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "2024-05-06T07:%02d:%02d.%06d host app[%d]: request %016x from 10.%d.%d.%d took %d us, status 200\n",
			w.rnd.IntN(60), w.rnd.IntN(60), w.rnd.IntN(1e6), 1000+w.rnd.IntN(9), w.rnd.Uint64(), w.rnd.IntN(256), w.rnd.IntN(256), w.rnd.IntN(256), w.rnd.IntN(1e6))
	}
	_, err = f.WriteString(b.String())
	require.NoError(w.t, err)
}

func (w *worker) copyFile(to, from string, pack bool) {
	in, err := os.Open(from)
	require.NoError(w.t, err)
	defer in.Close()
	out, err := os.Create(to)
	require.NoError(w.t, err)
	defer out.Close()
	var z io.Writer = out
	if pack {
		gz := gzip.NewWriter(out)
		defer gz.Close()
		z = gz
	}
	_, err = io.Copy(z, in)
	require.NoError(w.t, err)
}

// database updates and inserts rows of text, and compacts now and then.
func database(w *worker, step int) {
	db, err := sql.Open("sqlite", w.at("db", "app.sqlite"))
	require.NoError(w.t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	_, err = db.Exec(`CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, name TEXT, note TEXT, token BLOB); CREATE INDEX IF NOT EXISTS n ON orders(name)`)
	require.NoError(w.t, err)
	tx, err := db.Begin()
	require.NoError(w.t, err)
	rows := 2000
	if step == 0 {
		rows = 40_000
	}
	token := make([]byte, 32)
	for range rows {
		_, _ = io.ReadFull(w.noise(), token)
		_, err = tx.Exec(`INSERT INTO orders(name,note,token) VALUES(?,?,?)`, fmt.Sprintf("customer %d", w.rnd.IntN(5000)), strings.Repeat(fmt.Sprintf("item %d; ", w.rnd.IntN(900)), 1+w.rnd.IntN(20)), token)
		require.NoError(w.t, err)
	}
	if step > 0 {
		for range 1500 {
			_, err = tx.Exec(`UPDATE orders SET note=note||? WHERE id=?`, fmt.Sprintf(" sent %d", step), w.rnd.IntN(40_000))
			require.NoError(w.t, err)
		}
		_, err = tx.Exec(`DELETE FROM orders WHERE id%97=?`, step%97)
		require.NoError(w.t, err)
	}
	require.NoError(w.t, tx.Commit())
	if step%7 == 6 {
		_, err = db.Exec(`VACUUM`)
		require.NoError(w.t, err)
	}
}

// logs grow, are rotated and packed.
func logs(w *worker, step int) {
	cur := w.at("log", "app.log")
	w.text(cur, 6<<20)
	if step%2 == 1 {
		for i := 5; i > 0; i-- {
			_ = os.Rename(w.at("log", fmt.Sprintf("app.%d.gz", i)), w.at("log", fmt.Sprintf("app.%d.gz", i+1)))
		}
		w.copyFile(w.at("log", "app.1.gz"), cur, true)
		require.NoError(w.t, os.Remove(cur))
	}
}

// backups are packed archives of the documents on the same disk; three are
// kept.
func backup(w *worker, step int) {
	w.run("tar", "-C", w.root, "-czf", w.at("backup", fmt.Sprintf("%03d.tar.gz", step)), "docs")
	_ = os.Remove(w.at("backup", fmt.Sprintf("%03d.tar.gz", step-3)))
}

// imports bring what looks random already: media, encrypted archives.
func imports(w *worker, step int) {
	f, err := os.Create(w.at("media", fmt.Sprintf("%03d.bin", step)))
	require.NoError(w.t, err)
	_, err = io.CopyN(f, w.noise(), 6<<20)
	require.NoError(w.t, err)
	require.NoError(w.t, f.Close())
	_ = os.Remove(w.at("media", fmt.Sprintf("%03d.bin", step-6)))
}

// upgrade replaces programs as a package manager does: new file, then rename.
func upgrade(w *worker, step int) {
	tools, err := filepath.Glob(filepath.Join(goroot(w), "pkg", "tool", "*", "*"))
	require.NoError(w.t, err)
	bins, err := filepath.Glob("/usr/bin/*")
	require.NoError(w.t, err)
	all := slices.Concat(tools, bins)
	total := int64(0)
	for total < 20<<20 {
		from := all[w.rnd.IntN(len(all))]
		st, err := os.Stat(from)
		if err != nil || !st.Mode().IsRegular() || st.Size() > 8<<20 {
			continue
		}
		to := w.at("usr", filepath.Base(from))
		w.copyFile(to+".new", from, false)
		require.NoError(w.t, os.Rename(to+".new", to))
		total += st.Size() + 4096
	}
}

// compile builds a program with its cache on the disk, which it cleans before.
func compile(w *worker, step int) {
	cache := w.at("build", "cache")
	if step%4 == 3 {
		require.NoError(w.t, os.RemoveAll(cache))
	}
	w.run("env", "GOCACHE="+cache, "GOFLAGS=", "go", "build", "-ldflags", fmt.Sprintf("-X main.step=%d", step), "-gcflags", fmt.Sprintf("-N=%t", step%2 == 0), "-o", w.at("build", "gofmt"), "cmd/gofmt")
}

// moves copy documents elsewhere and delete them here, as a defragmenter does.
func moves(w *worker, step int) {
	all := w.files("docs")
	for i, p := range all {
		if i%5 == step%5 {
			w.copyFile(p+"~", p, false)
			require.NoError(w.t, os.Rename(p+"~", p))
		}
	}
}

// mixed does some of all.
func mixed(w *worker, step int) {
	for i, f := range []work{database, logs, imports, upgrade, moves, backup} {
		if i < 2 || step%5 == i-2 {
			f(w, step)
		}
	}
}

// attacks encrypt the documents. parts is over how many points.

func (w *worker) cipher() cipher.Stream {
	key := make([]byte, 32)
	_, _ = io.ReadFull(w.noise(), key)
	b, err := aes.NewCipher(key[:16])
	require.NoError(w.t, err)
	return cipher.NewCTR(b, key[16:])
}

// overwrite encrypts pieces of a file in its place.
func (w *worker) overwrite(path string, piece, gap, most int64) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(w.t, err)
	defer f.Close()
	s := w.cipher()
	buf := make([]byte, piece)
	for off := int64(0); off < most; off += piece + gap {
		n, err := f.ReadAt(buf[:min(piece, most-off)], off)
		s.XORKeyStream(buf[:n], buf[:n])
		_, werr := f.WriteAt(buf[:n], off)
		require.NoError(w.t, werr)
		if err != nil {
			break
		}
	}
}

const whole = int64(1) << 40

// attack encrypts the share [step/parts, (step+1)/parts) of all documents and
// logs by one of the ways.
func attack(how func(w *worker, path string), parts int) work {
	return func(w *worker, step int) {
		var all []string
		for _, p := range slices.Concat(w.files("docs"), w.files("db"), w.files("log")) {
			if !strings.HasSuffix(p, ".locked") && !strings.HasSuffix(p, ".gz") {
				all = append(all, p)
			}
		}
		// By name, so that what was encrypted before isn't again.
		for i, p := range all {
			if i%parts == step%parts {
				how(w, p)
			}
		}
	}
}

func inPlace(w *worker, p string) { w.overwrite(p, 1<<20, 0, whole) }

func everyOther(w *worker, p string) { w.overwrite(p, 16<<10, 16<<10, whole) }

func head(w *worker, p string) { w.overwrite(p, 4<<10, 0, 4<<10) }

func copyAndDelete(w *worker, p string) {
	w.copyFile(p+".locked", p, false)
	w.overwrite(p+".locked", 1<<20, 0, whole)
	require.NoError(w.t, os.Remove(p))
}

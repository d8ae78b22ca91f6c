package temporalserver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programs are where the server and its schema tool are.
type programs struct{ server, sql string }

// What a build needs, as packages of the module in moduleDir.
const (
	moduleDir     = "dr/temporal/servertest"
	serverPackage = "go.temporal.io/server/cmd/server"
	sqlPackage    = "go.temporal.io/server/cmd/tools/sql"
)

var built = sync.OnceValues(build)

func find(t testing.TB) programs {
	t.Helper()
	p, err := built()
	if err == nil {
		return p
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("no Temporal server, and LIFEBOAT_REQUIRE=all: %v", err)
	}
	t.Skipf("no Temporal server: %v", err)
	return p
}

// build makes the programs if they aren't in .cache. One process does it at a
// time; the others find what it made.
func build() (programs, error) {
	root, err := repository()
	if err != nil {
		return programs{}, err
	}
	module := filepath.Join(root, moduleDir)
	key := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return programs{}, err
		}
		key.Write(b)
	}
	dir := filepath.Join(root, ".cache", "temporal", hex.EncodeToString(key.Sum(nil))[:16])
	p := programs{server: filepath.Join(dir, "server"), sql: filepath.Join(dir, "sql")}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return p, err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return p, err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return p, nil
	}
	fresh := dir + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.Mkdir(fresh, 0o755)); err != nil {
		return p, err
	}
	// No flag that changes how packages are compiled: those that tests have
	// compiled already are used.
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", fresh+string(filepath.Separator), serverPackage, sqlPackage)
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		return p, fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return p, os.Rename(fresh, dir)
}

// repository is the folder above that has the module of the server's version
// in it.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, moduleDir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no %s/go.mod above the working directory", moduleDir)
		}
		dir = up
	}
}

package pgtest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Tool returns the path of a program of PostgreSQL's, also where ordinary users
// don't look. Without it the test is skipped, or fails where everything has to
// be there.
func Tool(t testing.TB, name string) string {
	t.Helper()
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(dirs) // the newest first
	for _, dir := range append(append(dirs, "/usr/sbin"), filepath.SplitList(os.Getenv("PATH"))...) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	lack(t, name+" is not installed (Debian: postgresql-15)")
	return ""
}

func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/minilinux"
)

// The program checks its own story, number by number; here it is only run.
func TestTheWholeStory(t *testing.T) {
	lack := func(why string) {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
		}
		t.Skip(why)
	}
	if err := minilinux.Ready(); err != nil {
		lack(err.Error())
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		lack("qemu-system-x86_64 is not installed")
	}
	bin := filepath.Join(t.TempDir(), "boot")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	dir := filepath.Join(t.TempDir(), "state")
	out, err = exec.Command(bin, "-dir", dir, "-points", "3").CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
	require.Contains(t, string(out), "THE SERVICE ANSWERS AFTER")
	require.Contains(t, string(out), "failed back")
	require.NoDirExists(t, dir, "nothing is left behind")
}

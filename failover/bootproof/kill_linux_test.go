package bootproof

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/qemu"
	"github.com/lifeboat-dr/lifeboat/internal/qemu/bootsector"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// The process that proves is killed: QEMU ends with it, and the next proof removes
// what is left.
func TestKilledProofLeavesNothing(t *testing.T) {
	needs(t)
	if dir := os.Getenv("LIFEBOAT_TEST_PROVE"); dir != "" {
		s, err := vault.OpenDir(dir, vault.Options{})
		require.NoError(t, err)
		img, err := s.Open(t.Context(), "m", "p1")
		require.NoError(t, err)
		m, err := Boot(t.Context(), img, Options{Folder: os.Getenv("LIFEBOAT_TEST_FOLDER")})
		require.NoError(t, err)
		require.NoError(t, m.Wait(t.Context(), says("well")))
		fmt.Println("\nit runs")
		select {}
	}
	w := newWorld(t)
	w.keep(machine(t, bootsector.New("well", bootsector.Count)), "p1")
	folder := t.TempDir()
	c := exec.Command(os.Args[0], "-test.run=^TestKilledProofLeavesNothing$")
	c.Env = append(os.Environ(), "LIFEBOAT_TEST_PROVE="+w.dir, "LIFEBOAT_TEST_FOLDER="+folder)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	c.Stderr = os.Stderr
	require.NoError(t, c.Start())
	defer func() { _ = c.Process.Kill() }()
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "it runs" {
	}
	require.Equal(t, "it runs", lines.Text())
	require.GreaterOrEqual(t, len(leftovers(t, folder)), 2, "the folder, and QEMU in it")

	require.NoError(t, c.Process.Kill())
	_ = c.Wait()
	require.Eventually(t, func() bool { return len(leftovers(t, folder)) == 1 }, time.Minute, 10*time.Millisecond, "QEMU is gone")
	next, err := qemu.NewFolder(folder)
	require.NoError(t, err)
	require.Len(t, leftovers(t, folder), 1, "and so is the folder, but for the new one")
	require.NoError(t, next.Close())
	require.Empty(t, leftovers(t, folder))
	w.whole()
}

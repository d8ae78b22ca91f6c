package vault_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// TestAnotherProcess is no test but the other process of those below: it opens
// point 1 for reading, or a draft, tells so, and waits to be killed.
func TestAnotherProcess(t *testing.T) {
	dir := os.Getenv("VAULT_TEST_DIR")
	if dir == "" {
		t.Skip("run by other tests")
	}
	v := open(t, fsys.OS(), dir, vault.Options{})
	switch os.Getenv("VAULT_TEST_ROLE") {
	case "reader":
		_, err := v.Open(t.Context(), "m", "1")
		require.NoError(t, err)
	case "writer":
		d, err := v.Create(t.Context(), dr.Point{ID: "2", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: chunk}}}})
		require.NoError(t, err)
		_, err = d.WriteAt(t.Context(), "a", []byte("x"), 0)
		require.NoError(t, err)
	}
	os.Stdout.WriteString("ready\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// another starts it, and returns once it is ready.
func another(t *testing.T, dir, role string) (kill func()) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestAnotherProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "VAULT_TEST_DIR="+dir, "VAULT_TEST_ROLE="+role)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = in.Close()
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return kill
		}
	}
	t.Fatal("the other process didn't get ready")
	return nil
}

func TestOneProcessWrites(t *testing.T) {
	dir := t.TempDir()
	v := open(t, fsys.OS(), dir, vault.Options{})
	p := planPoint(rand.New(rand.NewPCG(1, 1)), "1", "", nil, map[dr.DiskID]int64{"a": 4 * chunk}, 4)
	require.NoError(t, p.apply(t.Context(), v))
	kill := another(t, dir, "writer")

	second := open(t, fsys.OS(), dir, vault.Options{})
	_, err := second.Create(t.Context(), p.point)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "another process is writing")
	require.ErrorIs(t, second.Delete(t.Context(), "m", "1"), dr.ErrBusy)
	_, err = second.Prune(t.Context())
	require.ErrorIs(t, err, dr.ErrBusy)
	require.NoError(t, verify(t.Context(), second, "1", p.want), "reading goes on")

	kill()
	require.NoError(t, second.Delete(t.Context(), "m", "1"), "its lock went with it")
}

func TestPruneLeavesWhatAnotherProcessReads(t *testing.T) {
	dir := t.TempDir()
	v := open(t, fsys.OS(), dir, vault.Options{})
	p := planPoint(rand.New(rand.NewPCG(1, 1)), "1", "", nil, map[dr.DiskID]int64{"a": 64 * chunk}, 8)
	require.NoError(t, p.apply(t.Context(), v))
	here, err := v.Open(t.Context(), "m", "1")
	require.NoError(t, err)
	kill := another(t, dir, "reader")
	require.NoError(t, v.Delete(t.Context(), "m", "1"))

	for _, let := range []func(){func() { require.NoError(t, here.Close()) }, kill} {
		freed, err := v.Prune(t.Context())
		require.NoError(t, err)
		require.Zero(t, freed)
		let()
	}
	freed, err := v.Prune(t.Context())
	require.NoError(t, err)
	require.Positive(t, freed)
}

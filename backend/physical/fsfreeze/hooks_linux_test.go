package fsfreeze

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Each kind of file system hangs its writers from the freeze to the thaw, and
// not longer. Bind mounts and subvolumes are the same file system.
func TestHoldsWriters(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			device := loop(t, sparse(t, sizes[kind]))
			format(t, kind, device)
			dir := mounted(t, kind, device)
			second := t.TempDir()
			mountAt(t, "bind", dir, second)
			var reports []Report
			freeze, thaw := Hooks(Options{Report: func(r Report) { reports = append(reports, r) }})
			e, seen := event(dr.ApplicationConsistent, device)
			require.NoError(t, freeze(t.Context(), e))
			require.Equal(t, []bool{true}, seen.held)
			require.Equal(t, dr.FileSystemConsistent, seen.reached, seen.out.String())
			a, b := hangs(t, dir), hangs(t, second)
			require.NoError(t, thaw(t.Context(), e))
			flows(t, a, b)
			require.Equal(t, []bool{true, false}, seen.held)
			require.NoError(t, thaw(t.Context(), e), "a second thaw")
			require.Len(t, reports, 1)
			r := reports[0]
			require.NoError(t, r.Err)
			require.GreaterOrEqual(t, r.Frozen, 200*time.Millisecond)
			require.Equal(t, []System{{Mount: dir, Type: kind, Device: device, State: Frozen}}, r.Systems)
			t.Logf("prepared in %v, frozen for %v", r.Prepared, r.Frozen)
		})
	}
}

// What somebody else has frozen is left so, and what we froze before thaws.
func TestLeavesWhatOthersFroze(t *testing.T) {
	var dirs, devices []string
	for range 2 {
		device := loop(t, sparse(t, sizes["ext4"]))
		format(t, "ext4", device)
		devices, dirs = append(devices, device), append(dirs, mounted(t, "ext4", device))
	}
	run(t, "fsfreeze", "-f", dirs[0]) // the first mounted is the last to freeze
	freeze, thaw := Hooks(Options{})
	e, _ := event(dr.FileSystemConsistent, devices...)
	err := freeze(t.Context(), e)
	var busy *FrozenError
	require.ErrorAs(t, err, &busy)
	require.Equal(t, dirs[0], busy.Mount)
	require.ErrorIs(t, err, dr.ErrBusy)
	flows(t, writing(filepath.Join(dirs[1], "free")))
	w := hangs(t, dirs[0])
	require.NoError(t, thaw(t.Context(), e))
	run(t, "fsfreeze", "-u", dirs[0])
	flows(t, w)
}

// A freeze that would stop this process is refused before anything is frozen.
func TestRefusesToFreezeItself(t *testing.T) {
	device := loop(t, sparse(t, sizes["ext4"]))
	format(t, "ext4", device)
	dir := mounted(t, "ext4", device)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	for _, own := range []string{dir, filepath.Join(dir, "not/there"), filepath.Join(link, "agent.log")} {
		freeze, _ := Hooks(Options{Own: []string{t.TempDir(), own}})
		e, _ := event(dr.FileSystemConsistent, device)
		var mine *OwnError
		require.ErrorAs(t, freeze(t.Context(), e), &mine)
		require.Equal(t, OwnError{own, dir}, *mine)
		flows(t, writing(filepath.Join(dir, "free")))
	}
	elsewhere, thaw := Hooks(Options{Own: []string{t.TempDir()}})
	e, _ := event(dr.FileSystemConsistent, device)
	require.NoError(t, elsewhere(t.Context(), e))
	require.NoError(t, thaw(t.Context(), e))
}

// Somebody who thaws what is held spoils the moment.
func TestTellsOfAForeignThaw(t *testing.T) {
	device := loop(t, sparse(t, sizes["ext4"]))
	format(t, "ext4", device)
	dir := mounted(t, "ext4", device)
	freeze, thaw := Hooks(Options{})
	e, _ := event(dr.FileSystemConsistent, device)
	require.NoError(t, freeze(t.Context(), e))
	run(t, "fsfreeze", "-u", dir)
	require.ErrorContains(t, thaw(t.Context(), e), "somebody else has thawed it")
	require.NoError(t, thaw(t.Context(), e))
}

// A process that is killed with file systems frozen leaves them thawed, and its
// scripts' applications too.
func TestKilledFreezer(t *testing.T) {
	if disk := os.Getenv("LIFEBOAT_TEST_FREEZER"); disk != "" {
		freeze, _ := Hooks(Options{Scripts: Scripts{Dir: os.Getenv("LIFEBOAT_TEST_SCRIPTS")}})
		e, _ := event(dr.ApplicationConsistent, disk)
		require.NoError(t, freeze(t.Context(), e))
		_, _ = os.Stdout.WriteString("frozen\n")
		<-t.Context().Done()
		return
	}
	device := loop(t, sparse(t, sizes["ext4"]))
	format(t, "ext4", device)
	dir := mounted(t, "ext4", device)
	folder, log := scripts(t, map[string]string{"10-a": "", "20-b": ""})
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledFreezer$")
	cmd.Env = append(os.Environ(), "LIFEBOAT_TEST_FREEZER="+device, "LIFEBOAT_TEST_SCRIPTS="+folder)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	b := make([]byte, 7)
	_, err = out.Read(b)
	require.NoError(t, err)
	require.Equal(t, "frozen\n", string(b))
	w := hangs(t, dir)
	began := time.Now()
	require.NoError(t, cmd.Process.Kill())
	flows(t, w)
	t.Logf("thawed %v after the kill", time.Since(began))
	_ = cmd.Wait()
	require.Empty(t, left(t, device), "guards live on")
	require.Equal(t, []string{"10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"}, lines(t, log))
}

// left are guards of the disk that live; tests of other packages have their own.
func left(t testing.TB, disk string) (pids []string) {
	t.Helper()
	for range 500 {
		pids = nil
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		require.NoError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil || !containsGuard(b) {
				continue
			}
			env, err := os.ReadFile(filepath.Join(filepath.Dir(f), "environ"))
			if err == nil && bytes.Contains(env, []byte("LIFEBOAT_DISKS="+disk+"\x00")) {
				pids = append(pids, f)
			}
		}
		if len(pids) == 0 {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return pids
}

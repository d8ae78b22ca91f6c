package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// loopDevice makes one over a new file of a size.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	lack := t.Skip
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		lack = t.Fatal
	}
	if os.Geteuid() != 0 {
		lack("loop devices need root")
	}
	file := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, size))
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		lack("losetup can't make a loop device: " + string(out))
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		out, err := exec.Command("losetup", "-d", dev).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	return dev
}

// The agent shows the machine that it runs on, and serves it: what the inventory
// found is what the other end sees, facts included.
func TestServesTheMachineItself(t *testing.T) {
	dev := loopDevice(t, 24<<20)
	out, err := program(t, "inventory", "--json", "--loop").Output()
	require.NoError(t, err)
	var r inventory.Report
	require.NoError(t, json.Unmarshal(out, &r))
	out, err = program(t, "inventory").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), string(r.ID))
	out, err = program(t, "inventory", "--facts").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), `"from": "this host"`)
	require.Error(t, program(t, "inventory", "--what").Run())

	h := newHost(t)
	file := filepath.Join(t.TempDir(), "self.json")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(`{"disks": ["` + strings.TrimPrefix(dev, "/dev/") + `"], "loop": true, "root": "` + filepath.Join(h.dir, "state") + `"}`)
	h.start("--backend", "self:"+file)
	c := h.dial()
	m, err := c.Machine(t.Context(), r.ID)
	require.NoError(t, err, "%s", h.errs)
	require.Equal(t, dr.On, m.Power)
	require.Equal(t, r.CPUs, m.CPUs)
	require.Len(t, m.Disks, 1)
	require.EqualValues(t, 24<<20, m.Disks[0].Size)
	i, ok := dr.As[backend.Inspector](c)
	require.True(t, ok)
	f, err := i.Inspect(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, "linux", f.OS)
	require.Equal(t, r.System.Release, f.Release)
	_, ok = dr.As[backend.Shutdowner](c)
	require.False(t, ok, "without a hook it can't be switched off")
	h.kill()

	for text, why := range map[string]string{
		`{"disks": ["sdzz"]}`: "no such disk",
		`{"machines": [{"id": "m", "disks": [{"id": "d", "path": "/d"}]}]}`: "machines",
		`{"disks": 7}`:       "cannot unmarshal",
		`{"disk": ["sda"]}`:  "unknown field",
		`{"disks": []} more`: "behind the settings",
	} {
		write(text)
		_, _, err := openSelf(file, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, why)
	}
}

// mounted mounts something until the end of the test.
func mounted(t *testing.T, kind, what string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("mount", "-t", kind, what, dir).CombinedOutput()
	if err != nil {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatalf("%s", out)
		}
		t.Skipf("%s", out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	return dir
}

// The machine that the agent runs on is protected while its file system is
// written: its points are consistent with the file system, the second is a delta,
// and so is the one after the agent was killed and replaced.
func TestProtectsTheMachineItRunsOn(t *testing.T) {
	dev := loopDevice(t, 64<<20)
	out, err := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", dev).CombinedOutput()
	require.NoError(t, err, "%s", out)
	data := mounted(t, "ext4", dev)
	pins, state := mounted(t, "bpf", "bpf"), mounted(t, "tmpfs", "tmpfs")

	h := newHost(t)
	file := filepath.Join(t.TempDir(), "self.json")
	conf, err := json.Marshal(map[string]any{
		"disks": []string{strings.TrimPrefix(dev, "/dev/")}, "loop": true, "root": filepath.Join(h.dir, "state"),
		"pins": filepath.Join(pins, "lifeboat"), "trackState": filepath.Join(state, "tracking"), "lastPass": 1 << 20,
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, conf, 0o600))
	h.start("--backend", "self:"+file)
	c := h.dial()
	var id dr.MachineID
	for m, err := range mustAs[backend.Lister](t, c).Machines(t.Context()) {
		require.NoError(t, err)
		id = m.ID
	}
	problems, err := mustAs[backend.Preflighter](t, c).Preflight(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, problems, "%s", h.errs)

	store := memstore.New(memstore.Options{})
	cycle := &replication.Cycle{Source: c, Points: store}
	write := func(name string, n int) []byte {
		b := make([]byte, n)
		_, _ = rand.Read(b)
		f, err := os.Create(filepath.Join(data, name))
		require.NoError(t, err)
		_, err = f.Write(b)
		require.NoError(t, errors.Join(err, f.Close())) // in the page cache: nobody has synced it
		return b
	}
	report := func() replication.Report {
		t.Helper()
		r, err := cycle.ReplicateAs(t.Context(), id, "", dr.FileSystemConsistent, replication.CycleOptions{})
		require.NoError(t, err, "%s", h.errs)
		require.Equal(t, dr.FileSystemConsistent, r.Point.Consistency)
		return r
	}
	whole := map[string][]byte{"one": write("one", 2<<20)}
	report()
	whole["two"] = write("two", 1<<20)
	r := report()
	require.Empty(t, r.Full, "%s", h.errs)
	require.Less(t, r.Changed, int64(8<<20))
	require.GreaterOrEqual(t, r.Written, int64(1<<20))

	// Replaced: what is written while there is no agent is known all the same.
	h.kill()
	whole["three"] = write("three", 1<<20)
	require.NoError(t, exec.Command("sync", "-f", data).Run())
	h.start("--backend", "self:"+file)
	r = report()
	require.Empty(t, r.Full, "the tracking went on: %s", h.errs)
	require.Less(t, r.Changed, int64(8<<20))

	// What was recovered is a clean file system with all the files.
	img, err := store.Open(t.Context(), id, r.Point.ID)
	require.NoError(t, err)
	defer img.Close()
	disk := make([]byte, 64<<20)
	_, err = img.ReadAt(t.Context(), img.Point().Machine.Disks[0].ID, disk, 0)
	require.NoError(t, err)
	copied := filepath.Join(t.TempDir(), "copy.img")
	require.NoError(t, os.WriteFile(copied, disk, 0o600))
	out, err = exec.Command("e2fsck", "-fn", copied).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, want := range whole {
		got, err := exec.Command("debugfs", "-R", "cat "+name, copied).Output()
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "file %s", name)
	}
}

func mustAs[A any](t *testing.T, v any) A {
	t.Helper()
	a, ok := dr.As[A](v)
	require.True(t, ok)
	return a
}

// A machine that was taken out of the configuration is no longer tracked.
func TestNoTrackingIsLeftBehind(t *testing.T) {
	dev := loopDevice(t, 8<<20)
	pins := filepath.Join(mounted(t, "bpf", "bpf"), "pins")
	l := live{Pins: pins, TrackState: mounted(t, "tmpfs", "tmpfs")}
	for _, id := range []dr.MachineID{"old", "new"} {
		cfg := physical.Config{Machines: []physical.Machine{{ID: id, Disks: []physical.Disk{{ID: "d", Path: dev}}}}}
		c := l.track(&cfg, slog.New(slog.DiscardHandler))
		require.NotNil(t, c)
		require.Empty(t, cfg.Tracker.(physical.Diagnoser).Problems(id))
		require.NoError(t, c.Close())
		left, err := os.ReadDir(pins)
		require.NoError(t, err)
		require.Len(t, left, 5, "%s: one map, two programs and their links", id)
	}
}

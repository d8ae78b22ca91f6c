package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
	"github.com/lifeboat-dr/lifeboat/dr"
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
		`{"disks": 7}`: "cannot unmarshal",
	} {
		write(text)
		_, _, err := openSelf(file)
		require.ErrorContains(t, err, why)
	}
}

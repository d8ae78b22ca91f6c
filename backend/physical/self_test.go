package physical

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func selfConfig(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "disk.img")
	require.NoError(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	return Config{
		Root:     filepath.Join(dir, "state"),
		Machines: []Machine{{ID: "me", Self: true, Firmware: dr.UEFI, CPUs: 2, Memory: 1 << 30, Disks: []Disk{{ID: "d", Path: file}}}},
		Inspect: func(_ context.Context, id dr.MachineID) (backend.Facts, error) {
			return backend.Facts{From: "this host", OS: "linux", Release: string(id)}, nil
		},
	}
}

// The host itself can be asked, is on, and nothing here switches it off or writes
// its disks.
func TestMachineThatIsTheHost(t *testing.T) {
	cfg := selfConfig(t)
	h, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	ctx := t.Context()
	m, err := h.Machine(ctx, "me")
	require.NoError(t, err)
	require.Equal(t, dr.On, m.Power)
	require.Equal(t, dr.UEFI, m.Firmware)

	i, ok := dr.As[backend.Inspector](h)
	require.True(t, ok)
	f, err := i.Inspect(ctx, "me")
	require.NoError(t, err)
	require.Equal(t, "me", f.Release)
	_, err = i.Inspect(ctx, "other")
	require.ErrorIs(t, err, dr.ErrNotFound)

	_, ok = dr.As[backend.Shutdowner](h)
	require.False(t, ok, "a flow that shuts it down is refused before its first step")
	require.ErrorIs(t, h.Stop(ctx, "me"), dr.ErrUnsupported)
	_, err = h.Draft(ctx, "me", dr.Point{ID: "p"})
	require.ErrorIs(t, err, dr.ErrUnsupported)
	m, err = h.Machine(ctx, "me")
	require.NoError(t, err)
	require.Equal(t, dr.On, m.Power)

	// Of another machine of the host only the disks are here.
	file := filepath.Join(t.TempDir(), "other.img")
	require.NoError(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	require.NoError(t, h.Add(Machine{ID: "guest", Power: dr.Off, Disks: []Disk{{ID: "d", Path: file}}}))
	_, err = i.Inspect(ctx, "guest")
	require.ErrorIs(t, err, dr.ErrUnsupported)
	require.ErrorIs(t, h.Add(Machine{ID: "twin", Self: true}), dr.ErrInvalid)

	cfg.Inspect, cfg.Root = nil, t.TempDir()
	plain, err := Open(cfg)
	require.NoError(t, err)
	defer plain.Close()
	_, ok = dr.As[backend.Inspector](plain)
	require.False(t, ok)

	cfg.Root, cfg.Machines[0].Power = t.TempDir(), dr.Off
	_, err = Open(cfg)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// A host that was shut down by a hook runs again when its agent does.
func TestTheHostRunsWhereItsAgentRuns(t *testing.T) {
	cfg := selfConfig(t)
	cfg.Hooks.Shutdown = func(context.Context, Event) error { return nil }
	h, err := Open(cfg)
	require.NoError(t, err)
	s, ok := dr.As[backend.Shutdowner](h)
	require.True(t, ok)
	require.NoError(t, s.Shutdown(t.Context(), "me"))
	m, err := h.Machine(t.Context(), "me")
	require.NoError(t, err)
	require.Equal(t, dr.Off, m.Power)
	require.NoError(t, h.Close())
	h, err = Open(cfg)
	require.NoError(t, err)
	defer h.Close()
	m, err = h.Machine(t.Context(), "me")
	require.NoError(t, err)
	require.Equal(t, dr.On, m.Power)
}

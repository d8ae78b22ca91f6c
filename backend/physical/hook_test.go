package physical

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

func shell(t *testing.T, script string) []string {
	t.Helper()
	if _, err := os.Stat("/bin/sh"); err != nil {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return []string{"/bin/sh", "-c", script}
}

func TestCommandIsToldAboutTheMachine(t *testing.T) {
	out := filepath.Join(t.TempDir(), "told")
	h, _ := running(t, func(c *Config) {
		c.Machines[0].Power, c.Machines[0].Name = dr.Off, "web server"
		c.Commands.Start = shell(t, `printf '%s|' "$LIFEBOAT_EVENT" "$LIFEBOAT_MACHINE" "$LIFEBOAT_NAME" "$LIFEBOAT_DISKS" "$LIFEBOAT_ISOLATED" > `+out)
		c.Commands.Probe = shell(t, `echo answers on port 80`)
	})
	require.NoError(t, h.Start(t.Context(), "m"))
	told, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "start|m|web server|/disks/a\n/disks/b|0|", string(told))
	probe, ok := dr.As[backend.Prober](h)
	require.True(t, ok)
	seen, err := probe.Probe(t.Context(), "m")
	require.NoError(t, err)
	require.Equal(t, backend.Evidence{Kind: "hook", What: "answers on port 80"}, seen)
}

// Hooks build machines by what they are told: sizes are the disks' present ones
// in every event, whether the machine is configured or was made here.
func TestHooksAreToldTheSizes(t *testing.T) {
	told := map[string][]int64{}
	var mem fsys.FS
	h, mem := running(t, func(c *Config) {
		hook := func(_ context.Context, e Event) error {
			var sizes []int64
			for _, d := range e.Machine.Disks {
				sizes = append(sizes, d.Size)
			}
			told[e.Name+" "+string(e.Machine.ID)] = sizes
			return nil
		}
		c.Hooks = Hooks{Start: hook, Stop: hook, Shutdown: hook, Freeze: hook, Thaw: hook, Probe: hook}
	})
	const size = 1<<20 + 512
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	r, err := h.Prepare(t.Context(), backend.Placement{Key: "k", Machine: m})
	require.NoError(t, err)
	quiescer, _ := dr.As[backend.Quiescer](h)
	prober, _ := dr.As[backend.Prober](h)
	shutdowner, _ := dr.As[backend.Shutdowner](h)
	for _, id := range []dr.MachineID{"m", r.ID} {
		require.NoError(t, h.Start(t.Context(), id))
		_, err = prober.Probe(t.Context(), id)
		require.NoError(t, err)
		_, thaw, err := quiescer.Quiesce(t.Context(), id, dr.CrashConsistent)
		require.NoError(t, err)
		require.NoError(t, thaw(t.Context()))
		require.NoError(t, h.Stop(t.Context(), id))
		require.NoError(t, h.Start(t.Context(), id))
		require.NoError(t, shutdowner.Shutdown(t.Context(), id))
		for _, name := range []string{"start", "stop", "shutdown", "freeze", "thaw", "probe"} {
			require.Equal(t, []int64{size, size}, told[name+" "+string(id)], "%s of %s", name, id)
		}
	}
	f, err := mem.OpenFile("/disks/b", os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.Truncate(2<<20), f.Close()))
	require.NoError(t, h.Start(t.Context(), "m"))
	require.Equal(t, []int64{size, 2 << 20}, told["start m"], "grown since")
	require.NoError(t, mem.Remove("/disks/a"))
	require.NoError(t, h.Stop(t.Context(), "m"), "without its disk too")
	require.Equal(t, []int64{0, 2 << 20}, told["stop m"])
}

// A Start of which nobody knows whether it did anything leaves the power
// unknown, and the machine is taken for running.
func TestStartThatFails(t *testing.T) {
	h, _ := running(t, func(c *Config) {
		c.Machines[0].Power = dr.Off
		c.Commands.Start = shell(t, `echo the lamp is red >&2; exit 3`)
	})
	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	err = h.Start(t.Context(), "m")
	require.ErrorContains(t, err, "the lamp is red")
	require.ErrorContains(t, err, "exit status 3")
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.Empty(t, m.Power)
	_, err = h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
	require.ErrorIs(t, err, dr.ErrRunning)
	_, err = h.Draft(t.Context(), "m", dr.Point{ID: "q"})
	require.ErrorIs(t, err, dr.ErrRunning)
	require.NoError(t, h.Stop(t.Context(), "m"))
	r, err := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
	require.NoError(t, err)
	require.Empty(t, r.Holds, "it may have run")
}

// A hook that failed may have switched the machine off, or its guest goes down
// later: starting it again is not left out.
func TestStopThatFails(t *testing.T) {
	for _, op := range []string{"stop", "shutdown"} {
		var starts int
		fails := func(context.Context, Event) error { return errors.New("no answer") }
		h, _ := running(t, func(c *Config) {
			c.Hooks.Start = func(context.Context, Event) error { starts++; return nil }
			c.Hooks.Stop, c.Hooks.Shutdown = fails, fails
		})
		if op == "stop" {
			require.ErrorContains(t, h.Stop(t.Context(), "m"), "no answer")
		} else {
			s, ok := dr.As[backend.Shutdowner](h)
			require.True(t, ok)
			require.ErrorContains(t, s.Shutdown(t.Context(), "m"), "no answer")
		}
		m, err := h.Machine(t.Context(), "m")
		require.NoError(t, err)
		require.Empty(t, m.Power, "nobody knows")
		_, err = h.Draft(t.Context(), "m", dr.Point{ID: "p"})
		require.ErrorIs(t, err, dr.ErrRunning)
		require.NoError(t, h.Start(t.Context(), "m"))
		require.Equal(t, 1, starts)
		require.NoError(t, h.Start(t.Context(), "m"))
		require.Equal(t, 1, starts, "now it is known to run")
	}
}

func TestCommandThatTakesTooLong(t *testing.T) {
	run := Command(20*time.Millisecond, shell(t, `echo waiting; exec sleep 600`)...)
	err := run(t.Context(), Event{Name: "stop", Out: &clipped{}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "took longer than 20ms")

	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the run was cancelled")
	cancel(gone)
	require.ErrorIs(t, Command(0, shell(t, `exec sleep 600`)...)(ctx, Event{Out: &clipped{}}), gone)
}

// What a shell has started dies with it: it must not freeze the machine when
// everybody believes that it is thawed.
func TestCommandIsKilledWithItsChildren(t *testing.T) {
	file := filepath.Join(t.TempDir(), "frozen")
	run := Command(50*time.Millisecond, shell(t, `sleep 1; touch "`+file+`"`)...)
	require.ErrorIs(t, run(t.Context(), Event{Name: "freeze", Out: &clipped{}}), context.DeadlineExceeded)
	child := Command(50*time.Millisecond, shell(t, `sh -c 'sleep 1; touch "`+file+`"'; true`)...)
	require.ErrorIs(t, child(t.Context(), Event{Name: "freeze", Out: &clipped{}}), context.DeadlineExceeded)
	time.Sleep(1200 * time.Millisecond)
	require.NoFileExists(t, file)
}

func TestHookOutputIsBounded(t *testing.T) {
	h, _ := running(t, func(c *Config) {
		c.Commands.Stop = shell(t, `yes nonsense | head -c 10000000; exit 1`)
	})
	err := h.Stop(t.Context(), "m")
	require.ErrorContains(t, err, "nonsense")
	require.ErrorContains(t, err, "[...]")
	require.Less(t, len(err.Error()), hookOutput+500)
}

// Flows ask for abilities before their first step: only those that would work
// are shown.
func TestAbilitiesFollowTheHooks(t *testing.T) {
	hook := func(context.Context, Event) error { return nil }
	for name, tc := range map[string]struct {
		hooks                    Hooks
		probe, quiesce, shutdown bool
	}{
		"none":        {shutdown: true},
		"stop":        {hooks: Hooks{Stop: hook}},
		"shutdown":    {hooks: Hooks{Stop: hook, Shutdown: hook}, shutdown: true},
		"probe":       {hooks: Hooks{Probe: hook}, probe: true, shutdown: true},
		"freeze only": {hooks: Hooks{Freeze: hook}, shutdown: true},
		"freeze":      {hooks: Hooks{Freeze: hook, Thaw: hook}, quiesce: true, shutdown: true},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := running(t, func(c *Config) { c.Hooks = tc.hooks })
			_, probe := dr.As[backend.Prober](h)
			_, quiesce := dr.As[backend.Quiescer](h)
			s, shutdown := dr.As[backend.Shutdowner](h)
			require.Equal(t, []bool{tc.probe, tc.quiesce, tc.shutdown}, []bool{probe, quiesce, shutdown})
			if shutdown {
				require.NoError(t, s.Shutdown(t.Context(), "m"))
				require.NoError(t, s.Shutdown(t.Context(), "m"))
				img, err := h.Capture(t.Context(), "m", "p", dr.ApplicationConsistent)
				require.NoError(t, err)
				require.NoError(t, img.Close())
				want := dr.CrashConsistent
				if tc.hooks.Shutdown != nil {
					want = dr.ApplicationConsistent
				}
				require.Equal(t, want, img.Point().Consistency)
			}
		})
	}
}

func TestConfigIsJSON(t *testing.T) {
	const text = `{"root":"/r","machines":[{"id":"m","power":"off","disks":[{"id":"d","path":"/dev/sda","boot":true}],"firmware":"uefi"}],"commands":{"start":["virsh","start","m"],"limit":1000000000},"freezeLimit":2000000000}`
	var c Config
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&c))
	require.NoError(t, c.validate())
	b, err := json.Marshal(c)
	require.NoError(t, err)
	require.Equal(t, text, string(b))
}

func TestConfigThatMakesNoSense(t *testing.T) {
	d := []Disk{{ID: "d", Path: "/x"}}
	for name, c := range map[string]Config{
		"no root":            {},
		"machine twice":      {Root: "r", Machines: []Machine{{ID: "m"}, {ID: "m"}}},
		"machine's name":     {Root: "r", Machines: []Machine{{ID: "../m"}}},
		"power":              {Root: "r", Machines: []Machine{{ID: "m", Power: "of"}}},
		"disk twice":         {Root: "r", Machines: []Machine{{ID: "m", Disks: []Disk{d[0], {ID: "d", Path: "/y"}}}}},
		"disk without path":  {Root: "r", Machines: []Machine{{ID: "m", Disks: []Disk{{ID: "d"}}}}},
		"path of two owners": {Root: "r", Machines: []Machine{{ID: "m", Disks: d}, {ID: "n", Disks: d}}},
	} {
		_, err := Open(c)
		require.ErrorIs(t, err, dr.ErrInvalid, name)
	}
}

func TestMissingDiskIsNamed(t *testing.T) {
	h, mem := running(t, nil)
	require.NoError(t, mem.Remove("/disks/b"))
	_, err := h.Machine(t.Context(), "m")
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, "disk b")
	require.ErrorContains(t, err, "/disks/b")
	problems, err := h.Preflight(t.Context(), "m")
	require.NoError(t, err)
	require.Equal(t, "disk-missing", problems[0].Code)
	require.EqualValues(t, "b", problems[0].Disk)
	for m, err := range h.Machines(t.Context()) {
		require.Error(t, err)
		require.EqualValues(t, "m", m.ID)
	}
}

// Until somebody switches it here, a machine is what the configuration says,
// and one that is said to run holds nothing any more.
func TestPowerAsConfigured(t *testing.T) {
	h, _ := running(t, func(c *Config) { c.Machines[0].Power = dr.Off })
	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	cfg := h.cfg
	find := func(p dr.Power) (backend.Replica, error) {
		require.NoError(t, h.Close())
		cfg.Machines[0].Power = p
		h, err = Open(cfg)
		require.NoError(t, err)
		return h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: img.Point().Machine})
	}
	r, err := find(dr.Off)
	require.NoError(t, err)
	require.EqualValues(t, "p", r.Holds)
	_, err = find("")
	require.ErrorIs(t, err, dr.ErrRunning)
	r, err = find(dr.Off)
	require.NoError(t, err)
	require.Empty(t, r.Holds, "it may have run in between")
	require.NoError(t, h.Start(t.Context(), "m"))
	_, err = find(dr.Off)
	require.ErrorIs(t, err, dr.ErrRunning, "what was done here counts")
	require.NoError(t, h.Close())
}

// A replica whose image somebody deleted can still be removed.
func TestRemoveWithoutItsImage(t *testing.T) {
	root := t.TempDir()
	h, err := Open(Config{Root: root})
	require.NoError(t, err)
	defer h.Close()
	m := dr.Machine{ID: "x", Disks: []dr.Disk{{ID: "d", Size: 4096}, {ID: "e", Size: 512}}}
	r, err := h.Prepare(t.Context(), backend.Placement{Key: "k", Machine: m})
	require.NoError(t, err)
	image := filepath.Join(root, string(r.ID), "d.img")
	require.NoError(t, os.Remove(image))
	_, err = h.Draft(t.Context(), r.ID, dr.Point{ID: "p"})
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, image)
	_, err = h.Prepare(t.Context(), backend.Placement{Key: "k", Machine: m})
	require.ErrorIs(t, err, dr.ErrNotFound, "an image that was lost is not made anew in silence")
	require.NoError(t, h.Remove(t.Context(), r.ID))
	require.NoDirExists(t, filepath.Join(root, string(r.ID)))
}

// Other disks under the same name hold nothing that the old ones did.
func TestOtherDisksAreAnotherContent(t *testing.T) {
	h, mem := running(t, func(c *Config) { c.Machines[0].Power = dr.Off })
	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	cfg := h.cfg
	require.NoError(t, h.Close())
	require.NoError(t, mem.Rename("/disks/a", "/disks/c"))
	cfg.Machines[0].Disks[0].Path = "/disks/c"
	h, err = Open(cfg)
	require.NoError(t, err)
	defer h.Close()
	r, err := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: img.Point().Machine})
	require.NoError(t, err)
	require.Empty(t, r.Holds)
}

func FuzzRecord(f *testing.F) {
	good, err := encode(&record{Version: recordVersion, Made: true, Key: "k", Torn: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 512}}},
		Disks: []diskFile{{ID: "a", Path: "a.img"}}, Held: []held{{Point: "p"}}, Epochs: []named{{"p", "x.1"}}})
	require.NoError(f, err)
	for _, s := range []string{string(good), "", "{}", `{"version":1,"made":true,"machine":{"disks":[{"id":"a"}]},"disks":[{"id":"a","path":"../../etc/passwd.img"}]}`,
		`{"version":1,"dropped":["../x.img"]}`, `{"version":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parse("machine.json", b)
		if err != nil {
			return
		}
		require.Len(t, r.Disks, len(r.Machine.Disks))
		for _, d := range r.Disks {
			require.True(t, !r.Made || filepath.Base(d.Path) == d.Path, "a record must not lead out of its folder")
		}
		_, err = encode(r.clone())
		require.NoError(t, err)
	})
}

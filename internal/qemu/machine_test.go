package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/qemu/bootsector"
)

// disk is an image of a boot sector and zeros.
func disk(t testing.TB, sector []byte) string {
	path := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, sector, 0o600))
	require.NoError(t, os.Truncate(path, 2<<20))
	return path
}

// needs skips the test where a program isn't there, or fails it where nothing may
// be missing.
func needs(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err == nil {
		return
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatal("qemu-system-x86_64 is not installed, and LIFEBOAT_REQUIRE=all")
	}
	t.Skip("qemu-system-x86_64 is not installed")
}

func start(t testing.TB, c Config) *Machine {
	t.Helper()
	needs(t)
	if c.Dir == "" {
		f, err := NewFolder("")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		c.Dir = f.Machine
	}
	if c.Memory == 0 {
		c.Memory = 64 << 20
	}
	m, err := Start(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// says is evidence of text.
func says(text string) Evidence { return Serial{regexp.MustCompile(regexp.QuoteMeta(text))} }

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestBootsFromEveryBus(t *testing.T) {
	for _, bus := range []string{"virtio", "ahci", "nvme"} {
		for _, kind := range []string{"pc", "q35"} {
			t.Run(bus+" "+kind, func(t *testing.T) {
				t.Parallel()
				m := start(t, Config{Type: kind, Disks: []Disk{{Path: disk(t, bootsector.New("well\r\n", bootsector.Halt)), Bus: bus, Serial: "a serial number of many letters"}}})
				seen, err := m.Await(within(t, 30*time.Second), says("well"))
				require.NoError(t, err, m.Console())
				require.Equal(t, `the console says "well"`, seen[0].What)
				b, err := m.Screen(t.Context())
				require.NoError(t, err)
				img, err := png.Decode(bytes.NewReader(b))
				require.NoError(t, err)
				lit := false
				for x := range img.Bounds().Dx() {
					for y := range img.Bounds().Dy() {
						r, g, b, _ := img.At(x, y).RGBA()
						lit = lit || r+g+b > 0
					}
				}
				require.True(t, lit, "the firmware's text is on the screen")
			})
		}
	}
}

func TestFailuresAreToldAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		sector []byte
		want   error
	}{
		"zeros":     {nil, ErrNoBootDevice},
		"panic":     {bootsector.New("Kernel panic - not syncing: no init\r\n", bootsector.Halt), ErrPanicked},
		"told":      {bootsector.New("x", bootsector.Panic), ErrPanicked},
		"resets":    {bootsector.New("again\r\n", bootsector.Reset), ErrResetLoop},
		"power off": {bootsector.New("bye\r\n", bootsector.PowerOff), ErrPoweredOff},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t, Config{Disks: []Disk{{Path: disk(t, c.sector)}}})
			_, err := m.Await(within(t, 30*time.Second), says("well"))
			require.ErrorIs(t, err, c.want, m.Console())
			require.ErrorIs(t, m.Err(), c.want)
		})
	}
}

func TestKilledIsToldAndBadDisksAreRefused(t *testing.T) {
	m := start(t, Config{Disks: []Disk{{Path: disk(t, bootsector.New("well", bootsector.Halt))}}})
	require.NoError(t, m.process.Kill())
	_, err := m.Await(within(t, 10*time.Second), says("never"))
	require.ErrorIs(t, err, ErrEnded)
	require.NoError(t, m.Close())

	f, err := NewFolder("")
	require.NoError(t, err)
	defer f.Close()
	_, err = Start(t.Context(), Config{Dir: f.Machine, Disks: []Disk{{Socket: "nobody"}}})
	require.ErrorContains(t, err, "nobody")
	require.ErrorIs(t, err, ErrEnded)
	_, err = Start(t.Context(), Config{Dir: f.Machine, Program: "/nonexistent/qemu"})
	require.ErrorContains(t, err, "install it")
	_, err = Start(t.Context(), Config{Dir: f.Machine, Disks: []Disk{{}}})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// number is what the counting boot sector has written.
func number(t *testing.T, path string) uint16 {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return binary.LittleEndian.Uint16(b[bootsector.CountAt:])
}

func TestStoppedWritesNothing(t *testing.T) {
	path := disk(t, bootsector.New("well\r\n", bootsector.Count))
	m := start(t, Config{Disks: []Disk{{Path: path}}})
	_, err := m.Await(within(t, 30*time.Second), says("well"))
	require.NoError(t, err)
	var last uint16
	for range 3 {
		require.Eventually(t, func() bool { return number(t, path) != last }, time.Minute, time.Millisecond)
		require.NoError(t, m.Stop(t.Context()))
		last = number(t, path)
		for range 50 {
			_, err := m.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, last, number(t, path))
		}
		require.NoError(t, m.Continue(t.Context()))
	}
	status, err := m.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, "running", status)
}

func TestOutlivesAndIsFoundAgain(t *testing.T) {
	f, err := NewFolder("")
	require.NoError(t, err)
	defer f.Close()
	c := Config{Dir: f.Machine, Outlive: true, Disks: []Disk{{Path: disk(t, bootsector.New("well\r\n", bootsector.Count))}}}
	_, err = Attach(t.Context(), c)
	require.ErrorIs(t, err, dr.ErrNotFound)
	m := start(t, c)
	_, err = m.Await(within(t, 30*time.Second), says("well"))
	require.NoError(t, err)
	for range 5 { // more than may wait at its socket
		_, err = Start(t.Context(), c)
		require.ErrorIs(t, err, dr.ErrBusy, "its sockets are not taken away")
	}
	t.Cleanup(func() { _ = m.Kill() }) // of a test that failed
	require.NoError(t, m.Detach())
	require.NoError(t, m.Close(), "of one that is left alone")
	_, err = Start(t.Context(), c)
	require.ErrorIs(t, err, dr.ErrBusy)
	last := number(t, c.Disks[0].Path)
	require.Eventually(t, func() bool { return number(t, c.Disks[0].Path) != last }, time.Minute, time.Millisecond)

	// As of a machine under UEFI, when who looks for it knows only its name.
	require.NoError(t, os.Remove(filepath.Join(c.Dir, biosSocket)))
	again, err := Attach(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, again.Detach())
	again, err = Attach(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, again.Stop(t.Context()))
	require.NoError(t, again.Close())
	_, err = os.Stat(fmt.Sprintf("/proc/%d/exe", m.process.Pid))
	require.Error(t, err, "the process is gone, and its locks")
	_, err = Attach(t.Context(), c)
	require.ErrorIs(t, err, dr.ErrNotFound)
	<-m.Gone()
}

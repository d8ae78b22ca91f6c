package bootproof

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// system builds the disk of a small Linux, or skips.
func system(t testing.TB, o minilinux.Options) string {
	t.Helper()
	needs(t)
	if err := minilinux.Ready(); err != nil {
		lack(t, err.Error())
	}
	o.Path = filepath.Join(t.TempDir(), "system.img")
	require.NoError(t, minilinux.Build(t.Context(), o))
	return o.Path
}

// A Linux boots from a vault, under both firmwares: its console, its web page and
// its own call are the evidence. One has an address of its own, which it is reached
// at in a network around it.
func TestLinuxBootsFromTheVault(t *testing.T) {
	for firmware, c := range map[dr.Firmware]struct{ address, hello string }{
		dr.BIOS: {"10.0.2.15/24", "10.0.2.100:9000"},
		dr.UEFI: {"192.168.7.2/24", "192.168.7.254:9000"},
	} {
		t.Run(string(firmware), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.keep(physical.Machine{ID: "m", Firmware: firmware, Memory: 256 << 20,
				NICs: []dr.NIC{{ID: "eth0", MAC: "52:54:00:12:34:56", Addresses: []string{c.address}}},
				Disks: []physical.Disk{{ID: "sda", Boot: true, Path: system(t, minilinux.Options{
					Firmware: firmware, Address: netip.MustParsePrefix(c.address),
					Service: minilinux.Service{Hello: c.hello}})}}}, "p1")
			img := w.open("m", "p1")
			o := Options{Folder: t.TempDir(), Evidence: []Evidence{
				Serial(regexp.MustCompile(`lifeboat-recovered \d+`)),
				HTTP(8080, "/", regexp.MustCompile(`^[1-9]\d*`)),
				TCP(8080, "GET /status HTTP/1.0\r\n\r\n", regexp.MustCompile(fmt.Sprintf(`"firmware":"%s"`, firmware))),
				Hello(9000, regexp.MustCompile(`"host":"minilinux"`)),
			}}
			r, err := Prove(within(t, 2*time.Minute), img, o)
			require.NoError(t, err, r.Console)
			t.Logf("%s; %d MiB read", r, r.BytesRead>>20)
			if f := os.Getenv("LIFEBOAT_SCREENS"); f != "" {
				require.NoError(t, os.WriteFile(filepath.Join(f, string(firmware)+".png"), r.Screenshot, 0o600))
			}
			require.Len(t, r.Seen, 4)
			require.Empty(t, leftovers(t, o.Folder))
			w.whole()
		})
	}
}

// UEFI firmware without anything to start tells so by another way than a BIOS.
func TestUEFIWithoutASystem(t *testing.T) {
	needs(t)
	w := newWorld(t)
	m := machine(t, nil)
	m.Firmware = dr.UEFI
	w.keep(m, "p1")
	o := Options{Folder: t.TempDir(), Evidence: []Evidence{says("well")}}
	r, err := Prove(within(t, 2*time.Minute), w.open("m", "p1"), o)
	require.ErrorIs(t, err, ErrNoBootDevice, r.Console)
	t.Log(r, r.Console)
	require.Empty(t, leftovers(t, o.Folder))
}

// A Linux goes on running from its point, and is shut down in order; its last point
// needs no repair.
func TestLinuxIsRecoveredAtOnceAndComesHome(t *testing.T) {
	w := newWorld(t)
	w.keep(physical.Machine{ID: "m", Memory: 256 << 20, Disks: []physical.Disk{{ID: "sda", Boot: true, Path: system(t, minilinux.Options{})}}}, "p1")
	web := HTTP(8080, "/", regexp.MustCompile(`^[1-9]\d*`))
	o := InstantOptions{Options: Options{Evidence: []Evidence{web}}}
	v, err := Recover(t.Context(), w.store, "m", "p1", t.TempDir(), o)
	require.NoError(t, err)
	defer v.Close()
	began := time.Now()
	require.NoError(t, v.Start(t.Context()))
	_, err = v.Wait(within(t, time.Minute), web)
	require.NoError(t, err, v.Console())
	t.Logf("it serves after %s", time.Since(began).Round(time.Millisecond))
	cycle := &replication.Cycle{Source: v, Points: w.store}
	rep, err := cycle.ReplicateAs(t.Context(), "m", "p2", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.Empty(t, rep.Full)
	t.Logf("p2, of the running machine: %d KiB in %s", rep.Read>>10, rep.Took.Round(time.Millisecond))
	_, err = v.Wait(within(t, time.Minute), web)
	require.NoError(t, err, "it goes on")
	require.NoError(t, v.Shutdown(within(t, time.Minute)))
	rep, err = cycle.ReplicateAs(t.Context(), "m", "p3", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.Empty(t, rep.Full)
	t.Logf("p3, of the machine that is off: %d KiB in %s", rep.Read>>10, rep.Took.Round(time.Millisecond))
	require.NoError(t, v.Discard())
	if os.Getenv("LIFEBOAT_LONG") == "" {
		return // another boot
	}
	r, err := Prove(within(t, time.Minute), w.open("m", "p3"), Options{Evidence: []Evidence{Serial(regexp.MustCompile(`lifeboat-recovered [1-9]\d*`))}})
	require.NoError(t, err, r.Console)
	require.Contains(t, r.Console, "lifeboat-journal clean")
}

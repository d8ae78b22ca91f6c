package bootproof

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux"
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
// its own call are the evidence.
func TestLinuxBootsFromTheVault(t *testing.T) {
	for _, firmware := range []dr.Firmware{dr.BIOS, dr.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.keep(physical.Machine{ID: "m", Firmware: firmware, Memory: 256 << 20,
				NICs: []dr.NIC{{ID: "eth0", MAC: "52:54:00:12:34:56"}},
				Disks: []physical.Disk{{ID: "sda", Boot: true, Path: system(t, minilinux.Options{
					Firmware: firmware, Service: minilinux.Service{Hello: "10.0.2.100:9000"}})}}}, "p1")
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

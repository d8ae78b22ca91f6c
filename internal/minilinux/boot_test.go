package minilinux

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

// checked fails if e2fsck finds anything in the root file system.
func checked(t *testing.T, image string) {
	t.Helper()
	p, err := findPackages()
	require.NoError(t, err)
	tool, err := p.tool("e2fsck")
	require.NoError(t, err)
	info, err := os.Stat(image)
	require.NoError(t, err)
	_, root := layout(info.Size())
	out, err := exec.Command(tool, "-f", "-n", fmt.Sprintf("%s?offset=%d", image, root.off)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "recovery", "a journal that is to be replayed")
}

// slow skips what boots machines where the race detector runs everything once
// more: the machine would not notice.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine: not with -short")
	}
}

// The machine starts from its disk, counts, loses power, starts again with at
// least the last number that it gave away, and is switched off in order.
func TestStartsCountsAndSurvives(t *testing.T) {
	slow(t)
	image := built(t, Options{Name: "survivor"})

	v := start(t, image, dr.BIOS, virtio)
	require.Equal(t, "clean", v.wait(guest.Journal))
	require.Equal(t, "ok 0", v.wait(guest.Ring))
	require.Zero(t, v.number(guest.Recovered))
	require.Equal(t, "10.0.2.15:8080", v.wait(guest.Serving))
	t.Logf("serving after %.1f s", v.sinceStart())
	for v.number(guest.Counter) < 5 {
	}
	served, err := strconv.ParseUint(strings.TrimSpace(v.get("/")), 10, 64)
	require.NoError(t, err)
	require.GreaterOrEqual(t, served, uint64(5))
	v.kill()

	v = start(t, image, dr.BIOS, virtio)
	require.Equal(t, "replayed", v.wait(guest.Journal), "it was not shut down")
	require.Contains(t, v.wait(guest.Ring), "ok ")
	recovered := v.number(guest.Recovered)
	require.GreaterOrEqual(t, recovered, served)
	v.wait(guest.Serving)
	t.Logf("serving again after %.1f s", v.sinceStart())
	s := v.status()
	require.Equal(t, "bios", s.Firmware)
	require.Equal(t, "survivor", s.Host)
	require.Equal(t, "vda2", s.Root)
	require.Equal(t, uint64(2), s.Boots)
	require.Equal(t, recovered, s.Recovered)
	require.True(t, s.Replayed)
	require.GreaterOrEqual(t, s.Counter, s.Recovered)
	v.pressPower()
	checked(t, image)
}

// It starts under UEFI, from the disk that a newer physical machine has, says
// hello, and is shut down cleanly from its first start.
func TestStartsUnderUEFI(t *testing.T) {
	slow(t)
	image := built(t, Options{Firmware: dr.UEFI, Service: Service{Hello: "10.0.2.100:9000"}})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	v := start(t, image, dr.UEFI, nvme, "guestfwd=tcp:10.0.2.100:9000-tcp:"+l.Addr().String())
	require.Equal(t, "clean", v.wait(guest.Journal))
	v.wait(guest.Serving)
	t.Logf("serving after %.1f s", v.sinceStart())
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)))
	conn, err := l.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	var hello guest.Status
	require.NoError(t, json.NewDecoder(conn).Decode(&hello))
	require.Equal(t, "minilinux", hello.Host)
	s := v.status()
	require.Equal(t, "uefi", s.Firmware)
	require.Equal(t, "nvme0n1p2", s.Root)
	v.pressPower()
	checked(t, image)
}

// Power fails at random moments, also while it starts. With LIFEBOAT_LONG.
func TestLosesPowerAgainAndAgain(t *testing.T) {
	slow(t)
	if os.Getenv("LIFEBOAT_LONG") == "" {
		t.Skip("takes two minutes: only with LIFEBOAT_LONG")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	image := built(t, Options{Service: Service{Every: 5 * time.Millisecond, Ring: 64}})
	var last uint64
	for range 12 {
		v := start(t, image, dr.BIOS, virtio)
		require.Contains(t, v.wait(guest.Ring), "ok ")
		recovered := v.number(guest.Recovered)
		require.GreaterOrEqual(t, recovered, last)
		last = recovered
		if r.IntN(4) > 0 {
			v.wait(guest.Serving)
			for goal := recovered + r.Uint64N(200); last < goal; {
				last = v.number(guest.Counter)
			}
		}
		v.kill()
	}
	require.Positive(t, last)
}

var (
	nvme = hardware{"q35", []string{"-device", "nvme,drive=disk,serial=1"}, "virtio-net-pci"}
	ide  = hardware{"pc", []string{"-device", "ide-hd,drive=disk"}, "virtio-net-pci"}
	scsi = hardware{"q35", []string{"-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"}, "virtio-net-pci"}
	esxi = hardware{"pc", []string{"-device", "pvscsi", "-device", "scsi-hd,drive=disk"}, "vmxnet3"}
)

// One disk starts in every other hardware too: that is what a machine meets
// that is recovered elsewhere.
func TestStartsInOtherHardware(t *testing.T) {
	slow(t)
	if os.Getenv("LIFEBOAT_LONG") == "" {
		t.Skip("takes two minutes: only with LIFEBOAT_LONG")
	}
	for _, firmware := range []dr.Firmware{dr.BIOS, dr.UEFI} {
		image := built(t, Options{Firmware: firmware, Path: filepath.Join(t.TempDir(), string(firmware))})
		for name, hw := range map[string]hardware{"virtio": virtio, "nvme": nvme, "ide": ide, "virtio-scsi": scsi, "pvscsi and vmxnet3": esxi} {
			if firmware == dr.UEFI && name == "pvscsi and vmxnet3" {
				continue // Debian's OVMF has no driver for pvscsi
			}
			t.Run(string(firmware)+" "+name, func(t *testing.T) {
				v := start(t, image, firmware, hw)
				recovered := v.number(guest.Recovered)
				v.wait(guest.Serving)
				t.Logf("serving after %.1f s", v.sinceStart())
				for v.number(guest.Counter) < recovered+3 {
				}
				require.Contains(t, v.get("/status"), `"firmware":"`+string(firmware)+`"`)
				v.pressPower()
			})
		}
	}
}

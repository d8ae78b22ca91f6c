package minilinux

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

// The machine starts from its disk, counts, loses power, starts again with at
// least the last number that it gave away, and is switched off in order.
func TestStartsCountsAndSurvives(t *testing.T) {
	for _, firmware := range []dr.Firmware{dr.BIOS, dr.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			image := built(t, Options{Firmware: firmware})

			v := start(t, image, firmware, virtio)
			require.Equal(t, "clean", v.wait(guest.Journal))
			require.Zero(t, v.number(guest.Recovered))
			v.wait(guest.Serving)
			t.Logf("serving after %.1f s", v.sinceStart())
			for v.number(guest.Counter) < 5 {
			}
			served, err := strconv.ParseUint(strings.TrimSpace(v.get("/")), 10, 64)
			require.NoError(t, err)
			require.GreaterOrEqual(t, served, uint64(5))
			s := v.status()
			require.Equal(t, string(firmware), s.Firmware)
			require.Equal(t, uint64(1), s.Boots)
			v.kill()

			v = start(t, image, firmware, virtio)
			require.Equal(t, "replayed", v.wait(guest.Journal))
			require.Contains(t, v.wait(guest.Ring), "ok ")
			recovered := v.number(guest.Recovered)
			require.GreaterOrEqual(t, recovered, served)
			v.wait(guest.Serving)
			t.Logf("serving after %.1f s", v.sinceStart())
			require.Equal(t, uint64(2), v.status().Boots)
			v.pressPower()

			v = start(t, image, firmware, virtio)
			require.Equal(t, "clean", v.wait(guest.Journal), "it was shut down")
			require.GreaterOrEqual(t, v.number(guest.Recovered), recovered)
		})
	}
}

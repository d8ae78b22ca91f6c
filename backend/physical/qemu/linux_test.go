package qemu

import (
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/bootproof"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux"
	"github.com/lifeboat-dr/lifeboat/replication"
)

var recovered = regexp.MustCompile(`lifeboat-recovered (\d+)`)

// A Linux is replicated while it runs, loses its power for good, and boots from
// the last point with the number that it had given away before.
func TestLinuxCrashesAndBootsFromItsLastPoint(t *testing.T) {
	needs(t)
	if err := minilinux.Ready(); err != nil {
		lack(t, err.Error())
	}
	path := filepath.Join(t.TempDir(), "system.img")
	require.NoError(t, minilinux.Build(t.Context(), minilinux.Options{Path: path}))
	r := runner(t, Options{Folder: t.TempDir(), Tracker: physical.NewBitmapTracker(0),
		Evidence: []Evidence{HTTP{Port: 8080, Want: regexp.MustCompile(`^[1-9]\d*`)}}})
	h := host(t, r, physical.Machine{ID: "m", Power: dr.Off, Memory: 256 << 20, Disks: []physical.Disk{{ID: "sda", Path: path, Boot: true}}})
	require.NoError(t, h.Start(t.Context(), "m"))
	require.NoError(t, r.Wait(within(t, time.Minute), "m", r.o.Evidence...))
	at, err := r.Port(t.Context(), "m", 8080)
	require.NoError(t, err)
	count := func() uint64 {
		res, err := http.Get("http://" + at + "/")
		require.NoError(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		require.NoError(t, err)
		return n
	}
	s := openVault(t)
	cycle := &replication.Cycle{Source: h, Points: s}
	var given uint64
	for _, id := range []dr.PointID{"p1", "p2", "p3"} {
		given = count()
		rep, err := cycle.ReplicateAs(t.Context(), "m", id, dr.CrashConsistent, replication.CycleOptions{})
		require.NoError(t, err)
		t.Logf("%s: %d KiB read, %d KiB stored, in %s", id, rep.Read>>10, rep.Written>>10, rep.Took.Round(time.Millisecond))
		if id != "p1" {
			require.Less(t, rep.Read, int64(8<<20), "a delta")
		}
	}
	last := count()
	vm, err := r.there(t.Context(), "m")
	require.NoError(t, err)
	require.NoError(t, vm.Kill())

	img, err := s.Open(t.Context(), "m", "p3")
	require.NoError(t, err)
	defer img.Close()
	rep, err := bootproof.Prove(within(t, 2*time.Minute), img, bootproof.Options{Evidence: []bootproof.Evidence{
		bootproof.Serial(recovered), bootproof.HTTP(8080, "/", regexp.MustCompile(`\d+`))}})
	require.NoError(t, err, rep.Console)
	n, err := strconv.ParseUint(recovered.FindStringSubmatch(rep.Console)[1], 10, 64)
	require.NoError(t, err)
	t.Logf("%d before the last point, %d when its power was cut, %d recovered; %s", given, last, n, rep)
	require.GreaterOrEqual(t, n, given)
	require.LessOrEqual(t, n, last)
}

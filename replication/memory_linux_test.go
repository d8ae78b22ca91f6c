package replication_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// memoryBound is what a process that replicates may take at its peak, however
// large the disks.
const memoryBound = 150 << 20

const memoryChild = "LIFEBOAT_MEMORY_CHILD"

// inChild runs body in a process of its own, whose Go memory is limited to
// the bound, and checks its peak resident set. Other tests in this folder that
// must stay within the bound go through it too.
func inChild(t *testing.T, body func(t *testing.T)) {
	if raced {
		t.Skip("the race detector's memory is no measure")
	}
	if os.Getenv(memoryChild) == t.Name() {
		body(t)
		peak := peakMemory(t)
		require.Less(t, peak, int64(memoryBound), "peak resident set")
		fmt.Printf("peak resident set: %d MiB\n", peak>>20)
		return
	}
	if os.Getenv(memoryChild) != "" {
		t.Skip("another test's child")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	cmd.Env = append(os.Environ(), memoryChild+"="+t.Name(), fmt.Sprintf("GOMEMLIMIT=%d", memoryBound))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "peak resident set", "the child didn't run the test: %s", out)
	t.Logf("%s", out)
}

// peakMemory reads VmHWM, the peak resident set (proc_pid_status(5)).
func peakMemory(t *testing.T) int64 {
	f, err := os.Open("/proc/self/status")
	require.NoError(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(s.Text(), "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	require.Fail(t, "no VmHWM")
	return 0
}

// counting is void that counts what it is given.
type counting struct {
	void
	bytes, zeros atomic.Int64
}

func (c *counting) WriteAt(_ context.Context, _ dr.DiskID, p []byte, _ int64) (int, error) {
	c.bytes.Add(int64(len(p)))
	return len(p), nil
}

func (c *counting) Zero(_ context.Context, _ dr.DiskID, _, n int64) error {
	c.zeros.Add(n)
	return nil
}

// TestMemory copies a sparse disk of 1 TiB with data scattered over it, by
// its map and by what both sides changed: hundreds of thousands of extents.
func TestMemory(t *testing.T) {
	const size = int64(1) << 40
	common := vast{size, 1 << 20, 512}.Point()
	common.ID = "common"
	for name, c := range map[string]struct {
		src  vast
		have replication.History
		want int64 // bytes that travel
	}{
		"map":        {vast{size, 4 << 20, 4096}, replication.History{Blank: true}, size >> 22 * 4096},
		"changes":    {vast{size, 4 << 20, 4096}, replication.History{Common: common}, size >> 22 * 4096},
		"both sides": {vast{size, 4 << 20, 4096}, replication.History{Common: common, Theirs: vast{size, 2 << 20, 512}}, size >> 22 * (4096 + 512)},
		"dense":      {vast{size, 64 << 20, 1 << 20}, replication.History{}, size >> 20 * (1 << 20) / 64},
	} {
		t.Run(name, func(t *testing.T) {
			inChild(t, func(t *testing.T) {
				dst := &counting{}
				r, err := replication.Copy(t.Context(), dst, c.src, replication.CopyOptions{Have: c.have})
				require.NoError(t, err)
				require.Equal(t, c.want, dst.bytes.Load())
				require.Equal(t, c.want, r.Written)
				if c.have.Common.ID == "" && !c.have.Blank {
					require.Equal(t, size-c.want, dst.zeros.Load())
				}
			})
		})
	}
}

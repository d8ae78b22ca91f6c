package vault_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// life is the endless life of a vault, the same for whoever knows its seed:
// point n is written over point n-1, every third time an older one is deleted,
// every fourth the vault is pruned.
type life struct {
	seed uint64
	made []plan
}

func (l *life) plan(n int) plan {
	for i := len(l.made); i <= n; i++ {
		rng := rand.New(rand.NewPCG(l.seed, uint64(i)))
		var parent dr.PointID
		var before content
		if i > 0 {
			parent, before = l.made[i-1].point.ID, l.made[i-1].want
		}
		sizes := map[dr.DiskID]int64{"a": (10+rng.Int64N(10))*chunk + rng.Int64N(2)*512, "b": (20 + rng.Int64N(20)) * chunk}
		l.made = append(l.made, planPoint(rng, dr.PointID(fmt.Sprint(i)), parent, before, sizes, 4))
	}
	return l.made[n]
}

func (l *life) options() vault.Options {
	o := smallVault
	if l.seed%2 == 0 {
		o.Keys = fastKey{}
	}
	return o
}

// told is a file system that writes a line before whatever it changes.
type told struct {
	fsys.FS
	out io.Writer
}

func (f told) tell() { fmt.Fprintln(f.out, "op") }

func (f told) OpenFile(name string, flag int, perm os.FileMode) (fsys.File, error) {
	if flag&os.O_CREATE != 0 {
		f.tell()
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	return toldFile{file, f}, err
}
func (f told) Link(from, to string) error   { f.tell(); return f.FS.Link(from, to) }
func (f told) Rename(from, to string) error { f.tell(); return f.FS.Rename(from, to) }
func (f told) Remove(name string) error     { f.tell(); return f.FS.Remove(name) }
func (f told) SyncDir(name string) error    { f.tell(); return f.FS.SyncDir(name) }

type toldFile struct {
	fsys.File
	on told
}

func (f toldFile) WriteAt(p []byte, off int64) (int, error) {
	f.on.tell()
	return f.File.WriteAt(p, off)
}

func (f toldFile) Sync() error {
	f.on.tell()
	return f.File.Sync()
}

// TestLifeUntilKilled is no test but the process that the next one kills.
func TestLifeUntilKilled(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("VAULT_TEST_LIFE"), 10, 64)
	if err != nil {
		t.Skip("run by another test")
	}
	l := &life{seed: seed}
	v := open(t, told{fsys.OS(), os.Stdout}, os.Getenv("VAULT_TEST_DIR"), l.options())
	n := 0
	for p, err := range v.List(t.Context(), "m") {
		require.NoError(t, err)
		n, err = strconv.Atoi(string(p.ID))
		require.NoError(t, err)
	}
	for ; ; n++ {
		require.NoError(t, l.plan(n).apply(t.Context(), v)) // which may be there
		fmt.Printf("have %d\n", n)
		if n >= 2 && n%3 == 2 {
			fmt.Printf("drop %d\n", n-2)
			require.NoError(t, v.Delete(t.Context(), "m", dr.PointID(fmt.Sprint(n-2))))
		}
		if n%4 == 3 {
			_, err := v.Prune(t.Context())
			require.NoError(t, err)
		}
	}
}

// TestKilledProcesses kills a writing process again and again, at no chosen
// moment: what it had said to be committed is there, whole, each time.
func TestKilledProcesses(t *testing.T) {
	seed := newSeed(t)
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	dir := t.TempDir()
	l := &life{seed: seed}
	rng := rand.New(rand.NewPCG(seed, 99))
	there, gone := map[int]bool{}, map[int]bool{}
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLifeUntilKilled$", "-test.v")
		cmd.Env = append(os.Environ(), "VAULT_TEST_DIR="+dir, fmt.Sprintf("VAULT_TEST_LIFE=%d", seed))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		left := 1 + rng.IntN(200)
		said := ""
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var n int
			if lines.Text() == "op" {
				if left--; left == 0 {
					require.NoError(t, cmd.Process.Kill()) // what it said before is still read
				}
			} else if k, _ := fmt.Sscanf(lines.Text(), "have %d", &n); k == 1 {
				there[n] = true
			} else if k, _ := fmt.Sscanf(lines.Text(), "drop %d", &n); k == 1 {
				gone[n] = true
			} else {
				said += lines.Text() + "\n"
			}
		}
		require.Error(t, cmd.Wait())
		require.LessOrEqual(t, left, 0, "it ended of itself: %s", said)

		v := open(t, fsys.OS(), dir, l.options())
		listed := map[int]bool{}
		for p, err := range v.List(t.Context(), "m") {
			require.NoError(t, err, "round %d", round)
			n, err := strconv.Atoi(string(p.ID))
			require.NoError(t, err)
			listed[n] = true
			require.NoError(t, verify(t.Context(), v, p.ID, l.plan(n).want), "round %d", round)
		}
		for n := range there {
			require.True(t, listed[n] || gone[n], "round %d: point %d was committed", round, n)
		}
		readable(t, v)
		require.NoError(t, v.Close())
	}
	require.NotEmpty(t, there)
	t.Logf("%d kills, %d points committed", rounds, len(there))
}

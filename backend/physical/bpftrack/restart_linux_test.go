package bpftrack

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func scan(s string, into ...any) bool {
	n, err := fmt.Sscan(s, into...)
	return err == nil && n == len(into)
}

// child is another process that tracks, sets a mark whenever it is told to,
// prints it, and keeps the three newest. It is killed by kill.
type child struct {
	cmd  *exec.Cmd
	out  *bufio.Scanner
	in   *os.File
	dead bool
}

const childEnv = "LIFEBOAT_BPFTRACK_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		if err := track(strings.Split(args, "\n")); err != nil {
			fmt.Println("error", err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// track is the child's work. With the third argument it sets marks without
// being told to, so that it may be killed anywhere.
func track(args []string) error {
	tr, err := Open(Options{Pins: args[1], State: args[2]})
	if err != nil {
		return err
	}
	if err := tr.Track(machineOf(args[0])); err != nil {
		return err
	}
	var marks []dr.Cursor
	lines := bufio.NewScanner(os.Stdin)
	for args[3] == "busy" || lines.Scan() {
		mark, err := tr.Cut(context.Background(), "m")
		if err != nil {
			return err
		}
		fmt.Println(mark)
		marks = append(marks, mark)
		marks = marks[max(0, len(marks)-3):]
		if err := tr.Keep(context.Background(), "m", marks); err != nil {
			return err
		}
	}
	return nil
}

func start(t *testing.T, device, pins, state, how string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{device, pins, state, how}, "\n"))
	c.cmd.Stderr = os.Stderr
	in, w, err := os.Pipe()
	require.NoError(t, err)
	c.in, c.cmd.Stdin = w, in
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewScanner(out)
	require.NoError(t, c.cmd.Start())
	in.Close()
	t.Cleanup(c.kill)
	return c
}

// mark reads the next one.
func (c *child) mark(t *testing.T) dr.Cursor {
	t.Helper()
	require.True(t, c.out.Scan())
	require.NotContains(t, c.out.Text(), "error")
	return dr.Cursor(c.out.Text())
}

func (c *child) kill() {
	if !c.dead {
		c.dead = true
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.in.Close()
	}
}

// The tracker is killed while it sets marks and others write; the next process
// takes over. No write since any mark that was given is missing.
func TestKilledAndPinned(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := memory(t)
	file := filepath.Join(dir, "disk")
	device := loopDevice(t, file, 16<<20)
	folder, state := pins(t), filepath.Join(dir, "state")
	f := direct(t, device)
	var written atomic.Int64
	stop, stopped := make(chan struct{}), make(chan error, 1)
	b := aligned(t, 64<<10)
	go func() {
		rng := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			n := 4096 * (1 + rng.IntN(16))
			for i := 0; i < n; i += 512 {
				b[i] = byte(rng.Uint32())
			}
			if _, err := f.WriteAt(b[:n], 4096*rng.Int64N((16<<20-64<<10)/4096)); err != nil {
				stopped <- err
				return
			}
			written.Add(1)
		}
	}()
	rounds, narrow := 0, 0
	for more := long(); more(rounds, 8); rounds++ {
		c := start(t, device, folder, state, "busy")
		marks := []dr.Cursor{c.mark(t)}
		images := [][]byte{content(t, file)} // read after the mark
		for range rng.IntN(3) {
			marks = append(marks, c.mark(t))
		}
		time.AfterFunc(time.Duration(rng.IntN(20))*time.Millisecond, func() { _ = c.cmd.Process.Kill() })
		for c.out.Scan() {
			marks = append(marks, dr.Cursor(c.out.Text()))
		}
		c.kill()
		after := content(t, file) // nobody is there to see what is written since
		last := marks[len(marks)-1]
		n := written.Load()
		require.Eventually(t, func() bool { return written.Load() > n+5 }, time.Minute, time.Millisecond)

		tr, err := Open(Options{Pins: folder, State: state})
		require.NoError(t, err)
		require.NoError(t, tr.Track(machineOf(device)))
		require.True(t, tr.Health()[0].Kept)
		final := content(t, file)
		got := since(t, tr, last)
		for _, i := range differ(after, final) {
			require.True(t, got[i], "round %d: block %d, written after the kill", rounds, i)
		}
		if len(got) < 256 {
			narrow++
		}
		if len(marks) <= 3 { // the first mark is still kept
			got := since(t, tr, marks[0])
			for _, i := range differ(images[0], final) {
				require.True(t, got[i], "round %d: block %d, written since the first mark", rounds, i)
			}
		}
		mark := cut(t, tr)
		require.NotContains(t, marks, mark, "no mark is given twice")
		require.NoError(t, tr.Close())
	}
	close(stop)
	require.NoError(t, <-stopped)
	t.Logf("%d writes; %d of %d answers were less than everything", written.Load(), narrow, rounds)
}

// Without pins, without the state, with another one's, or with pins that were
// exchanged, the marks of the process before are lost, and said to be.
func TestRestartedWithoutProof(t *testing.T) {
	dir := memory(t)
	device := loopDevice(t, filepath.Join(dir, "disk"), 16<<20)
	folder, state := pins(t), filepath.Join(dir, "state")
	pinned := Options{Pins: folder, State: state}
	b := aligned(t, 4096)
	for _, c := range []struct {
		name          string
		before, after Options
		between       func()
		kept          bool
	}{
		{"not pinned", Options{}, Options{}, nil, false},
		{"pinned", pinned, pinned, nil, true},
		{"no longer pinned", pinned, Options{}, nil, false},
		{"state gone", pinned, pinned, func() { require.NoError(t, os.Remove(filepath.Join(state, "state"))) }, false},
		{"state damaged", pinned, pinned, func() {
			path := filepath.Join(state, "state")
			s := content(t, path)
			s[len(s)/2]++
			require.NoError(t, os.WriteFile(path, s, 0o600))
		}, false},
		{"pins gone", pinned, pinned, func() {
			files, err := filepath.Glob(folder + "/*_link")
			require.NoError(t, err)
			require.NotEmpty(t, files)
			require.NoError(t, os.Remove(files[0]))
		}, false},
		{"another block size", pinned, Options{Pins: folder, State: state, BlockSize: 4096}, nil, false},
		{"another medium", pinned, pinned, func() {
			command(t, "losetup", "-d", device)
			command(t, "losetup", device, filepath.Join(dir, "disk"))
		}, false},
		{"still pinned", pinned, pinned, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := tracker(t, device, c.before)
			mark := cut(t, tr)
			require.NoError(t, tr.Close())
			if c.between != nil {
				c.between()
			}
			f := direct(t, device)
			_, err := f.WriteAt(b, 7<<16)
			require.NoError(t, err)
			f.Close()
			again := tracker(t, device, c.after)
			if c.kept {
				require.Equal(t, map[int64]bool{7: true}, since(t, again, mark))
			} else {
				lost(t, again, mark)
			}
			next := cut(t, again)
			require.NotEqual(t, mark, next)
			require.Empty(t, since(t, again, next))
		})
	}
	other := tracker(t, device, pinned)
	_, err := Open(pinned)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.NoError(t, other.Untrack("m"))
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, left)
}

// State and pins must be where they live as long as the kernel.
func TestFoldersOfTheWrongKind(t *testing.T) {
	dir := memory(t)
	for _, o := range []Options{
		{Pins: "/sys/fs/bpf/x"}, {Pins: dir + "/pins", State: dir}, {Pins: filepath.Join(pins(t), "x"), State: t.TempDir()}, {BlockSize: 3 << 12},
	} {
		_, err := Open(o)
		require.Error(t, err)
		require.NotErrorIs(t, err, dr.ErrBusy)
	}
}

// long is how long each proof goes on, beyond its sample: LIFEBOAT_LONG, as
// "10m".
func long() func(round, sample int) bool {
	var until time.Time
	if text := os.Getenv("LIFEBOAT_LONG"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			d = 10 * time.Minute
		}
		until = time.Now().Add(d)
	}
	return func(round, sample int) bool { return round < sample || time.Now().Before(until) }
}

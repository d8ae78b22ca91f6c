//go:build linux

package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

const fakePassword = "s3cret 'quoted' $HOME"

// fakeNbdkit notes how it was started, then becomes the real nbdkit with the
// plugin "file" on $RAW, as far as MODE lets it.
const fakeNbdkit = `#!/bin/sh
tr '\0' '\n' </proc/$$/environ >"$NOTES/env"
printf '%s\n' "$@" >"$NOTES/args"
echo $$ >"$NOTES/process"
for a in "$@"; do
	shift
	case "$a" in
	password=-3) cat <&3 >"$NOTES/password" ;;
	vddk)
		case "$MODE" in
		refuse) set -- "$@" eval get_size='echo 1' open='echo "EIO $SAYS" >&2; exit 1' ;;
		slow) set -- "$@" eval get_size='echo 1' open='sleep 1000' ;;
		*) set -- "$@" file "$RAW" ;;
		esac ;;
	server=*|port=*|user=*|thumbprint=*|vm=*|snapshot=*|libdir=*|transports=*|compression=*|config=*|file=*) ;;
	*) set -- "$@" "$a" ;;
	esac
done
case "$MODE" in
die) echo "nbdkit: error: $SAYS: $(cat "$NOTES/password")" >&2; exit 3 ;;
hang) exec sleep 1000 ;;
deaf) trap '' TERM; while :; do sleep 1; done ;;
esac
exec nbdkit "$@"
`

// nbdkitRig is a raw file that nbdkit serves in place of a disk.
type nbdkitRig struct {
	*transportRig
	k     *VDDK
	notes string
	raw   string
	ref   diskRef
}

func newNbdkitRig(t testing.TB, mode, says string) *nbdkitRig {
	t.Helper()
	tool(t, "nbdkit")
	dir := t.TempDir()
	r := &nbdkitRig{transportRig: newTransportRig(t, vmwaretest.Options{Password: fakePassword}, 16*mib), notes: filepath.Join(dir, "notes"), raw: filepath.Join(dir, "raw")}
	require.NoError(t, os.Mkdir(r.notes, 0o700))
	r.scatter(1)
	require.NoError(t, os.WriteFile(r.raw, r.want, 0o600))
	fake := filepath.Join(dir, "fake-nbdkit")
	require.NoError(t, os.WriteFile(fake, []byte(fakeNbdkit), 0o700))
	lib := filepath.Join(dir, "vddk")
	require.NoError(t, os.MkdirAll(filepath.Join(lib, "lib64"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(lib, "lib64", "libvixDiskLib.so.8"), nil, 0o600))
	// Sockets are looked for here afterwards.
	tmp := filepath.Join(dir, "t")
	require.NoError(t, os.Mkdir(tmp, 0o700))
	if tt, ok := t.(*testing.T); ok {
		tt.Setenv("TMPDIR", tmp)
		tt.Setenv("LB_PASSWORD", fakePassword) // must not get through
	}
	r.k = &VDDK{Nbdkit: fake, LibDir: lib, Transports: "nbdssl:nbd", Compression: "fastlz", Config: "/etc/vddk.conf", Verbose: true,
		Env: []string{"NOTES=" + r.notes, "RAW=" + r.raw, "MODE=" + mode, "SAYS=" + says}}
	s := r.snapshot("s")
	r.ref = r.transportRig.ref(&s)
	return r
}

func (r *nbdkitRig) note(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.notes, name))
	require.NoError(r.t, err)
	return string(b)
}

func (r *nbdkitRig) process() int {
	pid, err := strconv.Atoi(strings.TrimSpace(r.note("process")))
	require.NoError(r.t, err)
	return pid
}

// gone checks that nothing is left: no process, also no zombie, no folder.
func (r *nbdkitRig) gone() {
	r.t.Helper()
	require.ErrorIs(r.t, syscall.Kill(r.process(), 0), syscall.ESRCH)
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(r.t, err)
	left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return !strings.HasPrefix(e.Name(), "lb-nbdkit-") })
	require.Empty(r.t, left)
}

// silent checks that nobody was told the password.
func (r *nbdkitRig) silent(texts ...string) {
	r.t.Helper()
	for _, text := range append(texts, r.note("args"), r.note("env"), r.log.String()) {
		require.NotContains(r.t, text, fakePassword)
	}
	require.Equal(r.t, fakePassword, r.note("password"), "it was handed over")
}

func TestVDDKReads(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	quiet(t, r.transportRig)
	d := r.open(r.k, r.ref, false)
	r.readAll(d, 1<<20, 8)
	r.readRandom(d, 2, 30)
	r.read(d, 5, 9<<20)
	r.silent()
	args := strings.Split(strings.TrimSpace(r.note("args")), "\n")
	for _, want := range []string{"--readonly", "--foreground", "--exit-with-parent", "vddk", "password=-3", "server=" + r.v.client.URL().Hostname(), "port=" + r.v.client.URL().Port(),
		"user=" + r.v.options.User, "vm=moref=" + r.ref.vm.Value, "snapshot=" + r.ref.snapshot.Value, "file=" + r.ref.file,
		"libdir=" + r.k.LibDir, "transports=nbdssl:nbd", "compression=fastlz", "config=/etc/vddk.conf"} {
		require.Contains(t, args, want)
	}
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "thumbprint=") })
	require.Regexp(t, `^thumbprint=([0-9A-F]{2}:){19}[0-9A-F]{2}$`, args[i])
	env := r.note("env")
	require.Contains(t, env, "LD_LIBRARY_PATH="+filepath.Join(r.k.LibDir, "lib64"))
	require.NotContains(t, env, "LB_PASSWORD")
	dir := filepath.Dir(args[slices.Index(args, "--unix")+1])
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	drained(t, d)
	r.gone()
	require.Contains(t, r.log.String(), "nbdkit: ", "what it tells is in the log")
}

func TestVDDKMaps(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	clear(r.want[4<<20 : 8<<20])
	f, err := os.Create(r.raw)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(int64(len(r.want))))
	_, err = f.WriteAt(r.want[:4<<20], 0)
	require.NoError(t, err)
	_, err = f.WriteAt(r.want[8<<20:], 8<<20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	d := &limited{device: r.open(r.k, r.ref, false), leave: func() {}}
	m, ok := dr.As[nbd.Mapper](d)
	require.True(t, ok)
	var zero int64
	for e, err := range m.Extents(context.Background(), 0, r.ref.size) {
		require.NoError(t, err)
		if e.Zero {
			zero += e.Len
			require.True(t, bytes.Equal(r.want[e.Off:e.Off+e.Len], make([]byte, e.Len)))
		}
	}
	require.GreaterOrEqual(t, zero, int64(4<<20))
}

func TestVDDKWrites(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	r.off()
	ref := r.transportRig.ref(nil)
	d := r.open(r.k, ref, true)
	w, ok := dr.As[writable](&limited{device: d, leave: func() {}})
	require.True(t, ok)
	p := bytes.Repeat([]byte("written "), 700_000)
	_, err := w.WriteAt(context.Background(), p, 1001)
	require.NoError(t, err)
	copy(r.want[1001:], p)
	require.NoError(t, w.Zero(context.Background(), 2<<20, 1<<20))
	clear(r.want[2<<20 : 3<<20])
	require.NoError(t, w.Flush(context.Background()))
	r.readAll(w, 1<<20, 4)
	require.NoError(t, w.Close())
	got, err := os.ReadFile(r.raw)
	require.NoError(t, err)
	require.True(t, bytes.Equal(r.want, got))
	require.NotContains(t, r.note("args"), "--readonly")
	require.NotContains(t, r.note("args"), "snapshot=")
	r.silent()
	r.gone()
}

func TestVDDKRefuses(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	require.Empty(t, r.k.refuse(r.ref, false))
	require.NotEmpty(t, r.k.refuse(r.ref, true), "a snapshot")
	running := r.transportRig.ref(nil)
	require.NotEmpty(t, r.k.refuse(running, true), "a running machine")
	require.Contains(t, (&VDDK{Nbdkit: "no-such-nbdkit"}).refuse(r.ref, false), "install nbdkit")
	require.Contains(t, (&VDDK{Nbdkit: r.k.Nbdkit, LibDir: t.TempDir()}).refuse(r.ref, false), "lib64/libvixDiskLib.so")
	require.Empty(t, (&VDDK{Nbdkit: r.k.Nbdkit, LibDir: filepath.Join(r.k.LibDir, "lib64")}).refuse(r.ref, false))
}

func TestVDDKFailsToStart(t *testing.T) {
	for says, remedy := range map[string]string{
		"libvixDiskLib.so.8: cannot open shared object file: No such file or directory": "VDDK.LibDir",
		"cannot open plugin 'vddk': /usr/lib/nbdkit-vddk-plugin.so":                     "install nbdkit's vddk plugin",
		"Please verify whether the \"thumbprint\" parameter matches":                    "VDDK.Thumbprint",
		"VixDiskLib_ConnectEx: Cannot complete login due to an incorrect user name":     "User and Password",
		"VixDiskLib_ConnectEx: The host is not licensed for this feature":               "licence",
		"Failed to connect to server esx-1:902":                                         "port 902",
	} {
		t.Run(remedy, func(t *testing.T) {
			r := newNbdkitRig(t, "die", says)
			quiet(t, r.transportRig)
			_, err := r.k.open(context.Background(), r.v, r.ref, false)
			require.ErrorContains(t, err, says)
			require.ErrorContains(t, err, "exit status 3")
			var x *explained
			require.True(t, errors.As(err, &x))
			require.Contains(t, x.remedy, remedy)
			r.silent(err.Error(), fmt.Sprintf("%+v", err))
			r.gone()
		})
	}
	r := newNbdkitRig(t, "", "")
	r.k.Nbdkit = "/dev/null"
	_, err := r.k.open(context.Background(), r.v, r.ref, false)
	require.ErrorContains(t, err, "could not be started")
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(left), "lb-nbdkit-")
}

// What is kept of nbdkit's words is bounded, and is the end of them.
func TestTail(t *testing.T) {
	k := &tail{max: 100}
	for i := range 1000 {
		k.add(fmt.Sprint("line ", i))
		require.LessOrEqual(t, len(k.String()), 100+2*len(k.lines))
	}
	require.Contains(t, k.String(), "line 998; line 999")
	k.add(strings.Repeat("x", 1000))
	require.Equal(t, strings.Repeat("x", 100), k.String())
}

// What VDDK finds wrong shows when nbdkit is connected to.
func TestVDDKCantOpen(t *testing.T) {
	r := newNbdkitRig(t, "refuse", "VixDiskLib_Open: The file is locked: "+fakePassword)
	quiet(t, r.transportRig)
	_, err := r.k.open(context.Background(), r.v, r.ref, false)
	require.ErrorContains(t, err, "VixDiskLib_Open: The file is locked: (secret)")
	var x *explained
	require.True(t, errors.As(err, &x))
	require.Contains(t, x.remedy, "another backup")
	require.NotContains(t, err.Error(), fakePassword)
	require.NotContains(t, r.log.String(), fakePassword)
	r.gone()
}

func TestVDDKIsCancelled(t *testing.T) {
	for _, mode := range []string{"hang", "deaf", "slow"} {
		t.Run(mode, func(t *testing.T) {
			r := newNbdkitRig(t, mode, "")
			quiet(t, r.transportRig)
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				for b, _ := os.ReadFile(filepath.Join(r.notes, "password")); len(b) == 0; b, _ = os.ReadFile(filepath.Join(r.notes, "password")) {
					time.Sleep(time.Millisecond)
				}
				if mode == "slow" {
					time.Sleep(500 * time.Millisecond) // until it hangs in the handshake
				}
				cancel()
			}()
			start := time.Now()
			_, err := r.k.open(ctx, r.v, r.ref, false)
			require.ErrorIs(t, err, context.Canceled)
			require.Less(t, time.Since(start), 10*time.Second)
			r.silent(err.Error())
			r.gone()
		})
	}
}

func TestVDDKIsKilled(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	quiet(t, r.transportRig)
	d := r.open(r.k, r.ref, false)
	r.read(d, 0, 1000)
	require.NoError(t, syscall.Kill(r.process(), syscall.SIGKILL))
	_, err := d.ReadAt(context.Background(), make([]byte, 100), 0)
	require.ErrorContains(t, err, "nbdkit ended (signal: killed)")
	require.ErrorIs(t, err, nbd.ErrLost)
	var x *explained
	require.True(t, errors.As(err, &x))
	require.Contains(t, x.remedy, "opened again")
	require.NoError(t, d.Close())
	r.silent(err.Error())
	r.gone()
}

func TestVDDKServesAnotherDisk(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	require.NoError(t, os.Truncate(r.raw, 8<<20))
	_, err := r.k.open(context.Background(), r.v, r.ref, false)
	require.ErrorContains(t, err, "8388608 bytes")
	r.gone()
}

// VDDK serves other NBD clients as well.
func TestVDDKServesOthers(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	req, err := r.v.diskRequest(context.Background(), r.ref, false, "")
	require.NoError(t, err)
	uri, stop, err := r.k.ServeDisk(context.Background(), req)
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, exec.Command("nbdcopy", uri, out).Run())
	got, err := os.ReadFile(out)
	require.NoError(t, err)
	require.True(t, bytes.Equal(r.want, got))
	require.NoError(t, stop())
	r.gone()
	require.Equal(t, Transport(r.k), Servers(r.k), "it is a transport already")
}

// nbdkit ends with the program that started it, however that ends.
func TestVDDKEndsWithItsParent(t *testing.T) {
	r := newNbdkitRig(t, "", "")
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestVDDKOrphan$")
	cmd.Env = append(os.Environ(), "LB_NBDKIT="+r.k.Nbdkit, "LB_NOTES="+r.notes, "LB_RAW="+r.raw, "TMPDIR="+dir)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(r.notes, "ready")); return err == nil }, time.Minute, 10*time.Millisecond)
	pid := r.process()
	require.NoError(t, syscall.Kill(pid, 0))
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ")
	}, time.Minute, 10*time.Millisecond)
}

// TestVDDKOrphan is the child of the test above.
func TestVDDKOrphan(t *testing.T) {
	if os.Getenv("LB_NBDKIT") == "" {
		t.Skip("runs as a child only")
	}
	k := &VDDK{Nbdkit: os.Getenv("LB_NBDKIT"), Env: []string{"NOTES=" + os.Getenv("LB_NOTES"), "RAW=" + os.Getenv("LB_RAW")}}
	_, err := k.start(context.Background(), DiskRequest{Password: NewSecret("x")}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("LB_NOTES"), "ready"), nil, 0o600))
	time.Sleep(time.Minute)
}

func BenchmarkVDDK(b *testing.B) {
	tool(b, "nbdkit")
	dir := b.TempDir()
	fake := filepath.Join(dir, "fake")
	require.NoError(b, os.WriteFile(fake, []byte(fakeNbdkit), 0o700))
	k := &VDDK{Nbdkit: fake, Env: []string{"NOTES=" + dir, "RAW=" + filepath.Join(dir, "raw")}}
	benchmarkTransport(b, false, func(r *transportRig, s *types.ManagedObjectReference) device {
		if _, err := os.Stat(filepath.Join(dir, "raw")); err != nil {
			require.NoError(b, os.WriteFile(filepath.Join(dir, "raw"), r.want, 0o600))
		}
		d, err := k.open(context.Background(), r.v, r.ref(s), false)
		require.NoError(b, err)
		return d
	})
}

package minilinux

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
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

// lack skips the test, or fails it where everything has to be there.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

// built makes an image, or skips.
func built(t testing.TB, o Options) string {
	t.Helper()
	if err := Ready(); err != nil {
		lack(t, err.Error())
	}
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "disk.img")
	}
	start := time.Now()
	require.NoError(t, Build(t.Context(), o))
	t.Logf("built in %s", time.Since(start).Round(time.Millisecond))
	return o.Path
}

// vm is one run of a virtual machine.
type vm struct {
	t       testing.TB
	cmd     *exec.Cmd
	started time.Time
	lines   chan string
	log     strings.Builder
	web     string
	qmp     string
	ended   chan struct{}
}

// hardware that a disk is plugged into.
type hardware struct {
	machine string
	disk    []string // with the drive "disk"
	network string
}

var virtio = hardware{"pc", []string{"-device", "virtio-blk-pci,drive=disk"}, "virtio-net-pci"}

// start switches a machine on that writes to its disk. Its network ends here;
// forward has more of qemu's options for that.
func start(t testing.TB, image string, firmware dr.Firmware, hw hardware, forward ...string) *vm {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		lack(t, "qemu-system-x86_64 is not installed")
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	web := l.Addr().String()
	require.NoError(t, l.Close())
	// A socket's path may have 107 bytes at most.
	dir, err := os.MkdirTemp("", "qmp")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	v := &vm{t: t, web: web, qmp: filepath.Join(dir, "qmp"), lines: make(chan string, 1000), ended: make(chan struct{})}
	args := []string{"-accel", "tcg", "-M", hw.machine, "-m", "256", "-display", "none", "-nodefaults", "-no-reboot", "-vga", "std", "-serial", "stdio",
		"-qmp", "unix:" + v.qmp + ",server=on,wait=off",
		"-drive", "if=none,id=disk,format=raw,file=" + image,
		"-netdev", strings.Join(append([]string{"user,id=net,restrict=on,hostfwd=tcp:" + web + "-10.0.2.15:8080"}, forward...), ","),
		"-device", hw.network + ",netdev=net,romfile="}
	args = append(args, hw.disk...)
	if firmware == dr.UEFI {
		const code = "/usr/share/OVMF/OVMF_CODE.fd"
		if _, err := os.Stat(code); err != nil {
			lack(t, "ovmf is not installed")
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+code)
	}
	v.cmd = exec.Command(qemu, args...)
	out, err := v.cmd.StdoutPipe()
	require.NoError(t, err)
	v.cmd.Stderr = &v.log
	v.started = time.Now()
	require.NoError(t, v.cmd.Start())
	t.Cleanup(v.kill)
	go func() {
		defer close(v.ended)
		defer v.cmd.Wait()
		defer close(v.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			v.lines <- s.Text()
		}
	}()
	return v
}

// kill cuts the power.
func (v *vm) kill() {
	_ = v.cmd.Process.Kill()
	<-v.ended
}

// wait returns the value of the next line with the word.
func (v *vm) wait(word string) string {
	v.t.Helper()
	limit := time.After(3 * time.Minute)
	for {
		select {
		case line, ok := <-v.lines:
			if !ok {
				v.t.Fatalf("the machine ended without %q; it said:\n%s", word, v.log.String())
			}
			fmt.Fprintf(&v.log, "%6.2fs %s\n", time.Since(v.started).Seconds(), line)
			got, value, ok := guest.Parse(line)
			if ok && got == guest.Failed {
				v.t.Fatalf("the machine failed: %s\n%s", value, v.log.String())
			}
			if ok && got == word {
				return value
			}
		case <-limit:
			v.t.Fatalf("no %q in time; the machine said:\n%s", word, v.log.String())
		}
	}
}

func (v *vm) number(word string) uint64 {
	v.t.Helper()
	n, err := strconv.ParseUint(v.wait(word), 10, 64)
	require.NoError(v.t, err)
	return n
}

// get asks the service.
func (v *vm) get(path string) string {
	v.t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + v.web + path)
	require.NoError(v.t, err, v.log.String())
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(v.t, err)
	require.Equal(v.t, http.StatusOK, res.StatusCode)
	return string(raw)
}

func (v *vm) status() guest.Status {
	v.t.Helper()
	var s guest.Status
	require.NoError(v.t, json.Unmarshal([]byte(v.get("/status")), &s))
	return s
}

// pressPower asks for a shutdown, and waits until the machine is off.
func (v *vm) pressPower() {
	v.t.Helper()
	conn, err := net.Dial("unix", v.qmp)
	require.NoError(v.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, `{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}`)
	require.NoError(v.t, err)
	v.wait(guest.Stopped)
	select {
	case <-v.ended:
	case <-time.After(time.Minute):
		v.t.Fatalf("still on; it said:\n%s", v.log.String())
	}
}

func (v *vm) sinceStart() float64 { return time.Since(v.started).Seconds() }

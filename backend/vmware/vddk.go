package vmware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// VDDK reads and writes disks by VMware's own library. It starts nbdkit with
// its vddk plugin once for each disk that is opened, and ends it with the disk.
// Both have to be installed on the machine that this program runs on: nbdkit
// with the plugin (nbdkit-plugin-vddk or nbdkit-vddk-plugin, often a package of
// its own) from the distribution, and the Virtual Disk Development Kit from
// Broadcom, which may not be passed on. Linux on x86-64 only, as VDDK is. The
// zero value serves where both are in their usual places.
//
// The password goes over a pipe, never by arguments, environment or a file. The
// socket is in a fresh folder that only this account can enter. nbdkit ends with
// this program, also if that is killed.
//
// One disk is one connection to the host's NFC service, which [Options.PerHost]
// and [Options.Total] count. Requests are cut into 2 MiB, more than which a
// host behind a vCenter may refuse for want of memory.
//
// # Not verified on
//
// The vddk plugin and VDDK itself have not been run: in tests nbdkit's file
// plugin stands in, started by the same arguments but for the plugin's name. So
// the texts that [VDDK] knows a remedy for are those that others reported.
type VDDK struct {
	// Nbdkit is the program; "" is "nbdkit" in PATH.
	Nbdkit string
	// LibDir is where VDDK was unpacked: the folder that has lib64 in it
	// (".../vmware-vix-disklib-distrib"). "" leaves it to the system's loader.
	LibDir string
	// Thumbprint is the SHA-1 of the server's certificate; "" is that of the
	// certificate that was verified as Options say.
	Thumbprint string
	// Transports are VDDK's own ways, the most wanted first: "nbdssl:nbd",
	// "hotadd:nbdssl", "san". "" is VDDK's default.
	Transports string
	// Compression of what travels: "zlib", "fastlz", "skipz"; "" is none.
	Compression string
	// Config is VDDK's configuration file, "" for none.
	Config string
	// Env is added to nbdkit's environment as "NAME=value". Of this program's
	// it gets PATH, HOME, TMPDIR and LD_LIBRARY_PATH only.
	Env []string
	// Verbose has nbdkit tell more; all that it tells goes to Options.Log at
	// debug level.
	Verbose bool

	mu    sync.Mutex
	found bool // what refuse looks for
}

const (
	// vddkChunk is the longest request that vCenters' hosts take unconfigured.
	vddkChunk = 2 << 20
	// vddkTail bounds what is kept of nbdkit's last words.
	vddkTail = 4 << 10
	// vddkGrace is how long nbdkit may take to close a disk before it is killed.
	vddkGrace = 15 * time.Second
)

// String returns "vddk".
func (k *VDDK) String() string { return "vddk" }

func (k *VDDK) refuse(d diskRef, write bool) string {
	if no := refuseServed(d, write); no != "" {
		return no
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.found {
		return ""
	}
	if no := k.missing(); no != "" {
		return no
	}
	k.found = true
	return ""
}

// missing says what is not installed.
func (k *VDDK) missing() string {
	if !vddkSupported {
		return "nbdkit's vddk plugin is for Linux"
	}
	if _, err := exec.LookPath(k.program()); err != nil {
		return fmt.Sprintf("%v: install nbdkit and its vddk plugin, or set VDDK.Nbdkit", err)
	}
	if k.LibDir != "" {
		if libs, _ := filepath.Glob(filepath.Join(k.libDir(), "lib64", "libvixDiskLib.so*")); len(libs) == 0 {
			return fmt.Sprintf("VDDK.LibDir %q has no lib64/libvixDiskLib.so: unpack VMware's VDDK and name its folder", k.LibDir)
		}
	}
	return ""
}

func (k *VDDK) program() string {
	if k.Nbdkit == "" {
		return "nbdkit"
	}
	return k.Nbdkit
}

// libDir forgives naming lib64 itself, which nbdkit would look for lib64 in.
func (k *VDDK) libDir() string {
	if filepath.Base(k.LibDir) == "lib64" {
		return filepath.Dir(filepath.Clean(k.LibDir))
	}
	return k.LibDir
}

func (k *VDDK) open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error) {
	r, err := v.diskRequest(ctx, d, write, k.Thumbprint)
	if err != nil {
		return nil, err
	}
	n, err := k.start(ctx, r, v.options.Log)
	if err != nil {
		return nil, err
	}
	c := nbdConn{uri: n.uri(), connections: 1, size: d.size, write: write, log: v.options.Log}
	client, err := c.dial(ctx)
	if err != nil {
		// nbdkit answers the first connection only when VDDK has the disk, and
		// says why not before it hangs up.
		n.lastWords(ctx)
		if ctx.Err() != nil && !write {
			n.kill(true) // VDDK may hang for long, and holds nothing
		}
		return nil, errors.Join(scrub(n.explain(err), r.Password), n.stop())
	}
	s := &served{client: client, stop: n.stop, secret: r.Password, chunk: vddkChunk, why: n.explain}
	return s.open(write), nil
}

// ServeDisk implements [DiskServer], for programs that read disks by other NBD
// clients. What nbdkit says is lost; a [Transport] logs it.
func (k *VDDK) ServeDisk(ctx context.Context, r DiskRequest) (uri string, stop func() error, err error) {
	if no := k.missing(); no != "" {
		return "", nil, errors.New(no)
	}
	n, err := k.start(ctx, r, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", nil, err
	}
	return n.uri(), n.stop, nil
}

// nbdkit is a process that serves one disk.
type nbdkit struct {
	dir    string // of the socket; removed with the process
	kill   func(hard bool)
	done   chan struct{} // closed when the process is gone and reaped
	heard  chan struct{} // closed when all that it said was read
	exit   error         // why, after done
	words  *tail
	secret Secret

	once   sync.Once
	asked  chan struct{} // closed when its end was wanted
	failed error
}

func (n *nbdkit) socket() string { return filepath.Join(n.dir, "nbd") }

func (n *nbdkit) uri() string {
	return "nbd+unix:///?" + url.Values{"socket": {n.socket()}}.Encode()
}

// start starts nbdkit and waits until it listens.
func (k *VDDK) start(ctx context.Context, r DiskRequest, log *slog.Logger) (*nbdkit, error) {
	dir, err := socketDir()
	if err != nil {
		return nil, fmt.Errorf("no folder for nbdkit's socket: %w", err)
	}
	n := &nbdkit{dir: dir, done: make(chan struct{}), heard: make(chan struct{}), asked: make(chan struct{}), words: &tail{max: vddkTail}, secret: r.Password}
	if err := k.spawn(n, r, log); err != nil {
		os.RemoveAll(dir)
		return nil, advise(fmt.Errorf("nbdkit could not be started: %w", err), "install nbdkit and its vddk plugin, or set VDDK.Nbdkit")
	}
	if err := n.ready(ctx); err != nil {
		n.kill(true) // it has not opened anything yet
		n.stop()
		return nil, err
	}
	return n, nil
}

// ready waits until nbdkit has written the file by which it says so.
func (n *nbdkit) ready(ctx context.Context) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if _, err := os.Stat(n.pidFile()); err == nil {
			return nil
		}
		select {
		case <-n.done:
			return scrub(n.explain(errors.New("it did not come up")), n.secret)
		case <-ctx.Done():
			return fmt.Errorf("while nbdkit came up: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

func (n *nbdkit) pidFile() string { return filepath.Join(n.dir, "pid") }

// stop ends the process and removes what it left. A second call waits for it.
func (n *nbdkit) stop() error {
	n.once.Do(func() {
		close(n.asked)
		var err error
		select {
		case <-n.done: // it was gone before; whoever used it has been told
		default:
			err = n.end()
		}
		n.failed = errors.Join(err, os.RemoveAll(n.dir))
	})
	return n.failed
}

func (n *nbdkit) end() error {
	n.kill(false)
	grace := time.NewTimer(vddkGrace)
	defer grace.Stop()
	select {
	case <-n.done:
		return nil
	case <-grace.C:
	}
	n.kill(true)
	<-n.done
	return advise(fmt.Errorf("nbdkit was killed: it had not closed the disk after %v", vddkGrace), "look whether vSphere still holds the disk")
}

// lastWords waits a moment for what nbdkit says of a connection that failed.
func (n *nbdkit) lastWords(ctx context.Context) {
	select {
	case <-n.done:
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}

// explain adds to an error what nbdkit said and whether it has died.
func (n *nbdkit) explain(err error) error {
	dead := false
	select {
	case <-n.done:
		dead = true
	case <-time.After(50 * time.Millisecond): // its end is seen after the loss of the connection
	}
	if dead {
		select {
		case <-n.heard:
		case <-time.After(200 * time.Millisecond): // somebody else holds its stderr
		}
	}
	said := n.words.String()
	select {
	case <-n.asked:
		return err // its end was wanted
	default:
	}
	switch {
	case dead && said != "":
		err = fmt.Errorf("nbdkit ended (%s): %w; it said: %s", n.exitText(), err, said)
	case dead:
		err = fmt.Errorf("nbdkit ended (%s): %w", n.exitText(), err)
	case said != "":
		err = fmt.Errorf("%w; nbdkit said: %s", err, said)
	}
	remedy := vddkRemedy(said)
	if remedy == "" && dead {
		remedy = "the disk has to be opened again; look in the system's log for why nbdkit ended (memory, a crash of VDDK)"
	}
	return advise(err, remedy)
}

func (n *nbdkit) exitText() string {
	if n.exit == nil {
		return "exit status 0"
	}
	return n.exit.Error()
}

// vddkRemedy knows what to do about common messages of nbdkit and VDDK.
func vddkRemedy(said string) string {
	said = strings.ToLower(said)
	for _, m := range []struct{ remedy, words string }{
		{"install nbdkit's vddk plugin (nbdkit-plugin-vddk, nbdkit-vddk-plugin)", "cannot open plugin|nbdkit-vddk-plugin.so"},
		{"unpack VMware's VDDK and set VDDK.LibDir to its folder, the one that has lib64 in it; what it needs besides must be installed", "libvixdisklib|cannot open shared object|vddk symbol|library location"},
		{"set VDDK.Thumbprint to the SHA-1 of the certificate that the server has now", "thumbprint|sslverif|ssl verification|certificate"},
		{"check User and Password, and that the account may log in to this server", "incorrect user name|invalid login|cannot complete login|password|insufficient permission|login failed"},
		{"the account lacks a privilege, or the host a licence, for VDDK: it needs VirtualMachine.Provisioning.DiskRandomRead (and DiskRandomAccess to write), Global.DisableMethods, Global.EnableMethods and Global.Licenses", "no permission|not have access rights|licen|insufficient"},
		{"a lock holds the disk: another backup may be reading it, it may be attached elsewhere, or the machine was started", "file is locked|being used by another|failed to lock|locked"},
		{"too many or too long requests for the host: lower Options.PerHost, or raise maxMemory of the nfcsvc in the host's /etc/vmware/hostd/config.xml", "failed to allocate|out of memory|too many connections|memory allocation"},
		{"let this machine reach port 902 of the ESXi host, by the name that vCenter has for it", "connect to server|authd|could not resolve|name or service not known|host address lookup|timed out"},
		{"the file is gone: the snapshot was removed, or the disk moved; capture again", "file was not found|could not be found|no such file|does not exist"},
	} {
		for w := range strings.SplitSeq(m.words, "|") {
			if strings.Contains(said, w) {
				return m.remedy
			}
		}
	}
	return ""
}

// socketDir makes a folder for this account only, with a name that leaves room
// for a socket's path, which is at most some hundred bytes long.
func socketDir() (string, error) {
	const room = 80
	base := os.TempDir()
	if len(base) > room {
		base = "/tmp"
	}
	return os.MkdirTemp(base, "lb-nbdkit-")
}

// tail keeps the last lines that were added: errors, or else anything.
type tail struct {
	max int

	mu    sync.Mutex
	lines []string
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "; ")
}

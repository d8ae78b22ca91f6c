package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Machine is a machine that runs in QEMU. All methods are safe for concurrent use.
type Machine struct {
	cfg    Config
	place  place
	qmp    *monitor
	serial *Tail
	output *Tail // QEMU's own complaints

	readers sync.WaitGroup
	conns   []net.Conn // the serial port's and the firmware's

	process *os.Process   // nil: found, not started
	found   *peer         // its process, if it was found
	exited  chan struct{} // closed when the process has ended
	known   chan struct{} // closed when all that is connected is known
	gone    chan struct{} // closed when QEMU has ended, and everything it said is read

	mu      sync.Mutex
	resets  int
	verdict error
	failed  chan struct{} // closed with the verdict
	closed  bool
	left    bool // detached: it isn't waited for
	off     bool // the guest has switched it off
	hello   *hello
	screens sync.Mutex
}

// patience is how long QEMU has to come up, to obey or to end: all of it is done
// in milliseconds unless the host is starved.
const patience = 30 * time.Second

// Start starts a machine. It returns when the first instruction has run. ctx
// bounds the start, not the machine.
func Start(ctx context.Context, c Config) (*Machine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Machine, error) { return nil, &dr.Error{Op: "start QEMU", Err: err} }
	if err := vacant(ctx, c); err != nil {
		return fail(err)
	}
	if err := giveFolder(c.Dir, c.User); err != nil {
		return fail(err)
	}
	if c.Firmware == dr.UEFI {
		if err := c.copyVars(); err != nil {
			return fail(err)
		}
	}
	m := newMachine(c)
	if m.place, err = openPlace(c.Dir); err != nil {
		return fail(err)
	}
	for _, s := range []string{qmpSocket, serialSocket, biosSocket, helloSocket} {
		_ = os.Remove(m.place.name(s)) // of an earlier run; QEMU would take it as its own
	}
	c.Log.Debug("qemu: starting", "dir", c.Dir, "arguments", c.args(nil))
	process, ended, err := m.place.run(c, m.output)
	if err != nil {
		m.place.Close()
		if _, missing := exec.LookPath(c.Program); missing == nil {
			return fail(err) // it is something else
		}
		return nil, &dr.Error{Op: "start QEMU", Err: err, Remedy: "install it: qemu-system-x86, seabios and ovmf on Debian"}
	}
	m.process = process
	go func() {
		err := <-ended
		close(m.exited)
		<-m.known
		m.ended(err)
		close(m.gone)
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("QEMU did not come up in "+patience.String()))
	defer cancel()
	err = m.connect(ctx)
	close(m.known)
	if err == nil {
		_, err = m.qmp.Do(ctx, "cont", nil)
	}
	if err == nil {
		return m, nil
	}
	// What it complained of when it ended says more than that it can't be reached.
	select {
	case <-m.gone:
		err = m.Err()
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return nil, errors.Join(&dr.Error{Op: "start QEMU", Err: err}, m.Close())
}

func newMachine(c Config) *Machine {
	m := &Machine{cfg: c, failed: make(chan struct{}), output: newTail(nil),
		exited: make(chan struct{}), known: make(chan struct{}), gone: make(chan struct{})}
	m.serial = newTail(m.console)
	return m
}

// connect waits for QEMU's sockets.
func (m *Machine) connect(ctx context.Context) error {
	for {
		conn, err := m.place.dial(ctx, qmpSocket)
		if err == nil {
			return m.connectAt(ctx, conn)
		}
		select {
		case <-time.After(5 * time.Millisecond): // there is nothing to wait on
		case <-m.exited:
			return ErrEnded
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *Machine) connectAt(ctx context.Context, conn net.Conn) (err error) {
	if m.qmp, err = newMonitor(ctx, conn, m.event); err != nil {
		return err
	}
	ports := map[string]io.Writer{serialSocket: m.serial}
	if m.cfg.Firmware != dr.UEFI {
		ports[biosSocket] = newTail(m.bios)
	}
	for socket, to := range ports {
		conn, err := m.place.dial(ctx, socket)
		if m.found != nil && errors.Is(err, fs.ErrNotExist) {
			continue // it was started with another firmware than who looks for it knows
		}
		if err != nil {
			m.hangUp()
			return err
		}
		m.conns = append(m.conns, conn)
		m.readers.Go(func() {
			// Whatever is read is dropped in time: a guest that talks much waits
			// for nobody.
			_, _ = io.Copy(to, conn)
		})
	}
	if err := m.callIn(ctx); err != nil {
		m.hangUp()
		return err
	}
	return nil
}

// copyVars gives the machine its firmware variables.
func (c Config) copyVars() error {
	name := filepath.Join(c.Dir, varsFile)
	if _, err := os.Lstat(name); err == nil {
		return give(name, 0o600, c.User)
	}
	b, err := os.ReadFile(c.OVMFVars)
	if err != nil {
		return fmt.Errorf("firmware variables: %w", err)
	}
	temp := name + ".new" // half a store of variables must not be taken for one
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := give(temp, 0o600, c.User); err != nil {
		return err
	}
	return os.Rename(temp, name)
}

// fail keeps the first reason why the machine did not come up.
func (m *Machine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.verdict == nil && !m.closed {
		m.verdict = err
		close(m.failed)
	}
}

// ended is told how QEMU ended.
func (m *Machine) ended(err error) {
	if m.qmp != nil {
		<-m.qmp.ended // its last events say why
	}
	m.readers.Wait()
	said, _ := m.output.Text()
	why := ErrEnded
	if err != nil {
		why = fmt.Errorf("%w: %w", ErrEnded, err)
	}
	if said = strings.TrimSpace(said); said != "" {
		why = fmt.Errorf("%w: %s", why, clip(said))
	}
	m.fail(why)
}

// Failed is closed when the machine won't come up, or has ended; Err says why.
func (m *Machine) Failed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// forgive takes back why a machine did not come up, since it tries again. Whoever
// saw Failed closed has seen it.
func (m *Machine) forgive(why func(error) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.verdict != nil && !errors.Is(m.verdict, ErrEnded) && why(m.verdict) {
		m.verdict, m.failed = nil, make(chan struct{})
	}
}

// Err is nil while the machine may still come up. Else it is one of this
// package's errors, wrapped with what was seen.
func (m *Machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.verdict
}

// Console is the end of what the machine said at its serial port, at most 256 KiB.
func (m *Machine) Console() string {
	s, _ := m.serial.Text()
	return s
}

// Stop freezes the processors. When it returns no write of the guest is under way
// any more, and what was written is flushed.
func (m *Machine) Stop(ctx context.Context) error {
	_, err := m.qmp.Do(ctx, "stop", nil)
	return err
}

// Continue undoes Stop.
func (m *Machine) Continue(ctx context.Context) error {
	_, err := m.qmp.Do(ctx, "cont", nil)
	return err
}

// Unstall continues a machine that QEMU has stopped because the host had no room
// for what it wrote. Of any other it is a no-op.
func (m *Machine) Unstall(ctx context.Context) error {
	if s, err := m.Status(ctx); err != nil || s != "io-error" {
		return err
	}
	return m.Continue(ctx)
}

// Status is QEMU's word: "running", "paused", "shutdown", "io-error", ...
func (m *Machine) Status(ctx context.Context) (string, error) {
	b, err := m.qmp.Do(ctx, "query-status", nil)
	if err != nil {
		return "", err
	}
	var s struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return "", fmt.Errorf("status of QEMU: %w", err)
	}
	return s.Status, nil
}

// Shutdown presses the power button and waits until the machine is off, or ctx
// ends. A guest that has just begun to boot doesn't hear the button: it is pressed
// again and again. It never powers off hard.
func (m *Machine) Shutdown(ctx context.Context) error {
	again := time.NewTicker(2 * time.Second)
	defer again.Stop()
	for {
		if _, err := m.qmp.Do(ctx, "system_powerdown", nil); err != nil && !errors.Is(err, ErrEnded) {
			return err
		}
		select {
		case <-m.gone:
			// What was told before, such as a panic long ago, doesn't matter.
			m.mu.Lock()
			off, err := m.off, m.verdict
			m.mu.Unlock()
			if off {
				return nil
			}
			if err == nil {
				err = ErrEnded
			}
			return fmt.Errorf("it did not shut down: %w", err)
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the guest did not shut down: %w", context.Cause(ctx))
		}
	}
}

// Gone is closed when QEMU has ended.
func (m *Machine) Gone() <-chan struct{} { return m.gone }

// Close powers the machine off, hard, and waits until QEMU has ended. What was
// written before is in its disks. A second Close is a no-op.
func (m *Machine) Close() error {
	m.mu.Lock()
	closed, left := m.closed, m.left
	m.closed = true
	m.mu.Unlock()
	if left {
		return nil
	}
	if closed {
		<-m.gone
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if m.qmp != nil {
		quick, stop := context.WithTimeout(ctx, 5*time.Second)
		_, err = m.qmp.Do(quick, "quit", nil)
		stop()
	}
	if err != nil || m.qmp == nil {
		err = nil
		if m.process != nil || !errors.Is(m.qmp.why(), ErrEnded) {
			err = m.Kill()
		}
		if errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
	}
	if err == nil {
		select {
		case <-m.gone:
		case <-ctx.Done():
			if err = m.Kill(); err == nil || errors.Is(err, os.ErrProcessDone) {
				err = nil
				<-m.gone
			}
		}
	}
	m.hangUp()
	return errors.Join(err, m.place.Close())
}

// Kill ends QEMU as a power cut would. The machine is to be closed all the same.
func (m *Machine) Kill() error {
	if m.process != nil {
		return m.process.Kill()
	}
	return m.found.kill()
}

// Detach leaves the machine running: Attach finds it again. Only of one that
// outlives this process.
func (m *Machine) Detach() error {
	m.mu.Lock()
	closed := m.closed
	m.closed, m.left = true, true
	m.mu.Unlock()
	if closed {
		return nil
	}
	m.hangUp()
	return m.place.Close()
}

func (m *Machine) hangUp() {
	if m.qmp != nil {
		m.qmp.close()
	}
	for _, c := range m.conns {
		c.Close()
	}
	m.readers.Wait()
}

// forwarded finds a forwarded port in what QEMU prints of its user network:
// "TCP[HOST_FORWARD]  11       127.0.0.1 41353       10.0.2.15    80     0     0".
var forwarded = regexp.MustCompile(`(?m)^\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s`)

// Port is where this host reaches a guest's port that NIC.Forward names: an
// address for net.Dial. It is reached whether or not the guest listens.
func (m *Machine) Port(ctx context.Context, guest int) (string, error) {
	b, err := m.qmp.Do(ctx, "human-monitor-command", map[string]string{"command-line": "info usernet"})
	if err != nil {
		return "", err
	}
	var said string
	if err := json.Unmarshal(b, &said); err != nil {
		return "", fmt.Errorf("ports of QEMU: %w", err)
	}
	for _, f := range forwarded.FindAllStringSubmatch(said, -1) {
		if f[2] == strconv.Itoa(guest) {
			return net.JoinHostPort("127.0.0.1", f[1]), nil
		}
	}
	return "", fmt.Errorf("%w: port %d of the guest is not forwarded", dr.ErrNotFound, guest)
}

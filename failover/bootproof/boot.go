package bootproof

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/imagedisk"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
	"github.com/lifeboat-dr/lifeboat/internal/qemu"
)

// diskSocket is where a machine's disks are served, in its folder.
const diskSocket = "disks"

// Machine is a point that runs. Its methods are safe for concurrent use.
type Machine struct {
	point   dr.Point
	began   time.Time
	read    atomic.Int64
	vm      *qemu.Machine
	served  *served
	cleanup []func() error // last first

	mu     sync.Mutex
	broken error // a disk that could not be read
	bad    chan struct{}
	seen   []backend.Evidence
	why    error
	took   time.Duration
	screen []byte
	closed bool
}

// Boot starts the machine of an opened point. It must run until Close, and the
// image must stay open as long; it stays the caller's. ctx bounds the start, not
// the machine. The machine dies with this process, and leaves an empty folder at
// most, which the next proof removes.
func Boot(ctx context.Context, img dr.Image, o Options) (_ *Machine, err error) {
	m := &Machine{point: img.Point(), began: time.Now(), bad: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(&dr.Error{Op: "boot", Machine: m.point.Machine.ID, Point: m.point.ID, Err: err}, m.Close())
		}
	}()
	if len(m.point.Machine.Disks) == 0 {
		return nil, fmt.Errorf("%w: the point has no disks", dr.ErrInvalid)
	}
	folder, err := qemu.NewFolder(o.Folder)
	if err != nil {
		return nil, err
	}
	m.cleanup = append(m.cleanup, folder.Close)
	server := &nbd.Server{Log: o.Log}
	for _, d := range m.point.Machine.Disks {
		base := imagedisk.New(img, d, imagedisk.Options{Read: m.count, Failed: m.spoil})
		over, err := m.throwaway(base, folder.Path)
		if err != nil {
			return nil, fmt.Errorf("overlay of disk %s: %w", d.ID, err)
		}
		server.Exports = append(server.Exports, nbd.Export{Name: exportName(m.point.Machine.Disks, d.ID), Device: over})
	}
	if m.served, err = serve(server, folder.Machine, o.User); err != nil {
		return nil, err
	}
	m.cleanup = append(m.cleanup, m.served.stop)
	m.vm, err = qemu.Start(ctx, o.config(m.point, folder.Machine, diskSocket))
	return m, err
}

// throwaway opens an overlay in a file that has no name: no crash leaves it.
func (m *Machine) throwaway(base nbd.Device, folder string) (nbd.Device, error) {
	f, err := os.CreateTemp(folder, "overlay-")
	if err != nil {
		return nil, err
	}
	m.cleanup = append(m.cleanup, f.Close)
	_ = os.Remove(f.Name()) // where that can't be, the folder's end takes it
	over, err := nbd.OpenOverlay(base, nbd.OverlayOptions{File: f})
	if err != nil {
		return nil, err
	}
	return unflushed{over}, nil
}

// unflushed is an overlay that nobody will read again: it needn't reach the disk.
type unflushed struct{ *nbd.Overlay }

func (unflushed) Flush(context.Context) error { return nil }

// exportName is a name that needs no quoting, whatever the disk's is.
func exportName(disks []dr.Disk, id dr.DiskID) string {
	for i, d := range disks {
		if d.ID == id {
			return fmt.Sprintf("disk%d", i)
		}
	}
	return ""
}

// serial is what the guest reads as a disk's serial number.
func serial(d dr.Disk, i int) string {
	if s := string(d.ID); len(s) <= 20 {
		return s
	}
	return fmt.Sprintf("lifeboat-%d", i)
}

// served is a server that runs.
type served struct {
	cancel context.CancelFunc
	ended  chan error
}

// serve serves in the folder of a machine.
func serve(s *nbd.Server, dir string, user *User) (*served, error) {
	l, err := qemu.Listen(dir, diskSocket, user)
	if err != nil {
		return nil, err
	}
	return serveAt(s, l), nil
}

func serveAt(s *nbd.Server, l net.Listener) *served {
	ctx, cancel := context.WithCancel(context.Background())
	v := &served{cancel, make(chan error, 1)}
	go func() { v.ended <- s.Serve(ctx, l) }()
	return v
}

func (v *served) stop() error {
	v.cancel()
	return <-v.ended
}

func (m *Machine) count(n int) { m.read.Add(int64(n)) }

// spoil is told of a disk's error.
func (m *Machine) spoil(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil && !m.closed {
		m.broken = err
		close(m.bad)
	}
}

// Wait waits for all of the evidence. It ends at once when the machine fails: the
// error is one of this package's, or of the point's store if it can't be read.
// Evidence that needs ports must be in the Options that the machine was booted
// with, too. It may be called again, for more.
func (m *Machine) Wait(ctx context.Context, all ...Evidence) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-m.bad:
			cancel(m.unread())
		case <-ctx.Done():
		}
	}()
	seen, err := m.vm.Await(ctx, all...)
	if bad := m.unread(); bad != nil {
		err = fmt.Errorf("the point can't be read: %w", bad)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = append(m.seen, seen...)
	m.took = time.Since(m.began)
	if err != nil {
		err = &dr.Error{Op: "prove by booting", Machine: m.point.Machine.ID, Point: m.point.ID, Off: -1, Err: err}
	}
	if m.why == nil {
		m.why = err
	}
	return err
}

func (m *Machine) unread() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.broken
}

// Port is where this host reaches a TCP port of the guest that an evidence of the
// Options names: an address for net.Dial, on 127.0.0.1. With it whatever is
// served there can be looked at by other means.
func (m *Machine) Port(ctx context.Context, guest int) (string, error) { return m.vm.Port(ctx, guest) }

// Screenshot is what is on the screen, as a PNG. The report keeps the last one.
func (m *Machine) Screenshot(ctx context.Context) ([]byte, error) {
	b, err := m.vm.Screen(ctx)
	if err != nil {
		return nil, &dr.Error{Op: "take a screenshot", Machine: m.point.Machine.ID, Point: m.point.ID, Err: err}
	}
	m.mu.Lock()
	m.screen = b
	m.mu.Unlock()
	return b, nil
}

// Console is the end of what the machine said at its serial port, at most 256 KiB.
func (m *Machine) Console() string { return m.vm.Console() }

// Close powers the machine off and throws away what it wrote. The point is as it
// was. A second Close is a no-op.
func (m *Machine) Close() error {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	if m.vm != nil {
		err = m.vm.Close()
	}
	for i := len(m.cleanup) - 1; i >= 0; i-- {
		err = errors.Join(err, m.cleanup[i]())
	}
	return err
}

package bootproof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/internal/imagedisk"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
	"github.com/lifeboat-dr/lifeboat/internal/qemu"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// InstantOptions say how a machine is run from its point.
type InstantOptions struct {
	// Options are as for proofs. Limit, Folder, Resets and Report mean nothing
	// here. Evidence names the ports that are forwarded to 127.0.0.1.
	Options
	// Netdev is QEMU's network backend for a card, such as
	// "tap,ifname=tap0,script=no,downscript=no"; "" or nil: the card is in a
	// network of its own that leads nowhere.
	Netdev func(card dr.NIC) string
}

// Instant is a machine that goes on running from its recovery point: what it
// writes is kept in a folder, and is durable when the guest was told so. So a
// machine is up within a boot, whatever its size, and moves to where it shall
// live while it works.
//
// It is a backend.Source of that one machine, under the ID that the point has.
// A capture takes milliseconds, at any time, and stays until it is released: a
// replication.Cycle makes new points of it, in the store that it runs from or
// in another one, and only what it has written since travels. From there a
// failover takes it to a platform: a last point after [Instant.Shutdown] loses
// nothing.
//
// The process that runs it serves its disks: when that ends, however it ends,
// the guest ends, as by a power cut. [Recover] with the same folder goes on with
// what it had written. The point must stay in the store as long, so pin it.
//
// All methods are safe for concurrent use.
type Instant struct {
	o     InstantOptions
	id    string // of the record
	dir   string
	lock  io.Closer
	img   dr.Image
	point dr.Point
	read  atomic.Int64
	disks []*stack // in the order of the machine's

	power chan struct{} // holds a token while it is started or stopped

	mu       sync.Mutex
	rec      instantRecord
	images   map[int]int // open images, by their moment
	changing sync.Mutex  // one capture or merge at a time
	vm       *qemu.Machine
	served   *served
	closed   bool
	released bool
	life     context.Context // ends with Close
	die      context.CancelFunc
}

// instantRecord is what is durable beside the layers, replaced whole.
type instantRecord struct {
	Version int          `json:"version"`
	ID      string       `json:"id"` // of this recovery: no cursor of another one is believed
	Machine dr.MachineID `json:"machine"`
	Point   dr.PointID   `json:"point"`
	// PointTime tells the point from another one of its name.
	PointTime time.Time `json:"pointTime,omitzero"`
	// Layers are the numbers of the layers and their files' names, oldest first,
	// without the disk. None: the folder is being made or discarded, and nothing
	// in it is anybody's.
	Layers   []layerRecord   `json:"layers"`
	Captures []captureRecord `json:"captures,omitempty"`
	// Recent are moments of captures that were released, newest last: changes
	// may be asked since.
	Recent []int `json:"recent,omitempty"`
}

type layerRecord struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
}

// captureRecord is a moment with a name: the end of a layer.
type captureRecord struct {
	Name  dr.PointID `json:"name"`
	Layer int        `json:"layer"`
	Time  time.Time  `json:"time"`
}

const (
	instantVersion = 1
	instantFile    = "instant.json"
	instantLock    = "lock"
	machineFolder  = "machine"
)

// Recover finds or makes, in the folder, the machine of a point of the store. It
// is not started. dr.ErrBusy: another process has the folder; dr.ErrExists: it
// holds a recovery of another point; dr.ErrCorrupt: some of what the machine wrote
// is gone from it. ctx bounds the call alone.
func Recover(ctx context.Context, store recoverypoint.PointStore, m dr.MachineID, p dr.PointID, folder string, o InstantOptions) (_ *Instant, err error) {
	v := &Instant{o: o, dir: folder, images: map[int]int{}, power: make(chan struct{}, 1)}
	v.life, v.die = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(&dr.Error{Op: "recover at once", Side: dr.StoreSide, Machine: m, Point: p, Err: err}, v.release())
		}
	}()
	if err := os.MkdirAll(filepath.Join(folder, machineFolder), 0o700); err != nil {
		return nil, err
	}
	lock, err := fsys.OS().Lock(filepath.Join(folder, instantLock), true)
	if errors.Is(err, fsys.ErrLocked) {
		return nil, fmt.Errorf("%w: another process runs it from %s", dr.ErrBusy, folder)
	}
	if err != nil {
		return nil, err
	}
	v.lock = lock
	if err := v.load(); err != nil {
		return nil, err
	}
	held := len(v.rec.Layers) > 0
	if held && (v.rec.Machine != m || v.rec.Point != p) {
		return nil, fmt.Errorf("%w: %s holds machine %s as of point %s", dr.ErrExists, folder, v.rec.Machine, v.rec.Point)
	}
	v.img, err = store.Open(ctx, m, p)
	if held && errors.Is(err, dr.ErrNotFound) {
		return nil, &dr.Error{Op: "open the point that the machine ran from", Machine: m, Point: p, Err: err,
			Remedy: "bring the point back, and pin it; without it what the machine wrote since its newest point can't be read"}
	}
	if err != nil {
		return nil, err
	}
	v.point = v.img.Point()
	if len(v.point.Machine.Disks) == 0 {
		return nil, fmt.Errorf("%w: the point has no disks", dr.ErrInvalid)
	}
	if !held {
		return v, v.begin()
	}
	if !v.rec.PointTime.IsZero() && !v.rec.PointTime.Equal(v.point.Time) {
		return nil, fmt.Errorf("%w: %s holds machine %s as of a point %s of %s, and the store's is of %s", dr.ErrExists, folder, m, p,
			v.rec.PointTime.Format(time.RFC3339), v.point.Time.Format(time.RFC3339))
	}
	v.id = v.rec.ID
	return v, v.open()
}

func (r *instantRecord) parse(b []byte) error {
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("%w: %w", dr.ErrCorrupt, err)
	}
	if r.Version != instantVersion {
		return fmt.Errorf("%w: version %d; this program knows %d", dr.ErrUnsupported, r.Version, instantVersion)
	}
	if r.ID == "" {
		return fmt.Errorf("%w: no ID", dr.ErrCorrupt)
	}
	last := 0
	for _, l := range r.Layers {
		if l.Number <= last || l.Name == "" || filepath.Base(l.Name) != l.Name {
			return fmt.Errorf("%w: layer %d of file %q", dr.ErrCorrupt, l.Number, l.Name)
		}
		last = l.Number
	}
	return nil
}

// fileName of a layer of a disk.
func fileName(disk int, layer string) string { return fmt.Sprintf("disk%d.%s.overlay", disk, layer) }

// open opens the layers, and removes what a crash left beside them.
func (v *Instant) open() error {
	known := map[string]bool{}
	for i, d := range v.point.Machine.Disks {
		s := v.stack(d)
		for _, l := range v.rec.Layers {
			known[fileName(i, l.Name)] = true
			if err := s.open(v.dir, fileName(i, l.Name), v.identity(d.ID, l.Name), l.Number, false); err != nil {
				return err
			}
		}
	}
	found, err := overlays(v.dir)
	if err != nil {
		return err
	}
	for _, f := range found {
		if !known[f] {
			if err := os.Remove(filepath.Join(v.dir, f)); err != nil {
				return err
			}
		}
	}
	return fsys.OS().SyncDir(v.dir)
}

func (v *Instant) stack(d dr.Disk) *stack {
	s := &stack{disk: d, base: imagedisk.New(v.img, d, imagedisk.Options{Read: func(n int) { v.read.Add(int64(n)) }, Failed: v.unread})}
	v.disks = append(v.disks, s)
	return s
}

func (v *Instant) identity(d dr.DiskID, layer string) string {
	return fmt.Sprintf("%s/%s/%s/%s/%s", v.id, v.point.Machine.ID, v.point.ID, d, layer)
}

func (v *Instant) unread(err error) {
	if v.o.Log != nil {
		v.o.Log.Error("bootproof: the point that a machine runs from can't be read", "machine", v.point.Machine.ID, "point", v.point.ID, "err", err)
	}
}

// save makes a record durable, then the present one.
func (v *Instant) save(r instantRecord) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := fsys.WriteFileAtomic(fsys.OS(), filepath.Join(v.dir, instantFile), b, 0o600); err != nil {
		return err
	}
	v.mu.Lock()
	v.rec = r
	v.mu.Unlock()
	return nil
}

func (v *Instant) record() instantRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.rec
	r.Layers, r.Captures, r.Recent = slices.Clone(r.Layers), slices.Clone(r.Captures), slices.Clone(r.Recent)
	return r
}

func (v *Instant) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &dr.Error{Op: op, Machine: v.point.Machine.ID, Point: v.point.ID, Err: err}
}

// hold makes the caller the only one that changes the power, and ends what is
// left of a machine that ended by itself.
func (v *Instant) hold(ctx context.Context) (release func(), err error) {
	select {
	case v.power <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	release = func() { <-v.power }
	v.mu.Lock()
	vm, closed := v.vm, v.closed
	v.mu.Unlock()
	if closed {
		release()
		return nil, os.ErrClosed
	}
	if vm != nil {
		select {
		case <-vm.Gone():
			err = v.end()
		default:
		}
	}
	if err != nil {
		release()
	}
	return release, err
}

// Start boots the machine. Starting one that runs is a no-op; one that was stopped
// for want of room (ErrNoRoom) goes on.
func (v *Instant) Start(ctx context.Context) error {
	release, err := v.hold(ctx)
	if err != nil {
		return v.fail("start", err)
	}
	defer release()
	if vm := v.running(); vm != nil {
		return v.fail("start", vm.Unstall(ctx))
	}
	server := &nbd.Server{Log: v.o.Log}
	for i, s := range v.disks {
		server.Exports = append(server.Exports, nbd.Export{Name: exportName(v.point.Machine.Disks, v.point.Machine.Disks[i].ID), Device: s})
	}
	dir := filepath.Join(v.dir, machineFolder)
	served, err := serve(server, dir, v.o.User)
	if err != nil {
		return v.fail("start", err)
	}
	c := v.o.config(v.point, dir, diskSocket)
	c.Resets = -1 // it is a machine, and no proof
	if v.o.Netdev != nil {
		for i, n := range v.point.Machine.NICs {
			if d := v.o.Netdev(n); d != "" {
				c.NICs[i] = qemu.NIC{MAC: n.MAC, Model: v.o.NICModel, Netdev: d}
			}
		}
	}
	vm, err := qemu.Start(ctx, c)
	if err != nil {
		return v.fail("start", errors.Join(err, served.stop()))
	}
	v.mu.Lock()
	v.vm, v.served = vm, served
	v.mu.Unlock()
	return nil
}

// Stop powers the machine off, hard. Stopping one that is off is a no-op.
func (v *Instant) Stop(ctx context.Context) error {
	var hard error
	if vm := v.running(); vm != nil {
		hard = vm.Close() // a shutdown that waits for the guest holds the power
	}
	release, err := v.hold(ctx)
	if err != nil {
		return v.fail("stop", errors.Join(hard, err))
	}
	defer release()
	return v.fail("stop", errors.Join(hard, v.end()))
}

// Shutdown asks the guest to shut down, and waits until it has. It never powers
// off hard.
func (v *Instant) Shutdown(ctx context.Context) error {
	release, err := v.hold(ctx)
	if err != nil {
		return v.fail("shutdown", err)
	}
	defer release()
	if vm := v.running(); vm != nil {
		if err := vm.Shutdown(ctx); err != nil {
			return v.fail("shutdown", err)
		}
	}
	return v.fail("shutdown", v.end())
}

// end powers off, and makes durable what was written. The caller holds the power.
func (v *Instant) end() error {
	v.mu.Lock()
	vm, served := v.vm, v.served
	v.vm, v.served = nil, nil
	v.mu.Unlock()
	var err error
	if vm != nil {
		err = vm.Close()
	}
	if served != nil {
		err = errors.Join(err, served.stop())
		for _, s := range v.disks {
			err = errors.Join(err, s.Flush(context.Background()))
		}
	}
	return err
}

func (v *Instant) running() *qemu.Machine {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.vm
}

// Wait waits for signs of life, as [Machine.Wait] does. dr.ErrNotAllowed: it isn't
// started.
func (v *Instant) Wait(ctx context.Context, all ...Evidence) ([]backend.Evidence, error) {
	vm := v.running()
	if vm == nil {
		return nil, v.fail("wait for signs of life", fmt.Errorf("%w: it isn't started", dr.ErrNotAllowed))
	}
	seen, err := vm.Await(ctx, all...)
	return seen, v.fail("wait for signs of life", err)
}

// Port is where this host reaches a TCP port of the guest that an evidence of the
// Options names.
func (v *Instant) Port(ctx context.Context, guest int) (string, error) {
	if vm := v.running(); vm != nil {
		return vm.Port(ctx, guest)
	}
	return "", v.fail("find a port", fmt.Errorf("%w: it isn't started", dr.ErrNotAllowed))
}

// Screenshot is what is on the screen, as a PNG.
func (v *Instant) Screenshot(ctx context.Context) ([]byte, error) {
	if vm := v.running(); vm != nil {
		return vm.Screen(ctx)
	}
	return nil, v.fail("take a screenshot", fmt.Errorf("%w: it isn't started", dr.ErrNotAllowed))
}

// Console is the end of what it said at its serial port since it was started.
func (v *Instant) Console() string {
	if vm := v.running(); vm != nil {
		return vm.Console()
	}
	return ""
}

func (v *Instant) release() error {
	var err error
	for _, s := range v.disks {
		err = errors.Join(err, s.close())
	}
	if v.img != nil {
		err = errors.Join(err, v.img.Close())
	}
	if v.lock != nil {
		err = errors.Join(err, v.lock.Close())
	}
	return err
}

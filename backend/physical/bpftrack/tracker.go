package bpftrack

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/bits"
	"os"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Tracker is a [physical.Tracker] for disks that are block devices of this
// kernel. All methods are safe for concurrent use. Methods that come after
// Close do nothing, or fail; Since says that the changes are lost.
type Tracker struct {
	o     Options
	block int64
	sys   system

	mu       sync.Mutex
	session  string
	n        uint64 // of the newest mark
	machines map[dr.MachineID]*machine
	lock     *os.File // of the state; nil: nothing is kept
	unsaved  bool     // it could not be written, and there is none
	closed   bool

	save func(path string, b []byte) error // writes a file
}

// system is the kernel.
type system interface {
	// find looks up the device that a path leads to, as it is now.
	find(path string) (device, error)
	// attach begins to watch it. name is for pins; "" doesn't pin.
	attach(d device, name string) (*tap, error)
	// pinned finds again what attach has pinned, if it is all there.
	pinned(d device, k kept) (*tap, error)
	// sweep removes pins but those of names.
	sweep(names []string) error
}

// device is a block device at one moment of its life.
type device struct {
	Major uint32 `json:"major"` // of the whole disk
	Minor uint32 `json:"minor"`
	Start uint64 `json:"start,omitempty"` // of the partition, in sectors of 512 bytes
	Len   uint64 `json:"len,omitempty"`   // 0: it is the whole disk
	// Seq is the kernel's number of this medium in this drive: no other one
	// gets it before the next boot.
	Seq  uint64 `json:"seq"`
	size int64  // bytes
}

func (d device) String() string {
	if d.Len == 0 {
		return fmt.Sprintf("%d:%d", d.Major, d.Minor)
	}
	return fmt.Sprintf("%d:%d+%d,%d", d.Major, d.Minor, d.Start, d.Len)
}

// same ignores the size: a whole disk may grow.
func (d device) same(e device) bool {
	d.size, e.size = 0, 0
	return d == e
}

// tap is a device being watched.
type tap struct {
	device device
	name   string // of its pins
	ids    ids
	words  words
	kernel interface {
		// skipped is how often each program has not run though it should have.
		skipped() (queued, complete uint64, err error)
		// close ends this process's hold, and with unpin the watching.
		close(unpin bool)
	}
}

// Open makes a tracker that watches nothing yet, but for what an earlier
// process left in Options.Pins and Options.State: that goes on, and the marks
// hold. What can't be shown to have gone on without a gap is dropped. One
// process at a time can have a state; another one gets [dr.ErrBusy].
//
// A kernel that can't be asked for what is needed isn't an error: Track and
// Health say so, and all changes are lost. On other systems than Linux Open
// fails with [dr.ErrUnsupported].
func Open(o Options) (*Tracker, error) {
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.BlockSize < 4<<10 || bits.OnesCount64(uint64(o.BlockSize)) != 1 {
		return nil, fmt.Errorf("%w: a block size of %d bytes; want a power of two from 4096", dr.ErrInvalid, o.BlockSize)
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Pins == "" {
		o.State = ""
	} else if o.State == "" {
		return nil, fmt.Errorf("%w: pins at %s without a folder for their state", dr.ErrInvalid, o.Pins)
	}
	sys, err := openSystem(o)
	if err != nil {
		return nil, err
	}
	return open(o, sys)
}

func open(o Options, sys system) (*Tracker, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tracker{o: o, block: o.BlockSize, sys: sys, session: rand.Text(), machines: map[dr.MachineID]*machine{}, save: writeState}
	if o.State != "" {
		if err := t.resume(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Tracker) machine(id dr.MachineID) *machine {
	m := t.machines[id]
	if m == nil {
		m = &machine{disks: map[dr.DiskID]*disk{}}
		t.machines[id] = m
	}
	return m
}

// Track watches the disks of a machine from now on; disks that it no longer
// has are forgotten. Disks that are watched already go on without a gap. The
// error names the disks that can't be tracked (see Health for the reason and
// remedy of each); the others are.
func (t *Tracker) Track(pm physical.Machine) error {
	if err := pm.ID.Validate(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed
	}
	m := t.machine(pm.ID)
	wanted := map[dr.DiskID]bool{}
	var errs []error
	for _, d := range pm.Disks {
		wanted[d.ID] = true
		k := m.disks[d.ID]
		if k == nil {
			k = &disk{path: d.Path}
			m.disks[d.ID] = k
		}
		k.path = d.Path
		if k.in == nil || t.intact(pm.ID, d.ID, k) != nil {
			t.tap(pm.ID, d.ID, k)
		}
		if k.why != nil {
			errs = append(errs, &dr.Error{Op: "track", Machine: pm.ID, Disk: d.ID, Off: -1, Err: k.why})
		}
	}
	for d, k := range m.disks {
		if !wanted[d] {
			k.drop(nil)
			delete(m.disks, d)
		}
	}
	if err := t.keep(); err != nil {
		errs = append(errs, &dr.Error{Op: "track", Machine: pm.ID, Off: -1, Err: err})
	}
	return errors.Join(errs...)
}

// Untrack ends the watching of a machine's disks. Its marks are lost.
func (t *Tracker) Untrack(id dr.MachineID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.machines[id]
	if m == nil || t.closed {
		return nil
	}
	for _, k := range m.disks {
		k.drop(nil)
	}
	delete(t.machines, id)
	return t.keep()
}

// Health reports on each disk, by machine and disk.
func (t *Tracker) Health() []Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Report
	for _, id := range slices.Sorted(maps.Keys(t.machines)) {
		m := t.machines[id]
		for _, d := range slices.Sorted(maps.Keys(m.disks)) {
			k := m.disks[d]
			r := Report{Machine: id, Disk: d, Path: k.path}
			why := errClosed
			if !t.closed {
				why = t.intact(id, d, k)
			}
			if why == nil {
				r.Device, r.Kept, r.Bytes = k.in.device.String(), k.in.name != "" && !t.unsaved, int64(len(k.in.words))*8
			} else {
				r.Problem = &backend.Problem{Code: "changes-untracked", Disk: d, Remedy: remedy(why),
					Text: fmt.Sprintf("What is written to %s isn't tracked, so each cycle compares the whole disk, and once more while the machine is frozen: %v", k.path, why)}
			}
			all = append(all, r)
		}
	}
	return all
}

var _ physical.Diagnoser = (*Tracker)(nil)

// Problems implements [physical.Diagnoser]: those of Health that are of the
// machine, or that Track was never called for it.
func (t *Tracker) Problems(id dr.MachineID) []backend.Problem {
	var out []backend.Problem
	known := false
	for _, r := range t.Health() {
		if r.Machine != id {
			continue
		}
		known = true
		if r.Problem != nil {
			out = append(out, *r.Problem)
		}
	}
	if !known {
		out = append(out, backend.Problem{Code: "changes-untracked",
			Text:   "What is written to the machine's disks isn't tracked, so each cycle compares them: the tracker was told of none",
			Remedy: "Give the machine to the tracker's Track, as the agent does with those of its configuration when it starts."})
	}
	return out
}

// Close ends this process's part. What is pinned goes on in the kernel, for
// the next Open with the same folders; all else is lost.
func (t *Tracker) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	for _, m := range t.machines {
		for _, k := range m.disks {
			if k.in != nil {
				k.in.kernel.close(false)
				k.in = nil
			}
		}
	}
	if t.lock != nil {
		return t.lock.Close()
	}
	return nil
}

// intact tells whether all that was written to a disk since it is tracked is
// known. If not, it is no longer tracked.
func (t *Tracker) intact(id dr.MachineID, d dr.DiskID, k *disk) error {
	if k.in == nil {
		return k.why
	}
	now, err := t.sys.find(k.path)
	var queued, complete uint64
	switch {
	case err != nil:
	case !now.same(k.in.device):
		err = fmt.Errorf("%s is now device %s, another one than %s that was tracked", k.path, now, k.in.device)
	case t.blocks(now.size) > int64(len(k.in.words)-headerWords)*64:
		err = fmt.Errorf("%s grew to %d bytes", k.path, now.size)
	default:
		k.in.device.size = now.size
		queued, complete, err = k.in.kernel.skipped()
	}
	if err != nil {
		t.o.Log.Warn("no longer tracking a disk", "machine", id, "disk", d, "why", err)
		k.drop(err)
		return err
	}
	k.in.words.account(wordQueued, queued)
	k.in.words.account(wordComplete, complete)
	return nil
}

// tap begins to watch a disk, or notes why it can't.
func (t *Tracker) tap(id dr.MachineID, d dr.DiskID, k *disk) {
	k.drop(nil)
	dev, err := t.sys.find(k.path)
	if err == nil {
		need := t.blocks(dev.size)/8 + 8*headerWords
		room := t.o.Memory - t.taken()
		if need <= room {
			t.squeeze(t.o.Memory - need) // a disk goes before what older marks know
		} else {
			err = fmt.Errorf("%w: its bitmap takes %d bytes, and %d are left of Options.Memory", errMemory, need, room)
		}
	}
	name := ""
	if t.lock != nil {
		name = rand.Text()
	}
	if err == nil {
		if k.in, err = t.sys.attach(dev, name); err != nil {
			k.in = nil
		}
	}
	if err == nil {
		// The device may have been exchanged before the programs ran. What was
		// written to it before is older than every mark to come.
		now, ferr := t.sys.find(k.path)
		if ferr != nil || !now.same(dev) {
			err = errors.Join(fmt.Errorf("%s changed from device %s to %s", k.path, dev, now), ferr)
			k.drop(nil)
		}
	}
	k.born, k.why = t.n, err
	if err == nil {
		t.o.Log.Info("tracking a disk", "machine", id, "disk", d, "device", dev.String())
	}
}

// blocks is how many it takes to cover size bytes.
func (t *Tracker) blocks(size int64) int64 { return (size + t.block - 1) / t.block }

// drop ends the watching.
func (k *disk) drop(why error) {
	if k.in != nil {
		k.in.kernel.close(true)
		k.in = nil
	}
	k.why = why
}

var errMemory = errors.New("no memory for it")

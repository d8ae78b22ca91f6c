package physical

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// Host is the machines of one host, as a backend. Open makes one. All methods
// are safe for concurrent use; those that change one machine wait for each
// other.
//
// Beside backend.Backend it is a [backend.Lister], [backend.Sweeper] and
// [backend.Preflighter], and where there are the hooks, to be found with dr.As,
// a [backend.Prober], a [backend.Quiescer] (freeze and thaw), a
// [backend.Inspector] (Config.Inspect) and a [backend.Shutdowner]: the last also
// of a host without any hook to switch off, whose machines are off as soon as
// somebody says so, unless its only machine is itself.
type Host struct {
	cfg   Config
	fs    fsys.FS
	inUse func(path string) error         // why the path must not be written
	same  func(a, b string) (bool, error) // whether two paths share bytes

	// Of block devices:
	hardware   func(path string) (string, error) // the device's own name
	sectorSize func(path string) (int64, error)  // bytes
	reread     func(path string) error           // the partition table, by the kernel
	deallocate func(path string, off, n int64) (done bool, err error)

	lock io.Closer
	more any // the abilities that depend on hooks, each wrapping the next

	mu       sync.Mutex
	machines map[dr.MachineID]*machine
	closed   bool
}

var (
	_ backend.Backend     = (*Host)(nil)
	_ backend.Lister      = (*Host)(nil)
	_ backend.Sweeper     = (*Host)(nil)
	_ backend.Preflighter = (*Host)(nil)
)

// machine is one machine's runtime state.
type machine struct {
	host   *Host
	id     dr.MachineID
	folder string

	op     chan struct{} // held by what changes the machine, one at a time
	made   bool          // the folder is durable; guarded by op
	freeze freezer

	// track is held from where a mark is set to where it is noted, so that
	// tidy, which drops what nobody noted, doesn't come between.
	track sync.Mutex

	mu      sync.Mutex
	rec     *record // nil: gone, or never there
	unsaved bool    // rec has changes that are not in its file
	gen     uint64  // raised when the disks stop holding what images read
	draft   *draft  // open
	images  map[*image]struct{}
	sizes   map[dr.DiskID]int64 // for hooks; see measure
}

// lockName can't be a machine's folder: '~' is no part of an ID.
const lockName = "~lock"

// Open takes over the root folder, reads the state of all machines there and
// finishes what a crash left half removed. Another process, or another Host,
// that has the root open makes it dr.ErrBusy. Close gives it back.
func Open(cfg Config) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("physical host: %w", err)
	}
	cfg = cfg.withDefaults()
	h := &Host{cfg: cfg, fs: cfg.FS, inUse: func(string) error { return nil }, same: samePath,
		hardware: hardwareName, sectorSize: logicalSector, reread: rereadTable, deallocate: deallocate, machines: map[dr.MachineID]*machine{}}
	if h.fs == nil {
		h.fs, h.inUse, h.same = fsys.OS(), deviceInUse, sameDisk
	}
	h.more = h.abilities()
	if err := makeDir(h.fs, cfg.Root); err != nil {
		return nil, fmt.Errorf("physical host: root folder: %w", err)
	}
	lock, err := h.fs.Lock(filepath.Join(cfg.Root, lockName), true)
	if errors.Is(err, fsys.ErrLocked) {
		return nil, fmt.Errorf("physical host: root %s: %w: another host has it open (%w)", cfg.Root, dr.ErrBusy, err)
	}
	if err != nil {
		return nil, fmt.Errorf("physical host: root %s: %w", cfg.Root, err)
	}
	h.lock = lock
	if err := h.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("physical host: %w", err), lock.Close())
	}
	return h, nil
}

// Close gives the root back. Drafts and images that are open must be closed
// before; a machine that is still frozen is thawed. The second call does
// nothing.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	ms := slices.Collect(maps.Values(h.machines))
	h.mu.Unlock()
	var errs []error
	for _, m := range ms {
		errs = append(errs, m.freeze.stop())
	}
	return errors.Join(append(errs, h.lock.Close())...)
}

func (h *Host) load() error {
	entries, err := h.fs.ReadDir(h.cfg.Root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || dr.MachineID(e.Name()).Validate() != nil {
			continue
		}
		m := h.add(dr.MachineID(e.Name()))
		rec, err := load(h.fs, m.folder)
		if err != nil {
			return err
		}
		if rec != nil && rec.Machine.ID != m.id {
			return fmt.Errorf("%s: %w: state of machine %s", m.folder, dr.ErrCorrupt, rec.Machine.ID)
		}
		m.rec = rec
		if err := m.sweepTemporary(); err != nil {
			return err
		}
		if rec != nil && rec.Removing {
			if err := m.erase(); err != nil {
				return err
			}
		}
	}
	configured := map[dr.MachineID]bool{}
	for _, c := range h.cfg.Machines {
		configured[c.ID] = true
		m := h.machines[c.ID]
		if m == nil {
			m = h.add(c.ID)
		}
		if err := m.configure(c); err != nil {
			return err
		}
	}
	for id, m := range h.machines {
		// What is known of a machine that is no longer configured stays in
		// its file, for when it comes back.
		if m.rec != nil && !m.rec.Made && !configured[id] {
			m.rec = nil
		}
	}
	return nil
}

func (h *Host) add(id dr.MachineID) *machine {
	m := &machine{host: h, id: id, folder: filepath.Join(h.cfg.Root, string(id)), op: make(chan struct{}, 1), images: map[*image]struct{}{}}
	m.freeze.m = m
	h.machines[id] = m
	return m
}

// Add configures a machine on an open host, as Config.Machines does. It is not
// kept beyond the host: add it to the configuration too.
func (h *Host) Add(m Machine) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	cfg := h.cfg
	cfg.Machines = append(slices.Clone(cfg.Machines), m)
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("physical host: %w", err)
	}
	added := h.machines[m.ID]
	if added == nil {
		added = h.add(m.ID)
	}
	if err := added.configure(m); err != nil {
		return fmt.Errorf("physical host: %w", err)
	}
	h.cfg.Machines = cfg.Machines
	return nil
}

// configure merges the configuration with what is known of the machine.
func (m *machine) configure(c Machine) error {
	if c.Self {
		c.Power = dr.On
	}
	want := &record{Version: recordVersion, Power: c.Power, Machine: dr.Machine{
		ID: c.ID, Name: c.Name, Firmware: c.Firmware, SecureBoot: c.SecureBoot,
		CPUs: c.CPUs, Memory: c.Memory, OS: c.OS, NICs: c.NICs,
	}}
	for _, d := range c.Disks {
		want.Machine.Disks = append(want.Machine.Disks, dr.Disk{ID: d.ID, Name: d.Name, Boot: d.Boot})
		want.Disks = append(want.Disks, diskFile{ID: d.ID, Path: d.Path, GivenUp: d.GivenUp})
	}
	old := m.rec
	if old == nil {
		m.rec = want // written with the first change
		return nil
	}
	if old.Made {
		return fmt.Errorf("%w: machine %s is configured, and is a replica in %s too", dr.ErrExists, c.ID, m.folder)
	}
	if err := want.keepNames(old); err != nil {
		return err
	}
	next := old.clone()
	next.Machine, next.Disks = want.Machine, want.Disks
	if !old.Switched || c.Self { // that this runs says that the host does
		next.Power = c.Power
	}
	moved := !slices.EqualFunc(old.Disks, want.Disks, func(a, b diskFile) bool { return a.ID == b.ID && a.Path == b.Path })
	if moved {
		// A torn mark stays, since one of them may be torn.
		next.Epochs = nil
	}
	if moved || next.Power != dr.Off && len(next.Held) > 0 {
		next.forget()
		return m.save(next)
	}
	m.rec = next
	return nil
}

// machine finds a machine that is there.
func (h *Host) machine(op string, id dr.MachineID) (*machine, error) {
	h.mu.Lock()
	m, closed := h.machines[id], h.closed
	h.mu.Unlock()
	if closed {
		return nil, &dr.Error{Op: op, Machine: id, Err: fmt.Errorf("the host on %s is closed: %w", h.cfg.Root, fs.ErrClosed)}
	}
	if m == nil || m.record() == nil {
		return nil, &dr.Error{Op: op, Machine: id, Err: dr.ErrNotFound}
	}
	return m, nil
}

// record is the machine's present record, not to be changed; nil: gone.
func (m *machine) record() *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rec != nil && m.rec.Removing {
		return nil
	}
	return m.rec
}

// acquire makes the caller the only one that changes the machine.
func (m *machine) acquire(ctx context.Context) (release func(), err error) {
	ended := func() error {
		return &dr.Error{Op: "wait for the machine's turn", Machine: m.id, Err: ctx.Err()}
	}
	if ctx.Err() != nil {
		return nil, ended()
	}
	select {
	case m.op <- struct{}{}:
		return func() { <-m.op }, nil
	case <-ctx.Done():
		return nil, ended()
	}
}

// save makes a record durable, then the present one. The caller holds op.
func (m *machine) save(next *record) error {
	b, err := encode(next)
	if err == nil && !m.made {
		err = makeDir(m.host.fs, m.folder)
		m.made = err == nil
	}
	if err == nil {
		err = fsys.WriteFileAtomic(m.host.fs, filepath.Join(m.folder, recordName), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("state of the machine: %w", err)
	}
	m.mu.Lock()
	m.rec, m.unsaved = next, false
	m.mu.Unlock()
	return nil
}

// note makes a change known without writing it, while the state file may lie on
// a disk that is frozen; settle, or the next change, writes it. A crash before
// may lose it. The caller holds op.
func (m *machine) note(edit func(*record)) {
	next := m.record().clone()
	edit(next)
	m.mu.Lock()
	m.rec, m.unsaved = next, true
	m.mu.Unlock()
}

// settle writes what was only noted.
func (m *machine) settle(ctx context.Context) error {
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	m.mu.Lock()
	rec, unsaved := m.rec, m.unsaved
	m.mu.Unlock()
	if rec == nil || !unsaved {
		return nil
	}
	return m.save(rec)
}

// change saves what edit makes of the record.
func (m *machine) change(edit func(*record)) error {
	next := m.record().clone()
	edit(next)
	return m.save(next)
}

// makeDir makes a folder, and the parents it lacks, durably. One that is there
// is synced too: who made it may have died before that.
func makeDir(f fsys.FS, name string) error {
	parent := filepath.Dir(name)
	if _, err := f.Stat(name); err != nil {
		if parent != name {
			if err := makeDir(f, parent); err != nil {
				return err
			}
		}
		if err := f.MkdirAll(name, 0o700); err != nil {
			return err
		}
	}
	return f.SyncDir(parent)
}

// Machine implements [backend.Source]. The sizes are the files' and devices'
// present ones; a missing one is an error that names it.
func (h *Host) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	m, err := h.machine("describe", id)
	if err != nil {
		return dr.Machine{}, err
	}
	if err := ctx.Err(); err != nil {
		return dr.Machine{}, err
	}
	return m.describe(m.record())
}

// Machines implements [backend.Lister]: configured machines and replicas. A
// machine whose disks are missing comes with an error, and does not end the
// list.
func (h *Host) Machines(ctx context.Context) iter.Seq2[dr.Machine, error] {
	return func(yield func(dr.Machine, error) bool) {
		h.mu.Lock()
		ids := slices.Sorted(maps.Keys(h.machines))
		h.mu.Unlock()
		for _, id := range ids {
			m, err := h.Machine(ctx, id)
			if errors.Is(err, dr.ErrNotFound) && m.ID == "" {
				continue // gone meanwhile
			}
			if !yield(m, err) || ctx.Err() != nil {
				return
			}
		}
	}
}

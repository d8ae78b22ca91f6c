package crashfs

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// ErrPowerLost is what every operation fails with once power was cut, and the
// operation at which it was.
var ErrPowerLost = errors.New("power lost")

// FS is a file system in memory. Names are paths with the host's separators;
// relative ones are under the root, which exists. There are no symbolic links,
// users or permissions, and folders can't be opened as files. It takes memory
// for the pages that were written, whatever the sizes of the files.
//
// All methods are safe for concurrent use.
type FS struct {
	seed uint64

	mu       sync.Mutex
	rng      *rand.Rand
	root     *node
	names    []nameChange // changes of names that no SyncDir has made durable, oldest first
	used     int64        // bytes in pages of files that have a name or a handle
	budget   int64
	off      bool
	restarts uint64

	ops    int64
	trace  func(Op)
	faults []*armed
	fired  int
}

var _ fsys.FS = (*FS)(nil)

// New makes an empty file system whose random decisions follow from seed.
func New(seed uint64) *FS {
	return &FS{seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), root: newDir(0o755)}
}

// Budget makes the disk full once bytes are taken: what would take more fails
// with ENOSPC, after writing what still fits. Room is taken and given back in
// pages of 4 KiB; names take none. 0 lifts the limit.
func (f *FS) Budget(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.budget = bytes
}

// Used is how many bytes files take now.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// Trace calls fn before each operation, from the goroutine that asked for it
// and without locks held, so that fn may Inject, or Cut, which the operation
// then meets. nil ends it.
func (f *FS) Trace(fn func(Op)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace = fn
}

// Ops is how many operations were asked for while power was on.
func (f *FS) Ops() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Fault says which operation goes wrong, and how.
type Fault struct {
	N     int   // the N-th operation that Match accepts, from 1, counted from Inject on; 0 means 1
	Match Match // nil accepts every operation
	Err   error // what the operation fails with; nil: power is cut at it
	Torn  bool  // it goes wrong not before but in the middle: of a write a random prefix of sectors is done, anything else is done or not
	Stays bool  // every later operation that Match accepts fails too
}

// Inject arms a fault. Several may be armed; of those due at one operation the
// first that was armed is the one it meets.
func (f *FS) Inject(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &armed{Fault: fault})
}

// Fired is how many operations went wrong by injected faults.
func (f *FS) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

type armed struct {
	Fault
	seen int
}

func (a *armed) due(o Op) bool {
	if a.Match != nil && !a.Match(o) {
		return false
	}
	a.seen++
	n := max(a.N, 1)
	return a.seen == n || a.Stays && a.seen > n
}

// begin counts an operation, shows it to the tracer and finds the fault that it
// meets, if any. It is called, and returns, with the lock held.
func (f *FS) begin(o Op) (*armed, error) {
	if f.off {
		return nil, ErrPowerLost
	}
	f.ops++
	o.N = f.ops
	if trace := f.trace; trace != nil {
		f.mu.Unlock()
		trace(o)
		f.mu.Lock()
		if f.off {
			return nil, ErrPowerLost
		}
	}
	var meets *armed
	for _, a := range f.faults {
		if a.due(o) && meets == nil {
			meets = a
		}
	}
	if meets != nil {
		f.fired++
	}
	return meets, nil
}

// do runs an operation that is done wholly or not at all, with the lock held.
func (f *FS) do(o Op, effect func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault, err := f.begin(o)
	if err != nil {
		return err
	}
	if fault == nil {
		return effect()
	}
	if fault.Torn && f.rng.IntN(2) == 0 {
		// The operation was done, but nobody was told.
		_ = effect()
	}
	return f.fail(fault)
}

// fail is the error of an operation that met the fault.
func (f *FS) fail(fault *armed) error {
	if fault.Err == nil {
		f.off = true
		return ErrPowerLost
	}
	return fault.Err
}

// now advances with the operations, so that runs can be repeated.
func (f *FS) now() time.Time { return time.UnixMicro(f.ops) }

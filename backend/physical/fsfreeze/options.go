package fsfreeze

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// DefaultLimit is after how long the guard thaws when Options.Limit is 0. It is
// longer than physical.DefaultFreezeLimit, as the guard is for when that fails.
const DefaultLimit = 45 * time.Second

// Options say how a machine is frozen. The zero value freezes file systems, and
// prepares no applications.
type Options struct {
	// Own are files and folders that this process writes, or waits for
	// somebody to write, while the machine is frozen. A freeze that would hold
	// one of them is refused. What isn't there yet counts as made in the folder
	// that is.
	Own []string
	// Ignore are devices that need not be held or watched although they are on
	// the machine's disks: scratch space, or what a script holds.
	Ignore []string
	// Scripts prepare applications; the zero value has none.
	Scripts Scripts
	// Limit is how long after each freeze the guard thaws although this process
	// lives; 0: DefaultLimit. Let it be longer than the host's
	// FreezeLimit.
	Limit time.Duration
	// Report is called after each thaw, one at a time; may be nil.
	Report func(Report)
	// Log gets what went wrong after a thaw; may be nil. Nothing is logged
	// while file systems are frozen.
	Log *slog.Logger
}

// Report is what one freeze did.
type Report struct {
	Machine dr.MachineID
	// Reached is the consistency, at most what was wanted. It holds only if
	// Err is nil.
	Reached dr.Consistency
	Began   time.Time
	// Prepared is the time that scripts and flushing took before the freeze.
	Prepared time.Duration
	// Frozen is the time from the first freeze to the last thaw.
	Frozen  time.Duration
	Systems []System
	Scripts []ScriptResult // in the order in which they ran
	// Notes are what else is to be known, a sentence each.
	Notes []string
	// Err is why the machine was not held from the freeze to the thaw; nil: it
	// was.
	Err error
}

// System is one file system on the machine's disks.
type System struct {
	Mount  string // where it is mounted; the first place of several
	Type   string // "ext4"
	Device string // "/dev/sda2", as the mount names it
	State  State
}

// State is how a file system was held.
type State string

// The states of a System.
const (
	Frozen   State = "frozen"
	ReadOnly State = "read-only" // nothing to hold
	Flushed  State = "flushed"   // it can't be frozen; writes to it were watched for
	Ignored  State = "ignored"   // by Options.Ignore
)

// OwnError refuses a freeze that would stop this process too. It is a
// dr.ErrInvalid.
type OwnError struct {
	Path  string // of Options.Own, or "standard error"
	Mount string // the file system that it lies on
}

func (e *OwnError) Error() string {
	return fmt.Sprintf("%s lies on %s, which would be frozen: writing to it would hang until the machine thaws by force (put it on a disk that is not the machine's or in memory, as under /run; or write it after the thaw and don't name it)", e.Path, e.Mount)
}

// Unwrap returns dr.ErrInvalid.
func (e *OwnError) Unwrap() error { return dr.ErrInvalid }

// FrozenError says that somebody else has frozen the file system. It was left
// frozen. It is a dr.ErrBusy.
type FrozenError struct{ Mount string }

func (e *FrozenError) Error() string {
	return fmt.Sprintf("%s is frozen already, by somebody else (wait until the other backup is over; if it died, thaw with: fsfreeze -u %s)", e.Mount, e.Mount)
}

// Unwrap returns dr.ErrBusy.
func (e *FrozenError) Unwrap() error { return dr.ErrBusy }

// DefaultScriptLimit is how long a script may take when Scripts.Limit is 0.
const DefaultScriptLimit = time.Minute

// Scripts are the programs in a folder, which prepare applications as qemu-ga's
// fsfreeze-hook.d and open-vm-tools' backupScripts.d do. Each is called with the
// argument "freeze" before the file systems freeze, in the order of their
// names, and with "thaw" after they thawed, in the reverse order. A script that
// was begun gets its thaw whatever happens, also where it failed; so "thaw"
// must do no harm to an application that isn't frozen. If this process dies
// the guard calls it.
//
// One that ends a freeze with status 10 ([Recovers]) has made the application's
// recovery short, but not needless: the others run, and the point is
// file-system-consistent.
//
// They run only if application consistency is wanted. If one fails, those begun
// thaw at once, and the point is file-system-consistent. So it is if one fails
// to thaw, as that may mean that what it held had got loose before.
//
// Their environment is PATH, LC_ALL and package physical's LIFEBOAT_EVENT,
// LIFEBOAT_MACHINE, LIFEBOAT_NAME and LIFEBOAT_DISKS. What they leave running in
// the background must close its standard output and error.
//
// The folder and its programs must be root's, or this process's own user's, and
// not writable by others. Files that begin with a dot, or end as package
// managers and editors name their leavings, or in .md, .txt, .sample or
// .disabled, are passed over; any other that can't be run is an error, lest
// it be forgotten.
type Scripts struct {
	Dir string // "": none; one that isn't there holds none
	// Limit bounds each call; 0: DefaultScriptLimit. Together with flushing
	// they have the host's PrepareLimit.
	Limit time.Duration
}

// Recovers is the exit status by which a script says that its application will
// recover as after a crash, though from a prepared state.
const Recovers = 10

// ScriptResult is one call of a script.
type ScriptResult struct {
	Path  string
	Event string // "freeze" or "thaw"
	Took  time.Duration
	Said  string // the first KiB of its output
	// Recovers says that it ended with the status of that name.
	Recovers bool
	Err      error
}

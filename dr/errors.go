package dr

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers branch on. They come wrapped: test with errors.Is.
var (
	// ErrInvalid: the caller's input makes no sense; repeating won't help.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: no such machine, disk, point, run, gate or record.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is one of that name already, and it is another one.
	ErrExists = errors.New("exists already")
	// ErrOutOfRange: an offset beyond the end of the disk.
	ErrOutOfRange = errors.New("beyond the end of the disk")
	// ErrChangesLost: the change tracker can't tell; compare whole disks.
	ErrChangesLost = errors.New("change tracking lost")
	// ErrTorn: the replica's disks are half written; it must not start. It is
	// permanent: only writing them to the end heals it, which is another step.
	ErrTorn = errors.New("disks are half written")
	// ErrRunning: the machine runs, and the operation needs it stopped.
	ErrRunning = errors.New("machine is running")
	// ErrAmbiguous: several candidates, and guessing could destroy data.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrConflict: somebody else changed it first; load again and decide anew.
	ErrConflict = errors.New("changed by somebody else")
	// ErrFenced: a newer owner has taken over; this one must stop acting.
	ErrFenced = errors.New("fenced by a newer owner")
	// ErrRunExists: a run of that ID exists, open or ended.
	ErrRunExists = errors.New("run exists")
	// ErrBusy: the resource is held by another run or process.
	ErrBusy = errors.New("busy")
	// ErrNotAllowed: the protection's state doesn't allow the operation.
	ErrNotAllowed = errors.New("not allowed in this state")
	// ErrNoPoint: there is no recovery point of the wanted kind.
	ErrNoPoint = errors.New("no such recovery point")
	// ErrCorrupt: stored bytes are not what was written. It is permanent: say
	// it of what is stored, not of what a link may have damaged on the way.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnsupported: the backend lacks the ability that the flow needs.
	ErrUnsupported = errors.New("not supported")
	// ErrNotConsistent: a consistent moment could not be had.
	ErrNotConsistent = errors.New("no consistent moment")
)

// Side says on which end of a copy or flow something happened.
type Side string

// Sides.
const (
	SourceSide Side = "source"
	TargetSide Side = "target"
	StoreSide  Side = "store"
)

// Error is a failure with its evidence. Fields that don't apply are empty;
// Off counts only together with Disk, and is negative when unknown.
type Error struct {
	Op      string // "read", "write", "capture", ...
	Side    Side
	Site    string
	Machine MachineID
	Point   PointID
	Disk    DiskID
	Off     int64
	Err     error  // the cause, never nil
	Remedy  string // what a person can do about it
}

// Error tells operation, place and cause in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Side != "" {
		fmt.Fprintf(&b, " on %s", e.Side)
	}
	if e.Site != "" {
		fmt.Fprintf(&b, " at site %s", e.Site)
	}
	if e.Machine != "" {
		fmt.Fprintf(&b, ", machine %s", e.Machine)
	}
	if e.Point != "" {
		fmt.Fprintf(&b, ", point %s", e.Point)
	}
	if e.Disk != "" {
		fmt.Fprintf(&b, ", disk %s", e.Disk)
		if e.Off >= 0 {
			fmt.Fprintf(&b, " at %d", e.Off)
		}
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Remedy != "" {
		fmt.Fprintf(&b, " (%s)", e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Permanent marks an error that repeating a step will not cure: the engine
// does not try again.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// IsPermanent reports whether repeating can't help: errors marked with
// Permanent, and those of the sentinels that only a person or another plan
// can resolve. The others may pass: ErrBusy, ErrRunning and ErrConflict when
// somebody else is done, ErrNotFound where a platform lists late what it made,
// ErrNotConsistent at a quieter moment, and whatever has no sentinel.
func IsPermanent(err error) bool {
	var p *permanent
	if errors.As(err, &p) {
		return true
	}
	for _, s := range []error{ErrInvalid, ErrNotAllowed, ErrNoPoint, ErrFenced, ErrUnsupported, ErrAmbiguous, ErrCorrupt, ErrExists, ErrTorn} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

package health

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Codes of errors that were returned, one a sentinel of package dr, and those
// of the system that a person meets.
const (
	CodeInvalid       = "invalid-input"
	CodeNotFound      = "not-found"
	CodeExists        = "exists-already"
	CodeOutOfRange    = "out-of-range"
	CodeChangesLost   = "changes-lost"
	CodeTorn          = "disks-torn"
	CodeRunning       = "machine-running"
	CodeAmbiguous     = "ambiguous"
	CodeConflict      = "conflict"
	CodeFenced        = "fenced"
	CodeRunExists     = "run-exists"
	CodeBusy          = "busy"
	CodeNotAllowed    = "not-allowed"
	CodeNoPoint       = "no-recovery-point"
	CodeCorrupt       = "data-corrupt"
	CodeUnsupported   = "not-supported"
	CodeNotConsistent = "no-consistent-moment"

	CodePanic      = "action-panicked"
	CodeNoSpace    = "no-space"
	CodePermission = "permission-denied"
	CodeTimedOut   = "timed-out"
	CodeCancelled  = "cancelled"
	CodeNetwork    = "network"
	CodeOther      = "error" // none of the above: the message tells
)

// Meaning is what a code stands for, whatever it is found about.
type Meaning struct {
	Code     string
	Type     Type
	Level    Level
	Category Category
	Summary  string
	Causes   []string
	Action   string
}

// failure is the row of an error that is returned: one that wraps the sentinel
// or, where there is none, for which is holds.
type failure struct {
	sentinel error
	is       func(error) bool
	Meaning
}

func (f failure) fits(err error) bool {
	if f.sentinel != nil {
		return errors.Is(err, f.sentinel)
	}
	return f.is(err)
}

// failures is in order of what a person should hear first, if an error is
// several of them at once: lost data before a lost race, and what says
// something before what only says that somebody stopped waiting.
var failures = []failure{
	{dr.ErrCorrupt, nil, Meaning{CodeCorrupt, Failure, Critical, DataIntegrity,
		"Stored bytes are not what was written",
		[]string{"the medium or the object store damaged them", "another program wrote there"},
		"Scrub the store to see which points are damaged, and recover from one that is not. The next full copy heals the replica; look at the medium before it."}},
	{nil, isPanic, Meaning{CodePanic, Failure, Critical, Internal,
		"An action of the program panicked",
		[]string{"a fault in the program or in an action that was added to it"},
		"Keep the log with its stack, report it, and decide on the step once the program is mended."}},
	{dr.ErrFenced, nil, Meaning{CodeFenced, Failure, Warning, Coordination,
		"Another process has taken over",
		[]string{"a second process serves the same journal", "this process was stopped or cut off for a while"},
		"Nothing if the takeover was meant. Else make sure that only one of the processes is started."}},
	{dr.ErrTorn, nil, Meaning{CodeTorn, Failure, Critical, DataIntegrity,
		"The replica's disks are half written",
		[]string{"a copy into them was cut off", "a copy into them is still under way"},
		"Repeat the flow that wrote them, or cancel it: either makes them whole. Don't start the machine by hand."}},
	{dr.ErrNotConsistent, nil, Meaning{CodeNotConsistent, Failure, Warning, Replication,
		"No consistent moment could be had",
		[]string{"the guest's agent or writers did not answer in time", "the machine writes more than can be settled"},
		"See the guest's own log for the writer that failed. Crash-consistent points go on meanwhile."}},
	{dr.ErrNoPoint, nil, Meaning{CodeNoPoint, Failure, Critical, Replication,
		"There is no recovery point of the wanted kind",
		[]string{"the first replication cycle has not ended", "the point has expired", "the guest could not be quiesced for a long time"},
		"List the points and choose another, or let a replication cycle end."}},
	{dr.ErrChangesLost, nil, Meaning{CodeChangesLost, Failure, Warning, Replication,
		"Change tracking was lost",
		[]string{"the machine or its host was reset", "the snapshot or cursor that changes are counted from is gone"},
		"Nothing: the next cycle compares whole disks, and takes longer for it."}},
	{dr.ErrUnsupported, nil, Meaning{CodeUnsupported, Failure, Critical, Configuration,
		"The platform lacks an ability that is needed",
		[]string{"the version, licence or kind of disk doesn't offer it", "an action is not registered in this process"},
		"See the message for the ability that is missing; change the machine, or choose a flow that does without."}},
	{dr.ErrAmbiguous, nil, Meaning{CodeAmbiguous, Failure, Critical, Configuration,
		"Several things fit, and a wrong guess could destroy data",
		[]string{"a replica or disk was copied by hand together with its marks"},
		"Remove or rename the one that is not meant, then repeat."}},
	{dr.ErrNotAllowed, nil, Meaning{CodeNotAllowed, Failure, Warning, Configuration,
		"The state doesn't allow the operation",
		[]string{"another operation has to end or be cleaned up first"},
		"Run one of the operations that the message names as allowed."}},
	{dr.ErrRunning, nil, Meaning{CodeRunning, Failure, Warning, Failover,
		"The machine runs, and has to be off",
		[]string{"somebody started it", "the guest has not shut down in time"},
		"Shut the machine down, or allow powering it off."}},
	{dr.ErrRunExists, nil, Meaning{CodeRunExists, Failure, Warning, Coordination,
		"There is a run of that name already",
		[]string{"the same request was made before"},
		"See the run that exists; choose another name for another request."}},
	{dr.ErrBusy, nil, Meaning{CodeBusy, Failure, Warning, Coordination,
		"Another run or process holds it",
		[]string{"a flow or a replication cycle is under way"},
		"Wait for the holder that the message names, or cancel it."}},
	{dr.ErrConflict, nil, Meaning{CodeConflict, Failure, Warning, Coordination,
		"Somebody else changed it first",
		[]string{"two operators or processes acted at once"},
		"Look at it as it is now, and decide anew."}},
	{dr.ErrExists, nil, Meaning{CodeExists, Failure, Warning, Configuration,
		"The name is taken by something else",
		[]string{"what is there was made by hand or by another installation"},
		"Rename or remove what is there, or choose another name."}},
	{dr.ErrOutOfRange, nil, Meaning{CodeOutOfRange, Failure, Critical, DataIntegrity,
		"An access beyond the end of the disk",
		[]string{"the disk shrank, or its size was reported wrongly"},
		"Compare the disk's size on both sides. A disk that shrank has to be protected anew."}},
	{syscall.ENOSPC, nil, Meaning{CodeNoSpace, Failure, Critical, Capacity,
		"There is no room left",
		[]string{"retention keeps more than there is room for", "something else fills the volume"},
		"Make room or shorten retention, then let the store prune."}},
	{fs.ErrPermission, nil, Meaning{CodePermission, Failure, Critical, Configuration,
		"Permission was denied",
		[]string{"the account lost a privilege", "the account is read-only"},
		"Give the account the privilege that the message names."}},
	{dr.ErrInvalid, nil, Meaning{CodeInvalid, Failure, Critical, Configuration,
		"The input makes no sense",
		[]string{"a mistake in a plan, policy or option"},
		"Correct what the message names; repeating the same won't help."}},
	{dr.ErrNotFound, nil, Meaning{CodeNotFound, Failure, Critical, Configuration,
		"Something that is needed isn't there",
		[]string{"the machine, disk or record was deleted or moved", "the platform lists late what it has made"},
		"See whether it was deleted. A machine that is gone is reprotected to an alternate place."}},
	{nil, isNetwork, Meaning{CodeNetwork, Failure, Warning, Connectivity,
		"Something could not be reached",
		[]string{"the link, a firewall or the name service", "the management server restarts"},
		"Check the way from this process to the address in the message. What failed is tried again by itself."}},
	{context.DeadlineExceeded, nil, Meaning{CodeTimedOut, Failure, Warning, Connectivity,
		"It took too long",
		[]string{"the other side hangs or is overloaded", "the limit is too short for the amount of data"},
		"See whether the other side answers at all; else allow more time."}},
	{context.Canceled, nil, Meaning{CodeCancelled, Failure, Warning, Coordination,
		"It was cancelled",
		[]string{"a person or a flow stopped it", "the process is being stopped"},
		"Nothing, if that was meant."}},
}

var other = Meaning{CodeOther, Failure, Warning, Internal, "Something failed",
	nil, "The message says what failed. What may pass is tried again by itself."}

func isPanic(err error) bool {
	var p *dr.PanicError
	return errors.As(err, &p)
}

// isNetwork leaves errors out that are of a context: these implement net.Error too.
func isNetwork(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) || errors.As(err, &dns)
}

// meaningOf finds what an error is; the first row that fits counts.
func meaningOf(err error) Meaning {
	for _, f := range failures {
		if f.fits(err) {
			return f.Meaning
		}
	}
	return other
}

// CodeOf is the code under which FromError would report the error, "" for nil.
// There are few of them, so it may label a metric.
func CodeOf(err error) string {
	if err == nil {
		return ""
	}
	return meaningOf(err).Code
}

// Codes lists every code that this package gives, with its meaning: those of
// errors, then those of a protection's conditions. The level is the one that a
// finding starts with.
func Codes() []Meaning {
	var all []Meaning
	for _, f := range failures {
		all = append(all, f.Meaning)
	}
	return append(append(all, other), conditions...)
}

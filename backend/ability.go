package backend

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Lister is an ability of backends: what machines there are.
type Lister interface {
	// Machines yields every machine that could be protected, in no
	// particular order.
	Machines(ctx context.Context) iter.Seq2[dr.Machine, error]
}

// Shutdowner is an ability of backends: to ask the guest to shut down.
type Shutdowner interface {
	// Shutdown returns nil only when the machine is off. It waits for the
	// guest until ctx ends; it never powers off hard. A machine that is off
	// already is a success.
	Shutdown(ctx context.Context, id dr.MachineID) error
}

// Quiescer is an ability of backends: to hold a machine's writes for a moment
// that several machines share.
type Quiescer interface {
	// Quiesce returns when no write can complete any more, saying what was
	// reached. The machine thaws when thaw is called, and by itself when
	// ctx ends or the backend's own deadline is over; thaw then returns an
	// error, and what was captured meanwhile is not of one moment.
	Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (got dr.Consistency, thaw func(context.Context) error, err error)
}

// LiveCapturer is an ability of backends that capture running machines pass by
// pass: to say so before the capture. Who quiesces several machines for a
// moment must have read most of such a one before.
type LiveCapturer interface {
	// CapturesLive tells whether a capture of the machine as it is now would
	// be a dr.Settler. One that comes to its last pass while the machine is
	// quiesced must use that freeze, and Settle after it must not thaw.
	CapturesLive(ctx context.Context, id dr.MachineID) (bool, error)
}

// Sweeper is an ability of backends: to remove what crashes left behind.
type Sweeper interface {
	// Sweep releases every capture of the machine that this library made
	// and that keep doesn't want, and returns their names.
	Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error)
}

// Forgetter is an ability of backends to whose trackers each point costs
// something that changes can be told since.
type Forgetter interface {
	// Forget says that changes of the machine will be asked since the point
	// before, or later ones, from now on: what the tracker keeps of older points
	// may go. Points that aren't known, and machines that are gone, are no error.
	Forget(ctx context.Context, id dr.MachineID, before dr.PointID) error
}

// Prober is an ability of backends: evidence that a started machine lives.
type Prober interface {
	// Probe waits until there is evidence or ctx ends, and tells what it
	// saw: a heartbeat, a screen, an answer.
	Probe(ctx context.Context, id dr.MachineID) (Evidence, error)
}

// Evidence is what a probe saw.
type Evidence struct {
	What string `json:"what"`           // one line for the report
	Kind string `json:"kind"`           // "heartbeat", "screenshot", "hook", ...
	Data []byte `json:"data,omitempty"` // a PNG for "screenshot"; small
}

// Preflighter is an ability of backends: to refuse early what would fail late.
type Preflighter interface {
	// Preflight reports what keeps the machine from being captured: each
	// problem names the disk or device and says what to do. None is good.
	Preflight(ctx context.Context, id dr.MachineID) ([]Problem, error)
}

// Problem is one finding of a preflight.
type Problem struct {
	Code    string    `json:"code"` // stable, for programs: "disk-independent"
	Disk    dr.DiskID `json:"disk,omitempty"`
	Text    string    `json:"text"`
	Remedy  string    `json:"remedy,omitempty"`
	Blocker bool      `json:"blocker"` // capture would fail, or lie
}

// Checker is an ability of backends: whether the platform gives what they need.
type Checker interface {
	// Check names what will keep this backend from working, whatever the
	// machine: privileges, networks, room. It leaves nothing behind. None is
	// good, and no promise.
	Check(ctx context.Context) ([]Problem, error)
}

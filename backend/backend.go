package backend

import (
	"context"
	"encoding/json"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Backend is one platform at one place: a vCenter, a Hyper-V host, a
// subscription, a group of physical machines.
//
// # Fences
//
// Whoever runs a machine's flow holds a claim on it, and its calls carry the
// claim's epoch ([dr.WithFences]). A worker that stood still while another took
// its claim over must do nothing when it wakes. So Prepare, Draft and a draft's
// Commit, Start, Stop, Shutdown and Remove heed the fences of their context:
//
//   - Before such a call has any effect, the backend durably remembers its
//     epochs beside the machine, where all processes see them ([Fences] says
//     what is kept, and for how long), also when the call has nothing to do.
//   - A call under a lower epoch than a remembered one is ErrFenced, without
//     any effect.
//   - A draft is its opener's: it is bound to the fences of Draft's context. Once
//     a higher epoch is remembered, its Commit is ErrFenced; so are writes from
//     then on where the backend can tell, and from the next Draft of the machine
//     on everywhere.
//   - Calls without fences are nobody's claim: they aren't refused, and raise
//     nothing.
//
// Resources are independent of each other: a machine may be in several
// protections. Capture, Release and what only reads heed no fences: they leave a
// machine as it is, replication makes them without a claim, and what they leave
// behind is swept. What a machine remembers goes with it when it is removed.
//
// Where the platform takes conditional requests, the effect itself depends on
// nobody having raised an epoch since it was checked. Elsewhere a call that was
// admitted may still take effect after a newer one's, if its process stood still
// in between: each backend's docs say where, and how long that can last.
type Backend interface {
	Source
	Target
}

// Source captures machines. All methods are safe for concurrent use, and
// those that change anything may be repeated after a crash.
type Source interface {
	// Machine describes a machine as it is now. ErrNotFound if it is gone.
	Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error)

	// Capture freezes a moment of all the machine's disks, running or not,
	// and returns it as an image whose point has the ID name. Called again
	// with the same name, also by another process, it finds what it froze
	// and never makes a second one; a backend that can't keep a frozen
	// moment beyond the process gives a new moment, with another Time.
	//
	// The point's Consistency is what was achieved, at most want. Where not
	// even crash consistency can be had it is ErrNotConsistent. A machine
	// whose disks are torn is ErrTorn.
	//
	// Where a running machine can't be frozen for as long as a copy takes,
	// the image is a dr.Settler, and the moment is that of its last pass.
	// From the second pass on Changes tells what was written since the pass
	// before, whichever point it is asked for. After the last one ReadAt
	// refuses, or answers as before; bytes of a later moment are never read.
	// Closing or releasing it after any pass lets the guest write on, and
	// takes nothing from what the tracker knows of older points.
	//
	// Capturing a stopped machine makes its disks hold the point: a Replica
	// that Prepare then finds says so in Holds.
	Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error)

	// Release lets go of what Capture froze under that name. What the
	// tracker knows stays: the point can still be a base for Changes. Names
	// that are not there, and machines that are gone, are no error.
	Release(ctx context.Context, id dr.MachineID, name dr.PointID) error
}

// Target holds replicas and starts them. All methods are safe for concurrent
// use on different machines, and may be repeated after a crash.
type Target interface {
	// Prepare finds or makes the machine that p describes, stopped. It is
	// found by p.Original, else by p.Key; two candidates are ErrAmbiguous.
	// An original that runs is ErrRunning, one that is gone ErrNotFound,
	// one whose disks don't fit p.Machine's (by ID; the same size)
	// ErrInvalid. Disks that a replica lacks are made, smaller ones grown.
	//
	// Its disks have the IDs of p.Machine's, and read as zeros when new.
	Prepare(ctx context.Context, p Placement) (Replica, error)

	// Draft opens a stopped machine's disks for writing, to hold point p.
	// Before the first byte is written the machine is durably marked torn,
	// and holds nothing. ErrRunning if it runs. If an earlier draft of the
	// same point was interrupted, the draft may be a dr.Resumer.
	//
	// Disks of an original that p doesn't describe stay as they are, whoever
	// made the machine.
	//
	// Committing the draft ends the mark, makes the machine hold p, and
	// where there is a tracker begins an epoch named after p: a later
	// Capture of this machine can tell Changes since p.
	Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error)

	// Start powers the machine on. Before that its Holds is durably
	// emptied: from now on nobody can say what its disks hold. ErrTorn for
	// torn disks, always. Starting a running machine is a no-op.
	Start(ctx context.Context, id dr.MachineID) error

	// Stop powers the machine off, hard. What it wrote stays. Stopping a
	// stopped machine is a no-op.
	Stop(ctx context.Context, id dr.MachineID) error

	// Remove deletes the machine and everything that Prepare made for it,
	// running or not, and nothing else: a machine that Prepare found as
	// Original is left, even if it once made it, as is anything not made by
	// this library. Machines that are gone are no error.
	Remove(ctx context.Context, id dr.MachineID) error
}

// Placement says which machine Prepare should find or make.
type Placement struct {
	// Key tells this replica from all others, in all processes and for as
	// long as it exists; the backend tags what it makes with it.
	Key string `json:"key"`
	// Original, if set, is the machine to use; none is ever made then.
	Original dr.MachineID `json:"original,omitempty"`
	// Machine is what the replica should be like: disks, firmware, cards.
	Machine dr.Machine `json:"machine"`
	// Name for a machine that is made; "" lets the backend derive one.
	Name string `json:"name,omitempty"`
	// Isolated says that the machine must not reach production: a drill.
	Isolated bool `json:"isolated,omitempty"`
	// Networks maps the networks of Machine's cards to those of this
	// platform; "" in a value leaves the card unconnected.
	Networks map[string]string `json:"networks,omitempty"`
	// Cards say more of single cards, by their ID in Machine.NICs. One that
	// Machine lacks is ErrInvalid. What a backend can't do of it, it refuses
	// with ErrUnsupported, naming the card, before anything is made; it never
	// passes it over. Where Options and Cards speak of the same card's
	// addresses it is ErrInvalid; a card wins over an option for all cards.
	//
	// An original keeps its connections and hardware addresses, whatever
	// Networks and Cards say. What its guest is to have inside is honoured or
	// refused as for others.
	Cards map[string]Card `json:"cards,omitempty"`
	// Options are the backend's own (host, datastore, size, zone); each
	// backend documents them, and refuses those that it doesn't know.
	Options json.RawMessage `json:"options,omitempty"`
}

// Replica is what Prepare found or made.
type Replica struct {
	ID dr.MachineID `json:"id"`
	// Holds is the point that the disks hold exactly, or "" if nobody can
	// say: because they are new, torn, or the machine has run since.
	Holds dr.PointID `json:"holds,omitempty"`
	// New says that the disks were never written: they read as zeros.
	New bool `json:"new,omitempty"`
	// Torn says that a draft was begun and not committed.
	Torn bool `json:"torn,omitempty"`
}

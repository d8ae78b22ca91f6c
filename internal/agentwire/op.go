package agentwire

// Op is what a Request asks for. The numbers are the protocol's: they never
// change, and a new one goes to the end.
type Op uint8

// Operations of a backend, of what it has open, and of both.
const (
	_ Op = iota
	OpMachine
	OpCapture
	OpRelease
	OpPrepare
	OpDraft
	OpStart
	OpStop
	OpRemove

	OpMachines // a stream of machines
	OpShutdown
	OpQuiesce // opens a handle
	OpThaw    // ends it, in good time
	OpLetGo   // ends its context; what was captured meanwhile is worth nothing
	OpCapturesLive
	OpCaptures // the names that a sweep would ask about
	OpSweep
	OpProbe
	OpPreflight
	OpCheck
	OpInspect
	OpReach
	OpReceives
	OpRoom
	OpNetworks

	OpRead    // of an image: bulk
	OpChanges // a stream of extents
	OpExtents // a stream of extents
	OpSettle
	OpLinger
	OpSums // of images and drafts: bulk

	OpWrite   // of a draft: bulk
	OpZero    // bulk, without a body
	OpDurable // a stream of extents
	OpPacked  // bulk
	OpCommit
	OpClose // of images and drafts

	OpForget
	ops
)

var opNames = [ops]string{
	OpMachine: "describe", OpCapture: "capture", OpRelease: "release", OpPrepare: "prepare", OpDraft: "draft",
	OpStart: "start", OpStop: "stop", OpRemove: "remove",
	OpMachines: "list machines", OpShutdown: "shut down", OpQuiesce: "quiesce", OpThaw: "thaw", OpLetGo: "let go",
	OpCapturesLive: "captures live", OpCaptures: "list captures", OpSweep: "sweep", OpProbe: "probe",
	OpPreflight: "preflight", OpCheck: "check", OpInspect: "inspect", OpReach: "reach", OpReceives: "receives",
	OpRoom: "look for room", OpNetworks: "list networks",
	OpRead: "read", OpChanges: "changes", OpExtents: "extents", OpSettle: "settle", OpLinger: "linger", OpSums: "sums",
	OpWrite: "write", OpZero: "zero", OpDurable: "durable", OpPacked: "packed", OpCommit: "commit", OpClose: "close",
	OpForget: "forget older points",
}

// String is the operation in words, as errors say it.
func (o Op) String() string {
	if o == 0 || o >= ops {
		return "unknown operation"
	}
	return opNames[o]
}

// Known tells whether this version has the operation.
func (o Op) Known() bool { return o > 0 && o < ops }

// Bulk tells whether the operation's argument is a Span rather than JSON.
func (o Op) Bulk() bool {
	switch o {
	case OpRead, OpSums, OpWrite, OpZero, OpPacked:
		return true
	}
	return false
}

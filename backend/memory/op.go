package memory

// Op names an operation of the platform, an image or a draft.
type Op string

// Operations that can be made to fail.
const (
	OpMachine   Op = "describe"
	OpCapture   Op = "capture"
	OpRelease   Op = "release"
	OpPrepare   Op = "prepare"
	OpDraft     Op = "draft"
	OpStart     Op = "start"
	OpStop      Op = "stop"
	OpRemove    Op = "remove"
	OpMachines  Op = "list"
	OpShutdown  Op = "shut down"
	OpQuiesce   Op = "quiesce"
	OpSweep     Op = "sweep"
	OpProbe     Op = "probe"
	OpPreflight Op = "preflight"
	OpNetworks  Op = "list networks"
	OpInspect   Op = "inspect"
	OpRoom      Op = "look for room"

	OpReadAt  Op = "read" // of images
	OpChanges Op = "changes"
	OpExtents Op = "extents"
	OpSums    Op = "sums" // of images and drafts
	OpWriteAt Op = "write"
	OpZero    Op = "zero"
	OpDurable Op = "durable"
	OpCommit  Op = "commit"
)

// FailNext makes the next call of the operation, on whatever machine, fail
// with err before it has any effect. Called several times it makes as many
// calls fail, in that order. A nil error lets a call pass.
func (b *Backend) FailNext(op Op, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures[op] = append(b.failures[op], err)
}

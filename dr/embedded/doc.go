// Package embedded is the orchestrator for programs that want no server: one
// process, one SQLite file that holds the journal, the claims and the
// protections' records.
//
// An [Engine] is a [dr.Orchestrator] with all its abilities, and also
// [dr.Claims], [dr.Records] and [dr.RecordLister]. What a run does follows
// from [dr.Run], the fold that all engines share; here live the journal, the
// clock, and the goroutines that call the actions.
//
// # What is durable, and when
//
// Every change is one transaction in SQLite's write-ahead log, synced before
// anything that follows from it is begun: an attempt is journaled before its
// action is called, its end before anything that comes after it. What comes
// due together is written together (group commit): many runs, and a step's end
// with the beginnings that follow from it, share one sync. A run and the claims
// of its locks begin and end in the same transaction, unless the claims are kept
// elsewhere ([Options.Claims]).
//
// A journal that can't be written ends the engine: Serve returns the error,
// nothing further is begun or recorded, and every method fails with it. What
// was under way is in doubt, and is decided when the file is opened again.
//
// # One process
//
// A lock on the file's name with ".lock" added keeps a second process out
// (ErrBusy). Where a file system's locks do nothing, as on some network
// shares, or somebody has removed the lock's file, the owner's row does: every
// Open takes over with a higher epoch, and a process whose epoch is not the
// highest any more can't write (ErrFenced). It stops its actions then, or at
// the latest ten seconds after it goes on, if it was standing still: until then
// its actions may run beside the new owner's. Keep the file on a local disk all
// the same: SQLite's write-ahead log needs shared memory.
//
// The file may be read beside a running engine, with SQLite's shell for
// example; who locks it for writing makes the engine stand still until they
// let go. New files can be read by their owner only. A copy of the file is the
// same journal, with the same claims elsewhere: open one of them.
//
// # Not verified on
//
// Windows and darwin: compiled and vetted, not run.
package embedded

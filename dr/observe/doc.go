// Package observe tells what happens: who asked for what, which attempt of
// which step began and how it ended, how runs and replication cycles go.
//
// An [Event] is a value, an [Observer] a function that takes it: a log
// ([Log]), a console, metrics, or several ([Join]). [Orchestrator] and [Actions]
// wrap what they are given and change nothing of what it does; what else it is
// able to do stays visible to dr.As. How runs go between the calls, above all
// that one waits for a person, is seen by [Runs].
//
// Events are of this process and this moment: they are neither durable nor
// complete over a crash. What must be complete is in the journal, and jobs are
// made of that.
//
// What may not live here: whatever decides or changes something.
package observe

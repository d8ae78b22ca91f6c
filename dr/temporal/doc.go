// Package temporal is the orchestrator for many processes at several sites: the
// same plans, driven by the same fold ([dr.Run]), on a Temporal server. It is a
// Go module of its own, so that who embeds the library doesn't get Temporal's
// modules. What a run does follows from the fold; here live the workflow that
// feeds it, and the workers that call the actions. No action lives here.
//
// # Who does what
//
// An [Engine] that is open drives runs: its process interprets plans, and
// claims and releases their locks ([Options.Claims]). So runs are started,
// decided, cancelled and looked at also while nobody serves. Who calls
// [Engine.Serve] calls actions: those of the given queues, which are its site's,
// and of queue "". Any number of processes may do both. Replication cycles
// don't belong here: a step costs tens of milliseconds of the server's CPU.
//
// # What is durable, and when
//
// The workflow's history is the journal. An attempt is offered as an activity;
// the worker that takes it up first signals so, which is its beginning for the
// fold, then has Temporal confirm that the attempt is still its own, and only
// then calls the action. Of a step that runs alone one heartbeat is both, and
// the fold is told when the step ends, or the run is cancelled. So a worker
// that slept while its attempt was given to another does nothing when it wakes,
// unless it slept inside the action: that is what the claims' epochs at the
// resource are for ([dr.WithFences]). What a dead site's workers never took up
// has not begun: it can be cancelled, and leaves nothing to undo. A step that
// may fail waits for them as long as its Patience; a site whose workers are
// only busy, or lack the action, says so when it is asked, and is waited for
// longer ([dr.BusyPatience]). Whether an attempt is tried again is the fold's
// decision, never Temporal's.
//
// A worker that is silent for [Options.Heartbeat] has lost its attempts: they
// are begun again, and count as no failure. One that can't reach Temporal for
// three quarters of that stops its actions itself. [dr.Step] Silence and Timeout
// are apart from that, and kept beside the action. An action that is to stop is
// told with the next heartbeat: after a quarter of Heartbeat, at most five
// seconds. Where hundreds of steps of one run are under way, each further one
// beats more seldom, and may be silent longer: the thousandth beats each half
// minute, and is taken for lost after two.
//
// A gate opens as soon as its turn comes, whether anybody serves or not. Cancel
// can also be asked for in Temporal's own console; terminating a workflow there
// undoes nothing, and leaves its claims: [Engine.Status] says so.
//
// # Sizes
//
// A plan may have [MaxPayload] bytes when compressed; results that together are
// large are fetched by who needs them. 1,500 steps of one run can be under way
// at once; what is over that waits. A long run goes on in a new workflow run of
// the same ID; one whose events don't fit into [MaxPayload] any more can't, and
// has 51,200 entries of history to end in.
//
// # Namespace and retention
//
// Temporal forgets a run when its namespace's retention has passed since its
// end. From then on its ID can be started again, as if it had never been, and
// what its steps made is found under the same keys: name runs so that they
// don't come twice, and keep 30 days or more. Reports that are to last must be
// taken before. The epochs of claims are the claims' own, and never fall.
//
// # Upgrades
//
// A run keeps its plan, and the settings of the engine that started it. The
// workflow's type carries the fold's revision; histories of every release are
// in testdata/histories, and are replayed by this package's tests: one that
// doesn't replay needs a new revision of the interpreter beside the old. Deploy
// drivers of the new version before anything starts runs that need it. Steps
// whose action no worker has wait for one that does.
//
// # Not verified on
//
// Temporal Cloud; Cassandra and MySQL as the server's store; Windows and
// darwin: compiled and vetted, not run.
package temporal

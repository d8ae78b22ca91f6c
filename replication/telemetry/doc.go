// Package telemetry tells OpenTelemetry how replication and runs go: traces
// and metrics, through OpenTelemetry's API alone. Which SDK, exporter and
// sampling there are is the program's affair: it passes its providers to
// [New], and without them nothing is recorded. OpenTelemetry's global
// providers are never looked at, nor linked.
//
// Metrics. Names and units follow OpenTelemetry's semantic conventions; what
// Prometheus makes of them is in brackets.
//
//	lifeboat.replication.rpo             s          gauge      [lifeboat_replication_rpo_seconds] age of the newest point; protection, sites
//	lifeboat.replication.objective       s          gauge      the policy's RPO, also of a machine that has no point yet; protection, sites
//	lifeboat.replication.io              By         counter    [lifeboat_replication_io_bytes_total] outcome: written, zeroed, equal, resumed; sites
//	lifeboat.replication.cycle.duration  s          histogram  sites, error.type
//	lifeboat.replication.cycle.active    {cycle}    up-down    cycles that [Telemetry.Cycle] has begun; sites
//	lifeboat.replication.queue.length    {cycle}    up-down    cycles that are due and wait; site
//	lifeboat.failures                    {failure}  counter    source: replication, step; error.type
//	lifeboat.runs                        {run}      up-down    state, flow
//	lifeboat.step.duration               s          histogram  of attempts; action, undo, error.type
//
// Cardinality. Sites, flows, actions, states and error types (the codes of
// package health) are few, whatever the fleet's size. Only the two gauges have
// a series for each protection: 20,000 for 10,000 machines. An SDK may bound
// the series of an instrument (OpenTelemetry's own does so at 2,000 if nothing
// else is set): raise that limit for a larger fleet, or set [Options.Coarse],
// which tells the worst of each pair of sites. Runs, machines, points and
// texts are in spans, never in metrics.
//
// Traces. A span is one replication cycle, or one attempt of a step. A run has
// no span of its own: it may outlive any number of processes, and wait for a
// person for days. Its attempts carry lifeboat.run.id, and link to one span
// context that follows from the run's ID, the same in every process ([RunLink]).
//
// What may not live here: an SDK, an exporter, and whatever decides something.
package telemetry

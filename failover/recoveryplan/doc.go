// Package recoveryplan brings up many machines as one: recovery plans with
// groups that start in order, with scripts, callbacks and manual gates between
// them, in every flow that a single machine knows.
//
// A [Plan] is data, kept as a YAML or JSON file ([Decode]) or made in Go. From
// it and the protections' records a pure planner ([Test], [Drill], [Planned],
// [Unplanned], [Failback], [Reprotect], [Commit], [Cancel], [CleanUp]) makes
// the dr.Plan of one run, the plan's own. That run does not move machines: for
// each it starts the ordinary flow of packages failover and failback as a run
// beside it ([ChildRun]), with gates put in where machines wait for each
// other, and answers these gates. So a machine is failed over by the same
// steps alone or among a hundred, and a machine that fails takes back its own
// steps and nobody else's.
//
// The order of a failover: all machines are shut down; all are copied, side by
// side; then group by group they are started, as soon as the group's own
// machines are ready, and each group is waited for until it is healthy.
//
// When something fails: a machine that fails is reported, and the plan goes
// on. A script, callback or health check that fails stops a planned failover
// and a failback, which are then taken back whole: every machine runs again
// where it ran. Unplanned failovers and drills go on. Each action and group may
// say otherwise ([Rule]). An unplanned failover that is to stop doesn't take
// back what runs: it starts nothing more, and says so. Run it again when the
// cause is mended: machines that are there already are skipped.
//
// Everything is durable: a process that dies between any two instructions goes
// on when an orchestrator serves again. Cancelling the plan's run cancels the
// machines' runs, and takes back those that have ended.
//
// [DryRun] says, without touching anything, every step, what it will touch,
// what is missing, and how long it took last time.
//
// No platform is known here, and no console: what a run says is in dr.Status,
// and in the [Report] of its last step.
package recoveryplan

// Package scheduler keeps the recovery points of thousands of machines young
// on one process: it begins the replication cycles of all protections when
// they are due, as many at a time as sites, hosts and links bear, and reports
// the RPO that is kept. What a cycle does is package replication's; flows,
// metrics and alarms are others' too, who build on [Options.Observe] and
// [Scheduler.Status].
//
// # When a cycle begins
//
// Each protection has a phase of its own in its policy's interval, derived from
// its ID: so ten thousand machines don't begin at once, not after a restart
// either. A cycle is due at the first such moment after the last one began.
// Of those that wait for a place, the one whose newest point is oldest,
// measured in its interval, goes first. Machines that fail, or whose cycles
// outlast their interval, get at most half of the places of each limit, so that
// they never keep the others out. A failing machine is tried again after a
// delay that doubles up to a cap; permanent errors wait for the cap at once.
//
// # What survives a restart
//
// When a cycle is due follows from the record: the ID, the policy, the time of
// the newest point. What doesn't follow is kept in the record's Upkeep, which a
// failure writes, and a good cycle clears in the write that it does anyway.
// Totals ([Totals], worst RPO, seconds late) count from the process's start.
// Pauses of sites are the process's own: see [Scheduler.PauseSite].
//
// One scheduler a set of records: two processes are kept from each other's
// machines by [Options.Only], or by the stores, which take one draft a machine.
package scheduler

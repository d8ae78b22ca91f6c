// Command scale shows what examples/worker bears on one computer, and prints
// what docs/scale.md is made of: PostgreSQL, Temporal if it is asked for,
// simulated sites in one process and workers in several, all of them real
// programs that are killed on the way.
//
//	go run ./scale -machines 10000 -workers 4 -cycle 5m -for 12m
//	go run ./scale -machines 1000 -for 0 -failover 1000 -engine temporal
//
// from examples/worker. The first replicates: every minute it prints how old the
// oldest of all newest points has been, which it reads from the records and not
// from workers, and what each process costs. One worker is killed by SIGKILL
// after half of the time, and another one joins. The second fails machines over
// by recovery plans whose waves wait at gates, which this program answers; a
// worker is killed on the way, and then the Temporal server, or with the
// embedded engine the database. In the end the platform, not the engine, says
// how often each machine was made and started.
//
// What lives here: the show and its measuring. What may not: anything that the
// worker needs. It isn't a benchmark of disks: the database syncs nothing, and
// machines' content is in memory. CPU is what /proc tells, so it runs on Linux
// alone. Measuring itself costs the database a list of all records every five
// seconds.
package main

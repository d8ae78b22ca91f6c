// Package temporalfleet keeps a fleet's machines (package fleet) by Temporal
// alone: each shard is a workflow that does nothing but to keep one long activity
// running, whose worker keeps the shard's machines and tells by heartbeats how
// they are. Cycles are not in its history, which grows by a few events each time
// that a shard changes hands.
//
// It is for fleets whose records are not beside leases. Where they are, in
// PostgreSQL, fleet.Worker is the better choice, also for programs whose flows
// run on Temporal: see docs/decisions/0037. Here lives how shards come to workers;
// what a worker does with them is fleet.Keeper's.
//
// # Exclusion
//
// Temporal begins a shard's activity anew when its worker was silent for the
// heartbeat's timeout, or has ended it. A worker stops by its own clock before,
// counted from when the last heartbeat that was heard was sent. Each beginning has
// a higher epoch, which the workflow counts and hands on when it continues as new;
// it reaches platforms and stores by dr.WithFences, as that of shard/NAME. Records
// are guarded by the worker's clock only (fleet.Guard).
package temporalfleet

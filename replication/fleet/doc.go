// Package fleet keeps the recovery points of more machines than one process
// should: many workers share the protections out among each other, each runs
// package scheduler for its part, and when one dies the others take over what
// it had. What a cycle does is package replication's, when one begins the
// scheduler's; here lives who keeps what. Where leases and records are kept is
// others': dr/postgres.
//
// # Shards and leases
//
// A [Layout] shares the protections out to shards. A worker keeps a shard's
// machines while it holds its lease ([Leases]): it stops by its own clock before
// the lease ends by the store's, so that two never keep one shard at a time. A
// worker that stood still, and wakes when another has taken over, still does
// nothing: what it does is fenced by the shard's epoch, see [Guard].
package fleet

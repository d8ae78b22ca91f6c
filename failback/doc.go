// Package failback brings machines home. It is failover with the sites
// exchanged: what is its own is only what a way back needs and a way out does
// not.
//
// [Reprotect] makes a machine that was failed over replicate to the side that
// it left, to the machine it came from or to a new one. The two have parted:
// both may have written since their last common point, and the copy that
// brings them together carries both histories (replication.History), so that
// only what changed on either side travels.
//
// [Failback] fails over to home: from recovery points, as every failover, or
// directly from disk to disk in two phases, the first while the machine runs.
//
// [Elsewhere] has the machine come home to another site, or to a machine that was
// rebuilt, than where it came from.
//
// Decisions that a stranger may question are in docs/decisions: why
// reprotection begins with a local copy of the former machine's disks.
package failback

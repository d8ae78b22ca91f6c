// Package replication moves bytes from images to drafts, and runs the cycles
// that keep a machine's recovery points young.
//
// [Copy] is the one verb: replicating, hydrating a replica, failing over,
// reprotecting and failing back are all a Copy between different ends.
//
// [Env.Replicate] runs a cycle of one protection. [Env.ReplicateGroup] runs one
// of a replication group, all protections whose Group is the same
// ([Env.GroupMembers] lists them): their machines are captured while all of them
// are quiesced, so that the points are of one moment, and bear a dr.GroupMark
// that says so. That the moment could not be had costs the mark and no points.
// A point with the mark is application-consistent if its machine was quiesced
// so; recoverypoint.ChooseAll finds the latest moment that all machines have.
package replication

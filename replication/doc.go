// Package replication moves bytes from images to drafts, and runs the cycles
// that keep a machine's recovery points young.
//
// [Copy] is the one verb: replicating, hydrating a replica, failing over,
// reprotecting and failing back are all a Copy between different ends.
package replication

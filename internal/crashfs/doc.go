// Package crashfs is an [fsys.FS] in memory that goes wrong on request, for
// proving what code does when a disk does: the n-th operation fails, the disk
// is full, or power is cut at any operation and what comes back is one of the
// states that a journaling file system may leave.
//
//	for n := 1; ; n++ {
//		disk := crashfs.New(seed)
//		disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true}) // Err nil: power is cut
//		run(disk)                 // fails with ErrPowerLost from there on
//		check(disk.Restart())     // what was acknowledged must be there
//		if disk.Fired() == 0 {
//			break                 // every operation had its turn
//		}
//	}
//
// # What survives a power cut
//
// Everything that was synced does: content and size by File.Sync, names by
// SyncDir. It is as strict as the contract of fsys and stricter than common
// file systems: syncing a file does not make its name durable, and syncing a
// folder does not make the folder's own name durable.
//
// Of what was not synced, a part survives that each [FS.Restart] draws anew:
//   - Of each file's writes any subset of sectors, in any order, an older write
//     to a sector instead of a newer one included. Its size and what was
//     truncated and punched follow the order in which they were done, up to a
//     point, and are whole; what lies within the size and wasn't written out
//     reads as zeros or as what was there before.
//   - Of each folder's changes those up to a point, in their order, which may
//     be a different point for each folder. A rename is there wholly or not at
//     all, across folders too. Names and contents go separate ways: a name may
//     survive whose content did not.
//   - Locks and handles are gone.
//
// A Sync that fails with an injected error leaves the file as kernels do: some
// of what it should have made durable is lost for good although it still reads
// as written, and a later Sync that succeeds doesn't bring it back.
//
// # Determinism
//
// The same seed and the same sequence of operations and Restart calls give the
// same results. Concurrent callers make the sequence, and with it the results,
// depend on the scheduler. Print the seed.
//
// What belongs here is the medium and its failures. What is stored, and what
// its owner promises, belongs to the tests that use it.
package crashfs

// Package fsys is the narrow file system that the vault's directory bucket and
// the physical backend stand on: few operations, each with a stated promise
// about what survives a power cut, so that a failing file system
// (internal/crashfs) can be put in its place under the same code.
//
// Here live the [FS] and [File] contracts, their implementation on the
// operating system ([OS]), aligned buffers for direct I/O, and the helpers
// that need nothing but the contract. What files mean does not belong here.
//
// # What is durable
//
// Content and names are durable separately. File.Sync makes a file's content
// and size durable, not its name; FS.SyncDir makes the names in one folder
// durable, not the content behind them. A new file therefore needs both, and a
// new folder needs the SyncDir of its parent. Nothing that was not synced may
// be relied on after a power cut, in any order. [WriteFileAtomic] is the whole
// sequence for a small file.
//
// A failed Sync is final for the file: the kernel may have dropped the pages it
// could not write, and a second Sync that succeeds says nothing about them
// (https://lwn.net/Articles/752063/). Write the content again, to a new file.
//
// # Direct I/O
//
// Bulk data passes once, so the page cache only copies it, and keeps what
// nobody will read again. BenchmarkSequential measures both in turns: going
// through the cache took two to six times the processor time a byte in every
// run on one development machine, where the processors are needed for
// compression. Which is faster by the clock alone differed from run to run. A
// file that is opened with [Direct] bypasses the cache where it can; see there.
//
// # Not verified on
//
// Windows and darwin are compiled and vetted, not run. Windows has no SyncDir
// (NTFS journals its names) and no direct I/O here; holes are found and made
// only on Linux, and block devices are for Linux only: elsewhere their Size may
// be wrong. Direct I/O was run on ext4, tmpfs and a loop device; other file
// systems (xfs, btrfs, overlayfs, NFS) rely on the same fallback.
package fsys

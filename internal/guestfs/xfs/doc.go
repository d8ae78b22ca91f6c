// Package xfs reads XFS file systems of versions 4 and 5. The log is not
// played back, as it holds changes of structures rather than blocks: of a
// file system that was mounted when it was frozen, the last changes that were
// synced may not be seen yet. FS.Note says so.
//
// Source: XFS Algorithms & Data Structures, 3rd edition, and the kernel's
// fs/xfs/libxfs/xfs_format.h.
package xfs

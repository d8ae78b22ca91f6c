// Package signature recognises what is on a disk or a partition by its first
// and last bytes: file systems with label and UUID, swap, encrypted volumes, and
// members of arrays, groups and pools. [Probe] reads at most a few hundred KiB,
// follows nothing, and is meant for devices in use: what it tells is as old as
// the superblock.
//
// Sources: the on-disk formats as libblkid's probes know them
// (https://git.kernel.org/pub/scm/utils/util-linux/util-linux.git/tree/libblkid/src/superblocks),
// whose names and spelling of UUIDs it keeps.
//
// What may not live here: partition tables (internal/disklayout), and readers
// of files (internal/guestfs).
package signature

// Package signature recognises what is on a disk or a partition by its first
// and last bytes: file systems with label and UUID, swap, encrypted volumes, and
// members of arrays, groups and pools. [Probe] tells the one that owns it, [All]
// everything that somebody may have put there. Both follow nothing, and are
// meant for devices in use: what they tell is as old as the superblock.
//
// A new kind is one entry of the table in kinds.go; what needs more than its
// UUID and label has a reader in filesystem.go or member.go.
//
// Sources: the on-disk formats as libblkid's probes know them
// (https://git.kernel.org/pub/scm/utils/util-linux/util-linux.git/tree/libblkid/src/superblocks),
// whose names and spelling of UUIDs it keeps.
//
// What may not live here: partition tables (internal/disklayout), and readers
// of files (internal/guestfs).
package signature

// Package offline tells what can be known of a machine from the disks of a
// recovery point, without starting it: [Inspect] reads partitions, LVM
// volumes, ext4, XFS and NTFS file systems, configuration files, initial RAM
// disks and registry hives, read-only, and answers with backend.Facts. Each
// answer says what it was read from; what can't be told is unknown, with a
// line that says why. [FileSystems] gives the file systems themselves as
// io/fs.FS. [Running] asks the same of a Linux that runs, by its mounted files.
//
// What is read is foreign: how much is read, decompressed and followed is
// bounded, and a disk that makes no sense gives unknowns or an error, never a
// panic. A dirty ext4 journal is played back in memory; XFS logs and NTFS
// journals are not, and the facts say so.
//
// What may not live here: judgements. Whether a fact is good enough for a
// failover is decided by package readiness.
package offline

// Package disklayout finds the volumes on a machine's disks: partitions of
// GPT and MBR, file systems on whole disks, and LVM's logical volumes, which
// may lie on several disks. What it reads is foreign: every number is checked
// before it is followed.
//
// Sources: the UEFI specification, chapter 5; LVM2's lib/format_text.
//
// Here too live what a disk is recognized by ([Signatures]: tables by themselves,
// all else as internal/signature knows it) and what brings a GPT that was copied
// to a larger disk to its end ([MoveBackup]).
//
// What may not live here: what is in a volume.
package disklayout

// Package ext4 reads ext2, ext3 and ext4 file systems. A journal that was
// not played back, as in every crash-consistent point, is played back in
// memory: what is read is what the guest would see after it has started.
//
// Sources: the kernel's Documentation/filesystems/ext4 and fs/jbd2/recovery.c.
package ext4

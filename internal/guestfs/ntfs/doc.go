// Package ntfs reads NTFS. The journal is not played back: of a file system
// that was in use when it was frozen, names and sizes may be a moment older
// than what the guest would see. Files that are compressed or encrypted, and
// reparse points, are told of and not read.
//
// Source: the documentation of the Linux-NTFS project.
package ntfs

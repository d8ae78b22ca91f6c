// Package guestfs reads the file systems of guests: read-only, from bytes
// that nobody vouches for. [Tree] makes an io/fs.FS of what a file system's
// reader, a [Volume], tells of its nodes; the readers are in the folders
// below, one a file system.
//
// A reader checks every number before it follows or allocates by it: a
// corrupt file system gives an error that wraps dr.ErrCorrupt, one with a
// feature that the reader doesn't know one that wraps dr.ErrUnsupported. How
// much is read in all is bounded by who supplies the io.ReaderAt.
//
// What may not live here: anything that writes, and what the files mean.
package guestfs

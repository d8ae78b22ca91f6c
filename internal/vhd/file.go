package vhd

import (
	"fmt"
	"io"
	"os"
	"time"
)

// File is what an image lives on. Its methods are as those of [os.File]: what
// Truncate and writes beyond the end add reads as zeros, and what was written is
// durable after Sync. It is safe for concurrent use.
//
// A File that also has
//
//	ModTime() (time.Time, error)
//
// is asked for it where an image is a parent: see [OpenOptions].
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	// Size is the file's size now, in bytes.
	Size() (int64, error)
}

type dated interface {
	ModTime() (time.Time, error)
}

// OSFile makes a File of f, which stays the caller's to close.
func OSFile(f *os.File) File { return osFile{f} }

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) ModTime() (time.Time, error) {
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// ReaderFile makes a File of size bytes that can only be read, for [Open] with
// ReadOnly.
func ReaderFile(r io.ReaderAt, size int64) File { return readerFile{r, size} }

type readerFile struct {
	io.ReaderAt
	size int64
}

func (readerFile) WriteAt([]byte, int64) (int, error) { return 0, ErrReadOnly }
func (readerFile) Truncate(int64) error               { return ErrReadOnly }
func (readerFile) Sync() error                        { return ErrReadOnly }
func (f readerFile) Size() (int64, error)             { return f.size, nil }

// readFull reads all of p. A file that is too short is [io.ErrUnexpectedEOF].
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("vhd: read %d bytes at %d of the file: %w", len(p), off, err)
}

func writeFull(w io.WriterAt, p []byte, off int64) error {
	n, err := w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("vhd: write %d bytes at %d of the file: %w", len(p), off, err)
	}
	return nil
}

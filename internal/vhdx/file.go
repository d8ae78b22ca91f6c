package vhdx

import (
	"fmt"
	"io"
	"os"
)

// File is what an image lives on. Its methods are as those of [os.File]: what
// Truncate adds reads as zeros, and what was written is durable after Sync. It
// is safe for concurrent use.
//
// A File that also has
//
//	Punch(off, n int64) error
//
// which makes a range read as zeros and may give its room back, is asked for it
// where zeros would have to be written.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	// Size is the file's size now, in bytes.
	Size() (int64, error)
}

type puncher interface {
	Punch(off, n int64) error
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
	return fmt.Errorf("vhdx: read %d bytes at %d of the file: %w", len(p), off, err)
}

func writeFull(w io.WriterAt, p []byte, off int64) error {
	n, err := w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("vhdx: write %d bytes at %d of the file: %w", len(p), off, err)
	}
	return nil
}

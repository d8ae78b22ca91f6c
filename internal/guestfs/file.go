package guestfs

import (
	"io"
	"io/fs"
	"path"
)

// file is an open file or folder. As with an *os.File, ReadAt is safe for
// concurrent use, the others are not.
type file struct {
	tree *Tree
	name string
	node Node
	off  int64
	list []fs.DirEntry
	told bool
}

var (
	_ fs.ReadDirFile = (*file)(nil)
	_ io.ReaderAt    = (*file)(nil)
	_ io.Seeker      = (*file)(nil)
)

func (f *file) Stat() (fs.FileInfo, error) {
	return info{path.Base(f.name), f.node.Info()}, nil
}

func (f *file) Close() error { return nil }

func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	return op("read", f.name, func() (int, error) {
		if !f.node.Info().Mode.IsRegular() || off < 0 {
			return 0, fs.ErrInvalid
		}
		return f.node.ReadAt(p, off)
	})
}

func (f *file) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		off += f.node.Info().Size
	}
	if off < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: fs.ErrInvalid}
	}
	f.off = off
	return off, nil
}

func (f *file) ReadDir(n int) ([]fs.DirEntry, error) {
	if !f.told {
		list, err := f.tree.ReadDir(f.name)
		if err != nil {
			return nil, err
		}
		f.list, f.told = list, true
	}
	if n <= 0 {
		list := f.list
		f.list = nil
		return list, nil
	}
	if len(f.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.list))
	list := f.list[:n]
	f.list = f.list[n:]
	return list, nil
}

// ReadPieces reads [off, off+len(p)) of a node of the given size piece by
// piece, as io.ReaderAt does: piece fills a prefix of what it is given, at
// least one byte, from one contiguous run.
func ReadPieces(p []byte, off, size int64, piece func(p []byte, off int64) (int, error)) (int, error) {
	short := false
	if off >= size {
		return 0, io.EOF
	}
	if int64(len(p)) > size-off {
		p, short = p[:size-off], true
	}
	done := 0
	for done < len(p) {
		n, err := piece(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
		if n <= 0 {
			return done, io.ErrNoProgress
		}
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

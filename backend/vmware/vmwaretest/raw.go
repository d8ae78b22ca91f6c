package vmwaretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// WriteRaw writes a disk's bytes, or what a snapshot froze of them, to a file
// that it makes or replaces: sparse, and as long as the disk. nbdkit's file
// plugin serves that in place of its vddk plugin, to clients that shall talk to
// a real nbdkit. [Simulator.ReadRaw] takes back what they wrote.
func (s *Simulator) WriteRaw(path string, e NBDExport) error {
	if err := s.writeRaw(path, e); err != nil {
		return fmt.Errorf("vmwaretest: write %q of %s to a raw file: %w", e.File, e.VM.Value, err)
	}
	return nil
}

func (s *Simulator) writeRaw(path string, e NBDExport) (err error) {
	d, release, err := s.device(e)
	if err != nil {
		return err
	}
	defer release()
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(d.Size()); err != nil {
		return err
	}
	buf := make([]byte, blockSize)
	for a := range d.content.written(1, 0) {
		for off := a.off; off < a.off+a.n; off += blockSize {
			p := buf[:min(blockSize, a.off+a.n-off)]
			if _, err := d.content.ReadAt(p, off); err != nil {
				return err
			}
			if allZero(p) {
				continue
			}
			if _, err := out.WriteAt(p, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// ReadRaw takes a raw file's bytes into the disk of a machine that is off, and
// returns how many bytes differed. Only blocks of 64 KiB that differ count as
// written, so that tracking reports what a client has changed in the file that
// WriteRaw made. The file must be as long as the disk.
func (s *Simulator) ReadRaw(path string, e NBDExport) (changed int64, err error) {
	if e.Snapshot.Value != "" {
		return 0, fmt.Errorf("vmwaretest: read a raw file into %q of %s: a snapshot can't be written", e.File, e.VM.Value)
	}
	changed, err = s.readRaw(path, e)
	if err != nil {
		return changed, fmt.Errorf("vmwaretest: read a raw file into %q of %s: %w", e.File, e.VM.Value, err)
	}
	return changed, nil
}

func (s *Simulator) readRaw(path string, e NBDExport) (changed int64, err error) {
	d, release, err := s.device(e)
	if err != nil {
		return 0, err
	}
	defer release()
	in, err := fsys.OS().OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if size, err := in.Size(); err != nil || size != d.Size() {
		return 0, errors.Join(err, fmt.Errorf("the file has %d bytes, the disk %d", size, d.Size()))
	}
	old, now := make([]byte, blockSize), make([]byte, blockSize)
	compare := func(off int64) error {
		n := min(blockSize, d.Size()-off)
		if _, err := in.ReadAt(now[:n], off); err != nil {
			return err
		}
		if _, err := d.content.ReadAt(old[:n], off); err != nil {
			return err
		}
		if bytes.Equal(old[:n], now[:n]) {
			return nil
		}
		changed += n
		_, err := d.WriteAt(context.Background(), now[:n], off)
		return err
	}
	// What neither side ever wrote is equal: blocks of zeros are not visited.
	seen := map[int64]bool{}
	for a := range d.content.written(1, 0) {
		for off := a.off; off < a.off+a.n; off += blockSize {
			seen[off] = true
			if err := compare(off); err != nil {
				return changed, err
			}
		}
	}
	for at := int64(0); at < d.Size(); {
		start, end, err := in.Data(at)
		if err == io.EOF {
			break
		}
		if err != nil {
			return changed, err
		}
		for off := start / blockSize * blockSize; off < end; off += blockSize {
			if seen[off] {
				continue
			}
			seen[off] = true
			if err := compare(off); err != nil {
				return changed, err
			}
		}
		at = end
	}
	return changed, nil
}

package vmware

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"
)

// guestDisk is a disk that is attached here.
type guestDisk struct {
	dev    BlockDevice
	detach func() error

	once   sync.Once
	failed error
}

func (g *guestDisk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return g.each(ctx, p, off, g.dev.ReadAt)
}

// each does f piece by piece: a system call can't be interrupted.
func (g *guestDisk) each(ctx context.Context, p []byte, off int64, f func([]byte, int64) (int, error)) (int, error) {
	done := 0
	for part := range slices.Chunk(p, hotAddChunk) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n, err := f(part, off+int64(done))
		done += n
		if n == len(part) {
			continue
		}
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if errors.Is(err, fs.ErrClosed) {
			return done, err
		}
		return done, advise(err, "was the disk detached from the appliance by somebody else?")
	}
	return done, nil
}

func (g *guestDisk) Close() error {
	g.once.Do(func() { g.failed = errors.Join(g.dev.Close(), g.detach()) })
	return g.failed
}

type guestDiskWritable struct {
	*guestDisk
	once   sync.Once
	failed error
}

func (g *guestDiskWritable) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return g.each(ctx, p, off, g.dev.WriteAt)
}

func (g *guestDiskWritable) Zero(ctx context.Context, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if z, ok := g.dev.(interface{ Zero(off, n int64) error }); ok {
		return z.Zero(off, n)
	}
	return errors.ErrUnsupported
}

func (g *guestDiskWritable) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return g.dev.Sync()
}

// Close makes durable what was written, then detaches.
func (g *guestDiskWritable) Close() error {
	g.once.Do(func() { g.failed = errors.Join(g.dev.Sync(), g.guestDisk.Close()) })
	return g.failed
}

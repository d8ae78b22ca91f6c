package nbd

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// ErrNoExport is returned by Server.Lookup, possibly wrapped, for a name that
// means nothing; the client is told that the export is unknown.
var ErrNoExport = errors.New("nbd: no such export")

// Device is a range of bytes that can be read. All methods of a Device and of
// its abilities are called concurrently.
//
// A Device that also implements [Writer] can be written, and may implement
// [Flusher], [Trimmer], [Zeroer]; any may implement [Mapper] and [Prefetcher].
// Calls stay inside [0, Size()) and are never empty. They must end soon after
// ctx does: that is what bounds the end of a connection.
type Device interface {
	// ReadAt fills p from off, or returns an error; a short read without an
	// error is treated as one. It must not keep p.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// Size is the length in bytes, any number from 0. It must not change while
	// the device is exported: clients learn it once.
	Size() int64
}

// Writer is a Device that can be written. When WriteAt has returned, every
// ReadAt of the same Device sees the bytes. It must not keep or change p.
type Writer interface {
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
}

// Flusher makes every write, trim and zeroing that returned before Flush was
// called durable. Without it the export offers neither FLUSH nor FUA.
type Flusher interface {
	Flush(ctx context.Context) error
}

// Trimmer is told that a range is no longer needed. What it reads as afterwards
// is the device's choice.
type Trimmer interface {
	Trim(ctx context.Context, off, n int64) error
}

// Zeroer makes a range read as zeros faster than writing zeros would, and may
// give its space back. A range that it can't zero quickly is refused with
// errors.ErrUnsupported and left unchanged; the server then writes zeros.
type Zeroer interface {
	Zero(ctx context.Context, off, n int64) error
}

// Mapper tells what is where without reading it. It yields extents in
// ascending order that lie within or overlap [off, off+n); what it leaves out
// counts as data. An error ends the sequence. Reads skip ranges that are Zero.
type Mapper interface {
	Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error]
}

// Prefetcher is told which range will be read soon (NBD's CACHE command).
type Prefetcher interface {
	Prefetch(ctx context.Context, off, n int64) error
}

// Extent is the state of [Off, Off+Len), in bytes. Zero promises that it reads
// as zeros; Hole says that it takes no space; neither implies the other.
type Extent struct {
	Off, Len   int64
	Hole, Zero bool
}

// Export is a Device under a name.
type Export struct {
	// Name is what clients ask for. The empty name is the default export; a
	// server with a single export serves it under the empty name as well.
	Name string
	// Description is shown to people who list the exports.
	Description string
	// Device holds the bytes.
	Device Device
	// ReadOnly refuses writes to a Device that could be written.
	ReadOnly bool
	// Release, if not nil, is called once when the server no longer uses an
	// export that Server.Lookup returned. For Server.Exports it is not called.
	Release func()
}

func (e Export) release() {
	if e.Release != nil {
		e.Release()
	}
}

func (e Export) check() error {
	if e.Device == nil {
		return fmt.Errorf("nbd: export %q has no device", e.Name)
	}
	if n := e.Device.Size(); n < 0 {
		return fmt.Errorf("nbd: export %q has a size of %d bytes", e.Name, n)
	}
	if err := checkString(e.Name, "export name"); err != nil {
		return fmt.Errorf("nbd: export %q: %w", e.Name, err)
	}
	if err := checkString(e.Description, "description"); err != nil {
		return fmt.Errorf("nbd: export %q: %w", e.Name, err)
	}
	return nil
}

// target is an export with its abilities found once; those that the export
// does not offer are nil.
type target struct {
	name   string
	dev    Device
	size   int64
	write  Writer
	flush  Flusher
	trim   Trimmer
	zero   Zeroer
	mapper Mapper
	fetch  Prefetcher
}

func newTarget(e Export) target {
	t := target{name: e.Name, dev: e.Device, size: e.Device.Size()}
	t.mapper, _ = e.Device.(Mapper)
	t.fetch, _ = e.Device.(Prefetcher)
	w, ok := e.Device.(Writer)
	if e.ReadOnly || !ok {
		return t
	}
	t.write = w
	t.flush, _ = e.Device.(Flusher)
	t.trim, _ = e.Device.(Trimmer)
	t.zero, _ = e.Device.(Zeroer)
	return t
}

// flags are the transmission flags. CAN_MULTI_CONN promises that a flush on one
// connection covers writes on all: true of what can't be written, and of a
// Flusher, since all connections share one Device.
func (t target) flags(structured bool) uint16 {
	f := sendHasFlags | sendCache
	if structured {
		f |= sendDF
	}
	if t.write == nil {
		return f | sendReadOnly | canMultiConn
	}
	f |= sendWriteZeros | sendFastZero
	if t.flush != nil {
		f |= sendFlush | sendFUA | canMultiConn
	}
	if t.trim != nil {
		f |= sendTrim
	}
	return f
}

// extents yields the map of [off, off+n) exactly: ascending, gapless, clipped,
// whatever the Mapper does; a device without one is a single extent of data.
func (t target) extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		pos, end := off, off+n
		if t.mapper != nil {
			for e, err := range t.mapper.Extents(ctx, off, n) {
				if err != nil {
					yield(Extent{Off: pos, Len: end - pos}, err)
					return
				}
				if e.Len <= 0 || e.Off < 0 || e.Off >= end || e.Off+e.Len <= pos {
					continue
				}
				if e.Off > pos {
					if !yield(Extent{Off: pos, Len: e.Off - pos}, nil) {
						return
					}
					pos = e.Off
				}
				stop := min(e.Off+e.Len, end)
				if !yield(Extent{Off: pos, Len: stop - pos, Hole: e.Hole, Zero: e.Zero}, nil) {
					return
				}
				if pos = stop; pos == end {
					return
				}
			}
		}
		if pos < end {
			yield(Extent{Off: pos, Len: end - pos}, nil)
		}
	}
}

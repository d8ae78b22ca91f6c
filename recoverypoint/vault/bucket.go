package vault

import (
	"context"
	"io"
	"iter"
)

// Bucket is where a vault keeps its objects: a folder, or a container of an
// object store. Names are parts of letters, digits, '-', '_' and '.' joined by
// '/', each of at most 217 bytes; no name is a folder of another. Objects never change once they are
// there, heads are the exception. All methods are safe for concurrent use,
// also by several processes.
//
// Abilities that buckets may have: [Locker], [Cleaner], [Syncer]. Package
// buckettest is the suite that each bucket passes.
type Bucket interface {
	// Create begins an object, which appears whole on the writer's Commit or
	// not at all.
	Create(ctx context.Context, name string) (Writer, error)

	// ReadAt fills p from an object, as io.ReaderAt does: fewer bytes
	// than len(p) always come with an error, io.EOF at the object's end. An
	// object that isn't there is dr.ErrNotFound. It must not keep p.
	//
	// Bulk reads come with offsets, lengths and buffers that are multiples of
	// 4096, so that a bucket on a file system can go past the page cache. What
	// is read so is never deleted and made anew under its name; what is read
	// with other lengths may be.
	ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error)

	// List yields the objects and heads whose names begin with prefix; those
	// of one folder by name. What is created or deleted meanwhile may be
	// missed or yielded; everything else is yielded once.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]

	// Delete removes an object. It is durable when Delete returns without
	// error, also if an earlier Delete that failed removed it. One that isn't
	// there is no error.
	Delete(ctx context.Context, name string) error

	// ReadHead returns a head's content and its version. One that isn't there
	// has no content and the version "". The content is durable, also if it
	// comes from a SwapHead that failed or was cut off.
	ReadHead(ctx context.Context, name string) ([]byte, Version, error)

	// SwapHead replaces the head's content, durably, if its version still is
	// old ("": if it isn't there), and otherwise fails with dr.ErrConflict
	// and changes nothing. After any other error the head is the old or the
	// new one, whole: read it again. Contents must never repeat.
	SwapHead(ctx context.Context, name string, old Version, data []byte) (Version, error)
}

// Version identifies one content of a head. "" means that it isn't there.
type Version string

// Object is an entry of a bucket. Size is in bytes.
type Object struct {
	Name string
	Size int64
}

// Writer is an object being written. WriteAt may be called concurrently with
// parts in any order; they must not overlap, and must leave no gap by the time
// of the Commit. It must not keep p. Commit and Abort must not run together
// with any other method.
type Writer interface {
	io.WriterAt

	// Commit makes the object durable, then visible. If there is an object of
	// that name it fails with dr.ErrExists and leaves that one as it is. It
	// must not be repeated: after an error the object is there, whole, or
	// isn't; if it is there it may be gone after a power cut ([Syncer]).
	Commit(ctx context.Context) error

	// Abort drops the object. After a Commit, or a second time, it does
	// nothing.
	Abort() error
}

// Locker is an ability of buckets: to keep processes apart. Without it only
// one process may use the vault at a time.
type Locker interface {
	// Lock takes a named lock, shared or exclusive, without waiting: dr.ErrBusy
	// if another holder, in this process or another, excludes it. Closing
	// releases it, as does the end of the process, if only after a while. A
	// lock may also be lost to another without a word, as a lease is whose
	// holder was stopped: that costs the vault a draft, and no point.
	Lock(ctx context.Context, name string, exclusive bool) (io.Closer, error)
}

// Cleaner is an ability of buckets: to remove what interrupted writers left.
type Cleaner interface {
	// Clean must be called only while nobody writes to the bucket.
	Clean(ctx context.Context) error
}

// Syncer is an ability of buckets where an object may be seen before it is
// durable: one that a process put which was killed at that, or whose Commit
// failed. Without it what is seen is durable.
type Syncer interface {
	// Sync makes durable that the objects are there whose names begin with
	// prefix. All are of one folder.
	Sync(ctx context.Context, prefix string) error
}

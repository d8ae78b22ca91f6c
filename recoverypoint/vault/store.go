package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Options are the knobs of a vault. The zero value makes or opens one that is
// not encrypted and compresses with Zstandard.
type Options struct {
	// Keys unlocks the vault's data key. A new vault is encrypted if Keys is
	// set; an encrypted one can't be opened without (ErrWrongKey), and one
	// that isn't encrypted is refused with it (ErrWrongKey too): a caller who
	// wants secrecy must not get less.
	Keys KeyProvider

	// Existing refuses to make a new vault: dr.ErrNotFound.
	Existing bool

	// Codec compresses the chunks that are written; 0: Zstd. Chunks that are
	// there keep theirs. Use [Raw] through NoCompression.
	Codec Codec

	// NoCompression stores every chunk as it is.
	NoCompression bool

	// PageCache bounds the memory for map pages, in bytes; 0: 16 MiB, which
	// map 26 GiB of disk.
	PageCache int64

	segmentSize int // tests make it small; 0: maxSegment
	walkBatch   int // tests make it small; 0: walkBatch
}

// Store is a vault that is open. All methods are safe for concurrent use.
//
// One process writes at a time: Create, Delete and Prune take the vault's
// writer lock, hold it until the draft is closed or the method returns, and
// fail with dr.ErrBusy while another process has it. Reading needs no lock and
// goes on beside a writer.
type Store struct {
	bucket  Bucket
	locks   Locker
	keys    *keyring
	codec   Codec
	segSize int
	batch   int // points whose maps are walked at once
	packers *packers
	parts   *fsys.Pool // partSize
	bufs    *fsys.Pool // readSize
	blocks  *fsys.Pool // chunkSize
	pages   *lru[blobKey, *page]
	recent  *lru[blobKey, []byte]  // chunks read in small pieces
	listed  *lru[string, dr.Point] // by manifest
	segs    *lru[segID, *segment]  // where segments are
	turns   sync.Map               // of *sync.Mutex by dr.MachineID: who changes a head

	mu      sync.Mutex
	writers int
	lock    io.Closer                   // held while writers > 0
	busy    map[dr.MachineID]dr.PointID // drafts that are open
	seen    bool                        // the vault's own object is known to be durable
	closed  bool
}

var (
	_ recoverypoint.PointStore = (*Store)(nil)
	_ recoverypoint.Pender     = (*Store)(nil)
	_ recoverypoint.Pruner     = (*Store)(nil)
	_ recoverypoint.Scrubber   = (*Store)(nil)
)

const (
	vaultName = "vault"
	readSize  = partSize + 4*fsys.Alignment
)

// vaultFile is the content of the object "vault".
type vaultFile struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Key     []byte `json:"key,omitempty"` // wrapped; absent: not encrypted
}

// OpenDir opens the vault in a folder, or makes one there.
func OpenDir(path string, o Options) (*Store, error) {
	return Open(context.Background(), NewDir(fsys.OS(), path), o)
}

// Open opens the vault in a bucket, or makes one there. Close it.
func Open(ctx context.Context, b Bucket, o Options) (*Store, error) {
	if o.Codec > lastCodec {
		return nil, fmt.Errorf("%w: %s", dr.ErrInvalid, o.Codec)
	}
	s := &Store{bucket: b, codec: o.Codec, busy: map[dr.MachineID]dr.PointID{}}
	if s.codec == Raw && !o.NoCompression {
		s.codec = Zstd
	} else if o.NoCompression {
		s.codec = Raw
	}
	if s.segSize = o.segmentSize; s.segSize == 0 {
		s.segSize = maxSegment
	}
	if s.batch = o.walkBatch; s.batch == 0 {
		s.batch = walkBatch
	}
	var ok bool
	if s.locks, ok = dr.As[Locker](b); !ok {
		s.locks = &localLocks{}
	}
	if o.PageCache <= 0 {
		o.PageCache = 16 << 20
	}
	s.parts = fsys.NewPool(partSize, 3*maxParts)
	s.bufs = fsys.NewPool(readSize, 8)
	s.blocks = fsys.NewPool(chunkSize, 16)
	s.pages = newLRU[blobKey, *page](o.PageCache)
	s.recent = newLRU[blobKey, []byte](4 << 20)
	s.listed = newLRU[string, dr.Point](16 << 20)
	s.segs = newLRU[segID, *segment](4 << 20)
	var err error
	if s.packers, err = newPackers(); err != nil {
		return nil, err
	}
	f, err := s.readVaultFile(ctx)
	if errors.Is(err, dr.ErrNotFound) {
		if o.Existing {
			return nil, &dr.Error{Op: "open vault", Side: dr.StoreSide, Err: err, Remedy: "there is no vault at this place; check the path"}
		}
		f, err = s.make(ctx, o)
	}
	if err != nil {
		return nil, &dr.Error{Op: "open vault", Side: dr.StoreSide, Err: err}
	}
	if err := s.unlock(ctx, f, o.Keys); err != nil {
		return nil, &dr.Error{Op: "open vault", Side: dr.StoreSide, Err: err}
	}
	return s, nil
}

func (s *Store) readVaultFile(ctx context.Context) (*vaultFile, error) {
	b, err := readAll(ctx, s.bucket, vaultName)
	if err != nil {
		return nil, err
	}
	return parseVaultFile(b)
}

func parseVaultFile(b []byte) (*vaultFile, error) {
	b, err := (*keyring)(nil).unseal(kindVault, vaultName, b)
	if err != nil {
		return nil, err
	}
	f := &vaultFile{}
	if err := json.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("%w: object %s: %w", dr.ErrCorrupt, vaultName, err)
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("%w: vault of version %d; this program reads version 1", dr.ErrUnsupported, f.Version)
	}
	return f, nil
}

// make makes a new vault; if another process is faster, that one's is it.
func (s *Store) make(ctx context.Context, o Options) (*vaultFile, error) {
	for object, err := range s.bucket.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(object.Name, "head/") || strings.HasPrefix(object.Name, "seg/") {
			f, err := s.readVaultFile(ctx)
			if errors.Is(err, dr.ErrNotFound) {
				err = &dr.Error{Op: "make vault", Side: dr.StoreSide, Err: fmt.Errorf("%w: object %s is missing, but there are others", dr.ErrCorrupt, vaultName),
					Remedy: "bring the object back from a copy of the vault"}
			}
			return f, err
		}
	}
	leave, err := s.enter(ctx)
	if errors.Is(err, dr.ErrBusy) {
		// By who makes it, or has just made it.
		if f, rerr := s.readVaultFile(ctx); !errors.Is(rerr, dr.ErrNotFound) {
			return f, rerr
		}
	}
	if err != nil {
		return nil, err
	}
	defer leave()
	f := &vaultFile{Version: 1, ID: rand.Text()}
	if o.Keys != nil {
		key := make([]byte, keyLen)
		rand.Read(key)
		if f.Key, err = o.Keys.Wrap(ctx, key); err != nil {
			return nil, fmt.Errorf("wrap the data key: %w", err)
		}
	}
	body, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	err = putObject(ctx, s.bucket, vaultName, (*keyring)(nil).seal(kindVault, vaultName, body))
	if errors.Is(err, dr.ErrExists) {
		return s.readVaultFile(ctx)
	}
	return f, err
}

func (s *Store) unlock(ctx context.Context, f *vaultFile, keys KeyProvider) error {
	switch {
	case f.Key == nil && keys == nil:
		return nil
	case f.Key == nil:
		return fmt.Errorf("%w: it is not encrypted, and a key was given", ErrWrongKey)
	case keys == nil:
		return fmt.Errorf("%w: it is encrypted, and no key was given", ErrWrongKey)
	}
	key, err := keys.Unwrap(ctx, f.Key)
	if err != nil {
		return err
	}
	if len(key) != keyLen {
		return fmt.Errorf("%w: the data key has %d bytes", ErrWrongKey, len(key))
	}
	s.keys = &keyring{key: key}
	return nil
}

// Close refuses further calls. Images and drafts that are open stay good until
// they are closed. A second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *Store) check(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("%w: the vault is closed", dr.ErrInvalid)
	}
	return ctx.Err()
}

// enter takes part in the process's writing.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writers == 0 {
		lock, err := s.locks.Lock(ctx, "writer", true)
		if err != nil {
			e := &dr.Error{Op: "write to vault", Side: dr.StoreSide, Err: err}
			if errors.Is(err, dr.ErrBusy) {
				e.Remedy = "another process is writing to this vault, and only one may: wait for it to end, or stop it; reading needs no waiting"
			}
			return nil, e
		}
		if c, ok := dr.As[Cleaner](s.bucket); ok {
			if err := c.Clean(ctx); err != nil {
				return nil, errors.Join(err, lock.Close())
			}
		}
		// Who made the vault may have been killed at it.
		if !s.seen {
			if err := s.syncSeen(ctx, vaultName); err != nil {
				return nil, errors.Join(err, lock.Close())
			}
			s.seen = true
		}
		s.lock = lock
	}
	s.writers++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.writers--; s.writers == 0 {
			s.lock.Close()
			s.lock = nil
		}
	}), nil
}

// Machines yields the machines that have points, had some, or were begun to get
// their first: what [Store.Pending] can be asked about.
func (s *Store) Machines(ctx context.Context) iter.Seq2[dr.MachineID, error] {
	return func(yield func(dr.MachineID, error) bool) {
		for o, err := range s.bucket.List(ctx, "head/") {
			if !yield(dr.MachineID(strings.TrimPrefix(o.Name, "head/")), err) || err != nil {
				return
			}
		}
	}
}

// List yields the machine's points, oldest first.
func (s *Store) List(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) {
		if err := s.check(ctx); err != nil {
			yield(dr.Point{}, err)
			return
		}
		h, _, err := s.readHead(ctx, m)
		if err != nil {
			yield(dr.Point{}, &dr.Error{Op: "list points", Side: dr.StoreSide, Machine: m, Err: err})
			return
		}
		for _, e := range h.entries {
			p, err := s.point(ctx, m, e)
			if errors.Is(err, dr.ErrNotFound) {
				// Deleted and pruned since the head was read?
				if now, _, herr := s.readHead(ctx, m); herr == nil {
					if f, ok := now.find(e.id); !ok || f != e {
						continue
					}
					err = fmt.Errorf("%w: %w", dr.ErrCorrupt, err)
				}
			}
			if err != nil {
				err = &dr.Error{Op: "list points", Side: dr.StoreSide, Machine: m, Point: e.id, Err: err}
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// point reads a point's description, or remembers it: it doesn't change.
func (s *Store) point(ctx context.Context, m dr.MachineID, e headEntry) (dr.Point, error) {
	name := manifestName(m, e.seq, e.id)
	if p, ok := s.listed.get(name); ok {
		return p.Clone(), nil
	}
	man, err := s.readManifest(ctx, m, e)
	if err != nil {
		return dr.Point{}, err
	}
	p := man.Point.Clone()
	s.listed.put(name, p, pointMemory(p))
	return man.Point, nil
}

// Delete removes a point from the machine's head; Prune gives its space back. Of
// an interrupted draft of that ID it deletes what was received.
func (s *Store) Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	fail := func(err error) error {
		var known *dr.Error
		if errors.As(err, &known) {
			return err
		}
		return &dr.Error{Op: "delete point", Side: dr.StoreSide, Machine: m, Point: id, Err: err}
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	committed := false
	err = s.changeHead(ctx, m, func(h *head) (bool, error) {
		for i, e := range h.entries {
			if e.id == id {
				h.entries = append(h.entries[:i], h.entries[i+1:]...)
				committed = true
				return true, nil
			}
		}
		return false, nil
	})
	if err == nil {
		err = s.discardDrafts(ctx, m, id)
	}
	if committed && errors.Is(err, dr.ErrBusy) {
		err = nil // only a record is left, which the next draft drops
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

package azbucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc64"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// maxBlocks of a blob.
const maxBlocks = 50_000

// storagePoly is the polynomial of the checksums that Azure checks requests by.
var storagePoly = crc64.MakeTable(0x9A6C9329AC4BC9B5)

func checksum(p []byte) blob.TransferValidationType {
	return blob.TransferValidationTypeCRC64(crc64.Checksum(p, storagePoly))
}

// nonceKey is the metadata that tells whose a blob is: with it a writer whose
// answer was lost knows its own.
const nonceKey = "lifeboatwriter"

type nonce [16]byte

func newNonce() (n nonce) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}

func (n nonce) metadata() map[string]*string {
	s := hex.EncodeToString(n[:])
	return map[string]*string{nonceKey: &s}
}

// wrote tells whether metadata is that of this nonce's blob.
func (n nonce) wrote(metadata map[string]*string) bool {
	for key, value := range metadata {
		// Headers come back with capitals.
		if strings.EqualFold(key, nonceKey) && value != nil && *value == hex.EncodeToString(n[:]) {
			return true
		}
	}
	return false
}

// ifAbsent is the condition that there is no such blob.
func ifAbsent() *blob.AccessConditions {
	any := azcore.ETagAny
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &any}}
}

// writer stages an object's blocks as they get full. Blocks that aren't
// committed belong to the name, not to a writer: so that those of two writers
// don't mix, their IDs begin with the writer's nonce.
type writer struct {
	b     *Bucket
	name  string
	blob  *blockblob.Client
	nonce nonce

	ctx    context.Context // of Create; cancelled when the writer ends
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	open    map[int64]*block
	staged  map[int64]bool
	end     int64 // of what was written
	failure error // the first
	done    bool
}

// block is one that is being filled.
type block struct {
	buf  []byte
	fill int // bytes written, anywhere in it
}

// Create implements [vault.Bucket]. Blocks are sent under ctx. What a writer
// that was cut off has staged is never seen, and gone after a week: Azure
// removes it.
func (b *Bucket) Create(ctx context.Context, name string) (vault.Writer, error) {
	blobName, err := blobName(name)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return nil, err
	}
	w := &writer{b: b, name: name, blob: b.c.NewBlockBlobClient(blobName), nonce: newNonce(), open: map[int64]*block{}, staged: map[int64]bool{}}
	w.ctx, w.cancel = context.WithCancel(ctx)
	return w, nil
}

func (w *writer) WriteAt(p []byte, off int64) (int, error) {
	size := int64(w.b.size)
	if off < 0 || off+int64(len(p)) > size*maxBlocks {
		return 0, fmt.Errorf("%w: object %s: %d bytes at %d, and it may have %d", dr.ErrInvalid, w.name, len(p), off, size*maxBlocks)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		i, from := at/size, int(at%size)
		part := p[n:min(len(p), n+int(size)-from)]
		full, err := w.fill(i, from, part)
		if err != nil {
			return n, err
		}
		n += len(part)
		if full == nil {
			continue
		}
		select {
		case w.b.slots <- struct{}{}:
			w.work.Add(1)
			go w.stage(i, full)
		case <-w.ctx.Done():
			w.b.blocks.Put(full)
			return n, w.fail(w.ctx.Err())
		}
	}
	return n, nil
}

// fill copies a part into its block, and returns that if it is full now.
func (w *writer) fill(i int64, from int, part []byte) ([]byte, error) {
	w.mu.Lock()
	if w.failure != nil || w.done {
		defer w.mu.Unlock()
		if w.failure != nil {
			return nil, w.failure
		}
		return nil, w.ended()
	}
	if w.staged[i] {
		w.mu.Unlock()
		return nil, fmt.Errorf("%w: object %s: parts overlap", dr.ErrInvalid, w.name)
	}
	k := w.open[i]
	if k == nil {
		k = &block{buf: w.b.blocks.Get()}
		w.open[i] = k
	}
	w.end = max(w.end, i*int64(w.b.size)+int64(from+len(part)))
	w.mu.Unlock()
	// Parts don't overlap, so that they are copied at once.
	copy(k.buf[from:], part)
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.fill += len(part); k.fill < len(k.buf) || w.open[i] != k {
		return nil, nil
	}
	delete(w.open, i)
	w.staged[i] = true
	return k.buf, nil
}

// stage sends one block and gives back its slot.
func (w *writer) stage(i int64, buf []byte) {
	defer w.work.Done()
	if err := w.send(w.ctx, i, buf); err != nil {
		w.fail(failed("write object", w.name, err))
	}
	w.b.blocks.Put(buf)
	<-w.b.slots
}

func (w *writer) send(ctx context.Context, i int64, p []byte) error {
	_, err := w.blob.StageBlock(ctx, w.id(i), streaming.NopCloser(bytes.NewReader(p)), &blockblob.StageBlockOptions{TransactionalValidation: checksum(p)})
	return err
}

// id of a block; all of a blob's must be of one length.
func (w *writer) id(i int64) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(w.nonce[:], uint32(i)))
}

// fail remembers the first failure and returns it.
func (w *writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil {
		w.failure = err
	}
	return w.failure
}

func (w *writer) ended() error {
	return fmt.Errorf("%w: object %s was ended before", dr.ErrInvalid, w.name)
}

// Commit puts a small object with one request, and the list of blocks of
// others. Both only if there is no such blob.
func (w *writer) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.done {
		return w.ended()
	}
	w.done = true
	// What is on its way must not outlive the caller's patience.
	stop := context.AfterFunc(ctx, w.cancel)
	w.work.Wait()
	stop()
	defer w.release()
	if err := errors.Join(ctx.Err(), w.failure); err != nil {
		return err
	}
	if err := w.whole(); err != nil {
		return err
	}
	return w.publish(ctx)
}

// whole checks that there is no gap.
func (w *writer) whole() error {
	size := int64(w.b.size)
	for i := range (w.end + size - 1) / size {
		k := w.open[i]
		if w.staged[i] || k != nil && int64(k.fill) == min(size, w.end-i*size) {
			continue
		}
		return fmt.Errorf("%w: object %s has a gap after %d", dr.ErrInvalid, w.name, i*size)
	}
	return nil
}

func (w *writer) publish(ctx context.Context) error {
	size := int64(w.b.size)
	last := (w.end + size - 1) / size
	var tail []byte
	if k := w.open[last-1]; k != nil {
		tail = k.buf[:k.fill]
	}
	if err := w.b.mayChange(); err != nil {
		return err
	}
	var err error
	if len(w.staged) == 0 {
		_, err = w.blob.Upload(ctx, streaming.NopCloser(bytes.NewReader(tail)), &blockblob.UploadOptions{
			Metadata: w.nonce.metadata(), AccessConditions: ifAbsent(), TransactionalValidation: checksum(tail),
		})
	} else {
		if tail != nil {
			if err := w.send(ctx, last-1, tail); err != nil {
				return failed("write object", w.name, err)
			}
		}
		ids := make([]string, last)
		for i := range ids {
			ids[i] = w.id(int64(i))
		}
		_, err = w.blob.CommitBlockList(ctx, ids, &blockblob.CommitBlockListOptions{Metadata: w.nonce.metadata(), AccessConditions: ifAbsent()})
	}
	if err == nil {
		return nil
	}
	// With another's commit our blocks are gone.
	if lost := bloberror.HasCode(err, bloberror.InvalidBlockList); lost || refused(err) {
		return w.settle(ctx, err, lost)
	}
	return failed("commit object", w.name, err)
}

// settle finds out whose the blob is that stands in the way: ours, if the answer
// to an earlier try was lost.
func (w *writer) settle(ctx context.Context, why error, lost bool) error {
	p, err := w.blob.GetProperties(ctx, nil)
	switch {
	case err == nil && w.nonce.wrote(p.Metadata):
		return nil
	case err == nil, missing(err) && !lost:
		return fmt.Errorf("%w: object %s", dr.ErrExists, w.name)
	case missing(err):
		return failed("commit object", w.name, why)
	}
	return failed("commit object", w.name, err)
}

// release gives back the buffers; nothing is on its way.
func (w *writer) release() {
	w.cancel()
	for _, k := range w.open {
		w.b.blocks.Put(k.buf)
	}
	w.open = nil
}

func (w *writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	w.cancel()
	w.work.Wait()
	w.release()
	return nil
}

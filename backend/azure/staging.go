package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/lease"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

const (
	sector = 512
	// maxPages is what one request may write: "Put Page", 4 MiB.
	maxPages = 4 << 20
)

// staged is a disk's content as a page blob that is being written: a fixed VHD.
// It is written under a lease of the writer, so that one who was overtaken
// writes nothing more.
type staged struct {
	blob  *pageblob.Client
	lease string     // "" for a disk that is written by an address
	size  int64      // of the disk, without what pads it
	edge  sync.Mutex // held while part of a sector is written

	// renew, of a disk that is written by an address, gets another one.
	renew func(context.Context) error
	mu    sync.RWMutex // held for writing while blob is exchanged
}

func (a *Azure) stagedName(id dr.MachineID, disk dr.DiskID, gen int) string {
	return fmt.Sprintf("%s%s-%d.vhd", blobPrefix(id), short(string(disk)), gen)
}

// make makes the blob of a disk that reads as zeros.
func (a *Azure) make(ctx context.Context, name string, size int64, owner string) (*staged, error) {
	s := &staged{blob: a.opts.Staging.NewPageBlobClient(name), lease: owner, size: size}
	// One that is there is emptied only by who has its lease: this may arrive late.
	none := azcore.ETagAny
	_, err := s.blob.Create(ctx, vhd.Padded(size)+vhd.FooterSize,
		&pageblob.CreateOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &none}}})
	if status, _ := codeOf(err); err != nil && status != http.StatusPreconditionFailed && status != http.StatusConflict {
		return nil, err
	}
	if taken := s.take(ctx); taken != nil {
		return nil, taken
	}
	if err != nil {
		// An earlier attempt of this writer; or one who was passed over made it,
		// of a machine of the name that was removed, and may have written to it.
		if _, err := s.blob.Create(ctx, vhd.Padded(size)+vhd.FooterSize, &pageblob.CreateOptions{AccessConditions: s.access()}); err != nil {
			return nil, err
		}
	}
	return s, s.seal(ctx, name)
}

// open opens a blob for writing, and takes it from whoever wrote to it before.
// Grows says that it may have to become larger, or that this was cut off.
func (a *Azure) open(ctx context.Context, name string, size int64, owner string, grows bool) (*staged, error) {
	s := &staged{blob: a.opts.Staging.NewPageBlobClient(name), lease: owner, size: size}
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	return s, s.fit(ctx, name, grows)
}

// take gets the lease, which has no end: it is given back, or taken away. Who has
// it may write, so it is asked again under it whether the caller's claim still
// counts: a newer owner breaks the lease only of whoever has it by then. The same
// before a newer owner's would be broken.
func (s *staged) take(ctx context.Context) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	if err := recheckNow(ctx); err != nil {
		return errors.Join(err, s.release(context.WithoutCancel(ctx)))
	}
	return nil
}

func (s *staged) acquire(ctx context.Context) error {
	c, err := lease.NewBlobClient(s.blob, &lease.BlobClientOptions{LeaseID: &s.lease})
	if err != nil {
		return err
	}
	for range 4 {
		_, err = c.AcquireLease(ctx, -1, nil)
		if status, _ := codeOf(err); status != http.StatusConflict {
			return err
		}
		if err := recheckNow(ctx); err != nil {
			return err
		}
		if _, err := c.BreakLease(ctx, &lease.BlobBreakOptions{BreakPeriod: to.Ptr(int32(0))}); err != nil {
			if status, _ := codeOf(err); status != http.StatusConflict {
				return err
			}
		}
	}
	return err
}

// evict ends whoever writes to a blob.
func (a *Azure) evict(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	c, err := lease.NewBlobClient(a.opts.Staging.NewBlobClient(name), nil)
	if err != nil {
		return err
	}
	_, err = c.BreakLease(ctx, &lease.BlobBreakOptions{BreakPeriod: to.Ptr(int32(0))})
	if status, _ := codeOf(err); status == http.StatusConflict || isNotFound(err) {
		return nil // nobody does
	}
	return err
}

// release gives the lease back; one that was taken away is no matter.
func (s *staged) release(ctx context.Context) error {
	if s.lease == "" {
		return nil
	}
	c, err := lease.NewBlobClient(s.blob, &lease.BlobClientOptions{LeaseID: &s.lease})
	if err != nil {
		return err
	}
	_, err = c.ReleaseLease(ctx, nil)
	if status, _ := codeOf(err); status == http.StatusConflict || status == http.StatusPreconditionFailed || isNotFound(err) {
		return nil
	}
	return err
}

func (s *staged) access() *blob.AccessConditions {
	if s.lease == "" {
		return nil
	}
	return &blob.AccessConditions{LeaseAccessConditions: &blob.LeaseAccessConditions{LeaseID: &s.lease}}
}

// fit gives the blob the size that the disk should have. A disk never shrinks.
func (s *staged) fit(ctx context.Context, name string, grows bool) error {
	p, err := s.blob.GetProperties(ctx, nil)
	if err != nil {
		return err
	}
	had, want := deref(p.ContentLength)-vhd.FooterSize, vhd.Padded(s.size)
	if had == want && !grows {
		return nil
	}
	if had > want {
		return fmt.Errorf("%w: blob %s has %d bytes, more than a disk of %d needs", dr.ErrConflict, name, had, s.size)
	}
	// The footer is where the disk goes on: it goes before there is room, so
	// that one who is cut off leaves none behind within the disk.
	if had < want {
		if err := s.clear(ctx, had, vhd.FooterSize); err != nil {
			return err
		}
		if _, err := s.blob.Resize(ctx, want+vhd.FooterSize, &pageblob.ResizeOptions{AccessConditions: s.access()}); err != nil {
			return err
		}
	}
	return s.seal(ctx, name)
}

// seal writes the footer, the same each time.
func (s *staged) seal(ctx context.Context, name string) error {
	size := vhd.Padded(s.size)
	f := vhd.Footer{Size: size, ID: uuid.NewSHA1(uuid.NameSpaceURL, []byte(name)), Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	return s.put(ctx, f.Bytes(), size)
}

// put writes whole sectors, clear writes that they are zero.
func (s *staged) put(ctx context.Context, p []byte, off int64) error {
	return s.do(ctx, func(c *pageblob.Client) error {
		body := &lent{r: bytes.NewReader(p)}
		defer body.end()
		_, err := c.UploadPages(ctx, streaming.NopCloser(body), blob.HTTPRange{Offset: off, Count: int64(len(p))},
			&pageblob.UploadPagesOptions{AccessConditions: s.access()})
		return err
	})
}

// do makes a call, again with another address if the one there was has ended.
func (s *staged) do(ctx context.Context, call func(*pageblob.Client) error) error {
	s.mu.RLock()
	c := s.blob
	s.mu.RUnlock()
	err := call(c)
	if status, _ := codeOf(err); status != http.StatusForbidden || s.renew == nil {
		return err
	}
	s.mu.Lock()
	if s.blob == c {
		if err := s.renew(ctx); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	c = s.blob
	s.mu.Unlock()
	return call(c)
}

// lent is a caller's buffer as a request's body. The HTTP client may be at
// sending it when the request is answered already: it gets nothing more then.
type lent struct {
	mu    sync.Mutex
	r     *bytes.Reader
	ended bool
}

func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return 0, io.ErrClosedPipe
	}
	return l.r.Read(p)
}

func (l *lent) Seek(off int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Seek(off, whence)
}

func (l *lent) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

func (s *staged) clear(ctx context.Context, off, n int64) error {
	if n <= 0 {
		return nil
	}
	return s.do(ctx, func(c *pageblob.Client) error {
		_, err := c.ClearPages(ctx, blob.HTTPRange{Offset: off, Count: n}, &pageblob.ClearPagesOptions{AccessConditions: s.access()})
		return err
	})
}

// write writes any range. Pieces that are zero cost no room.
func (s *staged) write(ctx context.Context, p []byte, off int64) error {
	return s.split(ctx, off, int64(len(p)), func(at, n int64) error {
		piece := p[at-off : at-off+n]
		if blocksum.Zero(piece) {
			return s.clear(ctx, at, n)
		}
		return s.put(ctx, piece, at)
	}, func(b []byte, at int64) { copy(b, p[at-off:]) })
}

// zero makes any range zero.
func (s *staged) zero(ctx context.Context, off, n int64) error {
	return s.split(ctx, off, n, func(at, n int64) error { return s.clear(ctx, at, n) }, func(b []byte, _ int64) { clear(b) })
}

// split does a range: whole sectors by whole, at most maxPages at once, and what
// is left at both ends by edge, which fills part of a sector.
func (s *staged) split(ctx context.Context, off, n int64, whole func(at, n int64) error, edge func(b []byte, at int64)) error {
	end := off + n
	if off%sector != 0 {
		to := min(end, (off+sector-1)/sector*sector)
		if err := s.part(ctx, off, to, edge); err != nil {
			return err
		}
		off = to
	}
	for off < end {
		n := min(end-off, maxPages) / sector * sector
		if n == 0 {
			return s.part(ctx, off, end, edge)
		}
		if err := whole(off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// part writes within one sector: others may write to the rest of it.
func (s *staged) part(ctx context.Context, off, end int64, edge func(b []byte, at int64)) error {
	s.edge.Lock()
	defer s.edge.Unlock()
	at := off / sector * sector
	b := make([]byte, sector)
	if err := s.read(ctx, b, at); err != nil {
		return err
	}
	edge(b[off-at:end-at], off)
	return s.put(ctx, b, at)
}

func (s *staged) read(ctx context.Context, p []byte, off int64) error {
	return s.do(ctx, func(c *pageblob.Client) error {
		_, err := readPages(ctx, c, p, off)
		return err
	})
}

// readPages fills p from a page blob, by one request.
func readPages(ctx context.Context, c *pageblob.Client, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	resp, err := c.DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: off, Count: int64(len(p))}})
	if err != nil {
		return 0, err
	}
	body := resp.NewRetryReader(ctx, nil)
	n, err := readFull(body, p)
	return n, errors.Join(err, body.Close())
}

// abortCopy ends the copy to a blob; one that has ended is no matter.
func (a *Azure) abortCopy(ctx context.Context, c *blob.Client) error {
	p, err := c.GetProperties(ctx, nil)
	if err == nil && p.CopyID != nil {
		_, err = c.AbortCopyFromURL(ctx, *p.CopyID, nil)
	}
	if status, code := codeOf(err); err == nil || isNotFound(err) || status == http.StatusConflict && code == "NoPendingCopyOperation" {
		return nil
	}
	return explain(err)
}

// drop deletes a blob, whoever has it leased. One that isn't there is no error.
func (a *Azure) drop(ctx context.Context, name string) error {
	if err := recheck(ctx); err != nil {
		return err
	}
	c := a.opts.Staging.NewBlobClient(name)
	for range 4 {
		_, err := c.Delete(ctx, &blob.DeleteOptions{DeleteSnapshots: to.Ptr(blob.DeleteSnapshotsOptionTypeInclude)})
		if err == nil || isNotFound(err) {
			return nil
		}
		switch _, code := codeOf(err); code {
		case "LeaseIdMissing":
		case "PendingCopyOperation": // of a copy that is not wanted any more
			if err := a.abortCopy(ctx, c); err != nil {
				return err
			}
			continue
		default:
			return explain(err)
		}
		l, err := lease.NewBlobClient(c, nil)
		if err != nil {
			return err
		}
		if _, err := l.BreakLease(ctx, &lease.BlobBreakOptions{BreakPeriod: to.Ptr(int32(0))}); err != nil && !isNotFound(err) {
			if status, _ := codeOf(err); status != http.StatusConflict {
				return explain(err)
			}
		}
	}
	return fmt.Errorf("%w: blob %s is leased again and again", dr.ErrBusy, name)
}

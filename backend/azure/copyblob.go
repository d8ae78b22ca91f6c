package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// errNoCopy says that the service can't copy from there by itself.
var errNoCopy = errors.New("no copy on the service's side")

// copyFrom makes a new blob of the content at an address, without a byte moving
// through this process, and waits for its end. What the copy replaces must be
// nothing.
func (a *Azure) copyFrom(ctx context.Context, name, source string, size int64, owner string) (*staged, error) {
	s := &staged{blob: a.opts.Staging.NewPageBlobClient(name), lease: owner, size: size}
	_, err := s.blob.StartCopyFromURL(ctx, source, nil)
	if _, code := codeOf(err); code == "LeaseIdMissing" {
		// An earlier attempt, that was cut off when the blob was there. How much
		// of the content it has nobody knows: again.
		if err = s.take(ctx); err == nil {
			_, err = s.blob.StartCopyFromURL(ctx, source, &blob.StartCopyFromURLOptions{AccessConditions: s.access()})
		}
	}
	pending := false
	if _, code := codeOf(err); code == "PendingCopyOperation" {
		err, pending = nil, true // an earlier attempt, whose answer was lost
	}
	if err != nil {
		if status, code := codeOf(err); status == 501 || code == "CannotVerifyCopySource" || code == "InvalidHeaderValue" || status == 404 {
			return nil, fmt.Errorf("%w: %w", errNoCopy, explain(err))
		}
		return nil, err
	}
	for {
		p, err := s.blob.GetProperties(ctx, nil)
		if err != nil {
			return nil, err
		}
		switch deref(p.CopyStatus) {
		case blob.CopyStatusTypePending:
			if err := sleep(ctx, min(a.opts.Poll, 500*time.Millisecond)); err != nil {
				return nil, err
			}
		case blob.CopyStatusTypeSuccess, "":
			if was, _, _ := strings.Cut(deref(p.CopySource), "?"); pending && was != unqueried(source) {
				return nil, fmt.Errorf("%w: blob %s was copied from elsewhere meanwhile", dr.ErrConflict, name)
			}
			if err := s.take(ctx); err != nil {
				return nil, err
			}
			return s, s.resize(ctx, name, deref(p.ContentLength))
		default:
			return nil, fmt.Errorf("the copy to blob %s ended as %s: %s", name, *p.CopyStatus, deref(p.CopyStatusDescription))
		}
	}
}

// unqueried is an address without what may be a signature.
func unqueried(url string) string {
	at, _, _ := strings.Cut(url, "?")
	return at
}

// resize gives a copy of another disk's content the size and the footer that
// this one has.
func (s *staged) resize(ctx context.Context, name string, had int64) error {
	had -= vhd.FooterSize
	if want := vhd.Padded(s.size); had != want {
		if had < want {
			if err := s.clear(ctx, had, vhd.FooterSize); err != nil {
				return err
			}
		}
		if _, err := s.blob.Resize(ctx, want+vhd.FooterSize, &pageblob.ResizeOptions{AccessConditions: s.access()}); err != nil {
			return err
		}
	}
	// A guest may have written to what pads its disk; nobody else sees it.
	if err := s.clear(ctx, s.size, vhd.Padded(s.size)-s.size); err != nil {
		return err
	}
	return s.seal(ctx, name)
}

// streamFrom is copyFrom where the service can't: what is written there is read
// and written by this process.
func (a *Azure) streamFrom(ctx context.Context, name string, from *pageblob.Client, size int64, owner string) (*staged, error) {
	s, err := a.make(ctx, name, size, owner)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, maxPages)
	pager := from.NewGetPageRangesPager(nil)
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.PageRange {
			for off, end := deref(r.Start), min(deref(r.End)+1, size); off < end; {
				p := buf[:min(end-off, maxPages)]
				if _, err := readPages(ctx, from, p, off); err != nil {
					return nil, err
				}
				if err := s.write(ctx, p, off); err != nil {
					return nil, err
				}
				off += int64(len(p))
			}
		}
	}
	return s, nil
}

// readFull reads until p is full; fewer bytes are an error.
func readFull(r io.Reader, p []byte) (int, error) {
	n, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) && n < len(p) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

package pageblob

import (
	"context"
	"slices"
	"sort"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
)

const (
	// window is how much of a disk one request asks the written pages of.
	window = 1 << 30
	// windows is how many answers of a disk are kept.
	windows = 4
	// page is what page blobs are written in.
	pageSize = 512
)

// frozen reads a snapshot of a page blob: a disk of that size, without what the
// VHD has behind it.
type frozen struct {
	size  int64
	url   string
	blob  *blob.Client
	pages *pageblob.Client

	mu      sync.Mutex
	written []*written // most recently used first
}

// written are the ranges of a window that were written and not cleared.
type written struct {
	n      int64 // the window's number
	done   chan struct{}
	err    error
	ranges []span
}

// span is [off, end).
type span struct{ off, end int64 }

func (s *Store) frozen(name, snapshot string, size int64) (*frozen, error) {
	b, err := s.snapshot(name, snapshot)
	if err != nil {
		return nil, err
	}
	p, err := s.c.NewPageBlobClient(name).WithSnapshot(snapshot)
	if err != nil {
		return nil, err
	}
	return &frozen{size: size, url: b.URL(), blob: b, pages: p}, nil
}

func (f *frozen) readAt(ctx context.Context, p []byte, off int64) error {
	return readRange(ctx, f.blob, p, off)
}

// zero tells whether no page of the range is written.
func (f *frozen) zero(ctx context.Context, off, n int64) (bool, error) {
	for end := off + n; off < end; {
		w, err := f.window(ctx, off/window)
		if err != nil {
			return false, err
		}
		i := sort.Search(len(w.ranges), func(i int) bool { return w.ranges[i].end > off })
		if i < len(w.ranges) && w.ranges[i].off < end {
			return false, nil
		}
		off = (off/window + 1) * window
	}
	return true, nil
}

// window returns what is written in the n-th one.
func (f *frozen) window(ctx context.Context, n int64) (*written, error) {
	for {
		f.mu.Lock()
		i := slices.IndexFunc(f.written, func(w *written) bool { return w.n == n })
		var w *written
		mine := i < 0
		if mine {
			w = &written{n: n, done: make(chan struct{})}
		} else {
			w = f.written[i]
			f.written = slices.Delete(f.written, i, i+1)
		}
		f.written = slices.Insert(f.written, 0, w)
		f.written = f.written[:min(len(f.written), windows)]
		f.mu.Unlock()
		if mine {
			w.ranges, w.err = pageRanges(ctx, f.pages, n*window, min(window, f.size-n*window))
			if w.err != nil {
				f.mu.Lock()
				f.written = slices.DeleteFunc(f.written, func(o *written) bool { return o == w })
				f.mu.Unlock()
			}
			close(w.done)
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if w.err != nil && !mine && ctx.Err() == nil && isContextEnd(w.err) {
			continue // it was another's context that ended
		}
		return w, w.err
	}
}

// pageRanges lists what of a range is written, ascending.
func pageRanges(ctx context.Context, c *pageblob.Client, off, n int64) ([]span, error) {
	if n <= 0 {
		return nil, nil
	}
	n = (n + pageSize - 1) / pageSize * pageSize
	pager := c.NewGetPageRangesPager(&pageblob.GetPageRangesOptions{
		Range: blob.HTTPRange{Offset: off, Count: n}, MaxResults: to.Ptr(int32(5000)),
	})
	var l []span
	for pager.More() {
		p, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range p.PageRange {
			if r == nil || r.Start == nil || r.End == nil {
				continue
			}
			s := span{max(off, *r.Start), min(off+n, *r.End+1)}
			if s.off < s.end {
				l = append(l, s)
			}
		}
	}
	slices.SortFunc(l, func(a, b span) int { return int(min(1, max(-1, a.off-b.off))) })
	return l, nil
}

package scheduler

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// pruning is how a prune ended.
type pruning struct {
	site  string
	began time.Time
	bytes int64
	err   error

	refused bool // it was not this process's
}

// prune begins to prune a store that is due, if none is being pruned: it reads
// and writes much, and cycles go on beside it.
func (s *Scheduler) prune(ctx context.Context, now time.Time) {
	if s.o.Prune < 0 || s.pruning != "" {
		return
	}
	for _, site := range slices.Sorted(maps.Keys(s.env.Sites)) {
		p, ok := dr.As[recoverypoint.Pruner](s.env.Sites[site].Points)
		if !ok {
			continue
		}
		due, known := s.prunes[site]
		if !known {
			due = slot(dr.ProtectionID("site/"+site), s.o.Prune, now)
			s.prunes[site] = due
		}
		if now.Before(due) || !s.open(site) {
			continue
		}
		s.prunes[site] = slot(dr.ProtectionID("site/"+site), s.o.Prune, now)
		s.pruning = site
		go func() {
			r := pruning{site: site, began: now}
			ctx, done, err := ctx, func() {}, error(nil)
			if s.o.Pruning != nil {
				ctx, done, err = s.o.Pruning(ctx, site)
			}
			if r.refused = err != nil; !r.refused {
				r.bytes, r.err = p.Prune(ctx)
				done()
			}
			select {
			case s.pruned <- r:
			case <-s.over:
			}
		}()
		return
	}
}

func (s *Scheduler) prunedStore(p pruning) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.env.Time()
	s.pruning = ""
	if p.refused {
		return
	}
	s.tell(Event{Kind: Pruned, Site: p.site, Bytes: p.bytes, Err: p.err, Took: now.Sub(p.began)}, nil, now)
}

package pageblob

import (
	"context"

	"golang.org/x/time/rate"
)

// pace keeps the requests that write to one page blob within the limits.
type pace struct {
	bytes, requests *rate.Limiter // nil: no limit
}

// newPace makes one of so many bytes and requests a second; below 0: no limit.
func newPace(bytes, requests int) *pace {
	p := &pace{}
	if bytes > 0 {
		// One request's bytes must fit the burst.
		p.bytes = rate.NewLimiter(rate.Limit(bytes), max(maxPages, bytes/4))
	}
	if requests > 0 {
		p.requests = rate.NewLimiter(rate.Limit(requests), max(1, requests/10))
	}
	return p
}

// wait returns when a request of n bytes may be made.
func (p *pace) wait(ctx context.Context, n int) error {
	if p.requests != nil {
		if err := p.requests.Wait(ctx); err != nil {
			return err
		}
	}
	if p.bytes != nil {
		return p.bytes.WaitN(ctx, n)
	}
	return nil
}

// pace returns the one of a blob, which all who write it share.
func (s *Store) pace(name string) *pace {
	if p, ok := s.paces.Load(name); ok {
		return p.(*pace)
	}
	p, _ := s.paces.LoadOrStore(name, newPace(s.o.BytesPerSecond, s.o.RequestsPerSecond))
	return p.(*pace)
}

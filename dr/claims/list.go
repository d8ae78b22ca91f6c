package claims

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// readers is how many claims are read at once for a list.
const readers = 16

// Claims implements [dr.ClaimLister]. Those that are damaged are told of at the
// end, in one error, after all others.
func (c *Claims) Claims(ctx context.Context) iter.Seq2[dr.Claim, error] {
	return func(yield func(dr.Claim, error) bool) {
		all, err := c.all(ctx)
		for _, claim := range all {
			if !yield(claim, nil) {
				return
			}
		}
		if err != nil {
			yield(dr.Claim{}, fmt.Errorf("list claims: %w", err))
		}
	}
}

func (c *Claims) all(ctx context.Context) ([]dr.Claim, error) {
	var mu sync.Mutex
	var all []dr.Claim
	var damaged []error
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for name, err := range c.heads.list(ctx, c.prefix) {
		if err != nil {
			return nil, errors.Join(err, g.Wait())
		}
		if rest := strings.TrimPrefix(name, c.prefix); !strings.HasPrefix(rest, mark) || strings.Contains(rest, "/") {
			continue // another's
		}
		g.Go(func() error {
			r, version, err := c.load(ctx, name, "")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, dr.ErrCorrupt) || errors.Is(err, dr.ErrUnsupported):
				damaged = append(damaged, err)
			case err != nil:
				return err
			case version != "":
				all = append(all, dr.Claim{Resource: r.Resource, Owner: r.Owner, Epoch: r.Epoch, Since: r.Since})
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b dr.Claim) int { return cmp.Compare(a.Resource, b.Resource) })
	return all, errors.Join(damaged...)
}

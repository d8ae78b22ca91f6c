package azure

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// usualWidth bounds the calls that one operation has in flight.
const usualWidth = 8

// all calls f for each of n things, several at once, and done if all went well.
func (a *Azure) all(ctx context.Context, n int, f func(ctx context.Context, i int) error, done func()) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(a.width)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if done != nil {
		done()
	}
	return nil
}

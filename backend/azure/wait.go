package azure

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// await polls a long operation to its end. PollUntilDone won't ask more often
// than once a second, however soon the service says that it is done.
func await[T any](ctx context.Context, a *Azure, p *runtime.Poller[T], err error) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	for !p.Done() {
		resp, err := p.Poll(ctx)
		if err != nil {
			return none, err
		}
		if p.Done() {
			break
		}
		if err := sleep(ctx, retryAfter(resp, a.opts.Poll)); err != nil {
			return none, err
		}
	}
	return p.Result(ctx)
}

// retryAfter is what the service asks for, bounded: a header must not hang us.
func retryAfter(r *http.Response, otherwise time.Duration) time.Duration {
	d := otherwise
	for _, h := range []struct {
		name string
		unit time.Duration
	}{{"Retry-After-Ms", time.Millisecond}, {"X-Ms-Retry-After-Ms", time.Millisecond}, {"Retry-After", time.Second}} {
		if n, err := strconv.Atoi(r.Header.Get(h.name)); err == nil && n >= 0 {
			d = time.Duration(n) * h.unit
			break
		}
	}
	return min(d, 30*time.Second)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

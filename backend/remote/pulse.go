package remote

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// recheck ends the session with an agent whose certificate is good no more.
func (w *wire) recheck(state tls.ConnectionState, o DialOptions) {
	t := time.NewTicker(o.RecheckEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-w.lost:
			return
		}
		if err := o.Recheck(state); err != nil {
			o.Log.Warn("the session with the agent is ended", "err", err)
			w.fail(fmt.Errorf("the agent's certificate is good no more: %w", err))
			return
		}
	}
}

// ping shows the server that somebody is here. Where a request takes longer to
// send, that shows it.
func (l *lane) ping() {
	t := time.NewTicker(l.w.terms.KeepAlive)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-l.w.lost:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), l.w.terms.KeepAlive)
		_ = l.Send(ctx, agentwire.Header{Kind: agentwire.Ping})
		cancel()
	}
}

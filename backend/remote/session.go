package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// maxLinks is how many connections a session may have.
const maxLinks = 9

// session is one client at the server: its connections, its calls, and what it
// has open. It is over when any of its connections is: then a client begins
// anew, and nobody has to tell what of it is still good.
type session struct {
	*server
	token string
	peer  *guest
	runs  bool // zeros don't travel

	ctx    context.Context // ends first of all: calls give up, machines thaw
	cancel context.CancelCauseFunc
	calls  sync.WaitGroup
	bulk   chan struct{}
	over   chan struct{} // closed when nothing is open any more

	mu      sync.Mutex
	ended   bool
	leaving bool // it was told to go
	links   []*agentwire.Link
	flying  int
	weight  int // of their arguments, in bytes
	open    map[uint64]*handle
	last    uint64
}

func newSession(s *server, token string, peer *guest, features []string) *session {
	ctx, cancel := context.WithCancelCause(s.base)
	return &session{
		server: s, token: token, peer: peer, runs: slices.Contains(features, agentwire.FeatureRuns),
		ctx: ctx, cancel: cancel, bulk: make(chan struct{}, s.o.Bulk), over: make(chan struct{}), open: map[uint64]*handle{},
	}
}

// handle is something that a client has open.
type handle struct {
	id      uint64
	machine dr.MachineID
	image   dr.Image // one of the three
	draft   dr.Draft
	freeze  *freeze
	use     sync.RWMutex // Commit and Close run alone
	closed  bool
}

func (h *handle) close() error {
	h.use.Lock()
	defer h.use.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	switch {
	case h.image != nil:
		return h.image.Close()
	case h.draft != nil:
		return h.draft.Close()
	}
	h.freeze.end(errors.New("the client is gone"))
	return nil
}

// join adds a connection.
func (x *session) join(l *agentwire.Link) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.ended:
		return fmt.Errorf("%w: the session is over", dr.ErrNotFound)
	case len(x.links) >= maxLinks:
		return fmt.Errorf("%w: the session has %d connections, which is the limit", dr.ErrBusy, len(x.links))
	}
	x.links = append(x.links, l)
	return nil
}

// leave ends the session with one of its connections.
func (x *session) leave(l *agentwire.Link, why error) {
	_ = l.Close()
	x.end(why)
}

// end ends the session, without waiting for it.
func (x *session) end(why error) {
	x.mu.Lock()
	if x.ended {
		x.mu.Unlock()
		return
	}
	x.ended = true
	links := x.links
	// Counted before a connection can go: while one of them is there the server can't
	// be done, and it must not be before this is closed.
	x.server.links.Add(1)
	x.mu.Unlock()
	x.o.Log.Info("a client has gone", "subject", x.peer.cert.Subject.String(), "why", why)
	x.cancel(why)
	for _, l := range links {
		_ = l.Close()
	}
	go func() {
		defer x.server.links.Done()
		x.cleanUp()
	}()
}

// why tells why the session has ended. Its context may end a moment later than it.
func (x *session) why() error {
	if err := context.Cause(x.ctx); err != nil {
		return err
	}
	return errors.New("the session is over")
}

// cleanUp closes what the client had open, once nothing uses it any more.
func (x *session) cleanUp() {
	x.calls.Wait()
	x.mu.Lock()
	open := x.open
	x.open = nil
	x.mu.Unlock()
	var wg sync.WaitGroup
	for _, h := range open {
		wg.Go(func() {
			if err := h.close(); err != nil {
				x.o.Log.Warn("what a client had left open", "machine", h.machine, "err", err)
			}
		})
	}
	wg.Wait()
	x.forget(x)
	close(x.over)
}

// goAway tells the client that the server stops.
func (x *session) goAway() {
	x.mu.Lock()
	x.leaving = true
	var first *agentwire.Link
	if len(x.links) > 0 {
		first = x.links[0]
	}
	x.mu.Unlock()
	if first != nil {
		_ = first.Send(x.ctx, agentwire.Header{Kind: agentwire.GoAway})
	}
	x.idle()
}

// idle ends a session that was told to go and has nothing under way.
func (x *session) idle() {
	x.mu.Lock()
	done := x.leaving && x.flying == 0 && len(x.open) == 0
	x.mu.Unlock()
	if done {
		x.end(errors.New("it was told to go"))
	}
}

// maxWeight bounds the JSON arguments of a client's calls under way, in bytes.
const maxWeight = 4 * agentwire.MaxArgument

// begin counts a call in, or refuses it. weight is its argument's length, if that
// is JSON.
func (x *session) begin(weight int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.ended:
		return x.why()
	case x.flying >= 2*x.o.Calls: // one that the client knows to be over may not be counted out yet
		return fmt.Errorf("%w: the client has %d calls under way, and may have %d", dr.ErrBusy, x.flying, x.o.Calls)
	case weight > agentwire.MaxArgument:
		return fmt.Errorf("%w: an argument of %d bytes, and the agent takes %d", dr.ErrInvalid, weight, agentwire.MaxArgument)
	case x.weight+weight > maxWeight:
		return fmt.Errorf("%w: the arguments of the client's calls take %d bytes", dr.ErrBusy, x.weight+weight)
	}
	x.flying++
	x.weight += weight
	x.calls.Add(1)
	return nil
}

func (x *session) done(weight int) {
	x.mu.Lock()
	x.flying--
	x.weight -= weight
	x.mu.Unlock()
	x.idle()
	x.calls.Done()
}

// keep makes h known to the client. An error closes it.
func (x *session) keep(h *handle) (uint64, error) {
	x.mu.Lock()
	err := x.room()
	if err == nil {
		x.last++
		h.id = x.last
		x.open[h.id] = h
	}
	x.mu.Unlock()
	if err != nil {
		return 0, errors.Join(err, h.close())
	}
	return h.id, nil
}

// room refuses a handle that would be too many. It needs x.mu.
func (x *session) room() error {
	switch {
	case x.ended:
		return x.why()
	case x.leaving:
		return fmt.Errorf("%w: the agent stops", dr.ErrBusy)
	case len(x.open) >= x.o.Open:
		return fmt.Errorf("%w: the client has %d images, drafts and freezes open, which is the limit", dr.ErrBusy, len(x.open))
	}
	return nil
}

// mayOpen is asked before something is opened that would have to be closed.
func (x *session) mayOpen() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.room()
}

// find returns what the client has open under that number.
func (x *session) find(id uint64) (*handle, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	h := x.open[id]
	if h == nil {
		return nil, fmt.Errorf("%w: nothing is open under number %d", dr.ErrInvalid, id)
	}
	return h, nil
}

// drop forgets h, which was closed.
func (x *session) drop(h *handle) {
	x.mu.Lock()
	delete(x.open, h.id)
	x.mu.Unlock()
}

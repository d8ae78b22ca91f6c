package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// usualTrust is how long what the record said is believed: whoever was stopped
// for longer reads it again before the next request that changes anything. A
// call's own reading of it is younger, as a rule, and so costs no other.
const usualTrust = time.Second

// guard goes with the context of a call that changes a machine under fences.
// The Resource Manager has conditions for few of its requests; for the others
// this is how near to the request it is made sure that nobody has taken the
// machine over.
type guard struct {
	a  *Azure
	id dr.MachineID
	// absent says that there was no record: what is left of the machine may be
	// taken away, but not from who has made it anew.
	absent bool

	// draft is the draft that the call is of, if any.
	draft string

	mu   sync.Mutex
	seen time.Time // when the record was asked for that admitted the call last
}

type guardKey struct{}

// under begins a call that changes m: it is refused if its claim was taken over
// by what the record says that find has read.
func (a *Azure) under(ctx context.Context, m *machine) (context.Context, error) {
	if _, _, err := m.rec.Fences.Admit(ctx); err != nil {
		return ctx, err
	}
	if len(dr.Fences(ctx)) == 0 {
		return ctx, nil
	}
	return context.WithValue(ctx, guardKey{}, &guard{a: a, id: m.id, absent: !m.has && isReplicaID(m.id), seen: m.seen}), nil
}

// raise is under for a call that doesn't write the record anyway: what the call
// acts under is durable when it returns.
func (a *Azure) raise(ctx context.Context, m *machine) (context.Context, error) {
	ctx, err := a.under(ctx, m)
	if err != nil {
		return ctx, err
	}
	next, raised, err := m.rec.Fences.Admit(ctx)
	if err != nil || !raised {
		return ctx, err
	}
	if m.has { // by one request, as a rule
		r := m.rec
		r.Fences = next
		etag, err := a.save(ctx, &r, m.etag)
		if err == nil {
			m.rec, m.etag = r, etag
		}
		if !errors.Is(err, dr.ErrConflict) {
			return ctx, err
		}
	}
	r, etag, err := a.updated(ctx, m.id, func() (record, error) { return m.current(), nil }, func(*record) error { return nil })
	if err != nil {
		return ctx, err
	}
	m.rec, m.has, m.etag = r, true, etag
	return ctx, nil
}

// dropRecord deletes a record, of a call under fences only if nobody has changed
// it since it was read.
func (a *Azure) dropRecord(ctx context.Context, id dr.MachineID, etag azcore.ETag) error {
	if len(dr.Fences(ctx)) == 0 {
		return a.drop(ctx, recordBlob(id))
	}
	if etag == "" { // there was none
		return recheck(ctx)
	}
	_, err := a.opts.Staging.NewBlobClient(recordBlob(id)).Delete(ctx,
		&blob.DeleteOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &etag}}})
	if err == nil || isNotFound(err) {
		return nil
	}
	if status, _ := codeOf(err); status != http.StatusPreconditionFailed {
		return explain(err)
	}
	r, _, err := a.load(ctx, id)
	if errors.Is(err, dr.ErrNotFound) {
		return nil
	}
	if err == nil {
		_, _, err = r.Fences.Admit(ctx)
	}
	if err == nil {
		err = fmt.Errorf("%w: the machine's record", dr.ErrConflict)
	}
	return err
}

// recheck is asked before what can't be undone.
func recheck(ctx context.Context) error {
	g, _ := ctx.Value(guardKey{}).(*guard)
	if g == nil {
		return nil
	}
	return g.check(ctx)
}

// recheckNow is recheck that looks however young the last look is.
func recheckNow(ctx context.Context) error {
	g, _ := ctx.Value(guardKey{}).(*guard)
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.look(ctx)
}

func (g *guard) check(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	// By both clocks: a virtual machine that was paused may have stopped one.
	if now.Sub(g.seen) <= g.a.trust && now.Round(0).Sub(g.seen.Round(0)).Abs() <= g.a.trust {
		return nil
	}
	return g.look(ctx)
}

func (g *guard) look(ctx context.Context) error {
	now := time.Now()
	r, _, err := g.a.load(ctx, g.id)
	switch gone := errors.Is(err, dr.ErrNotFound); {
	case gone && g.absent:
		err = nil
	case gone:
		err = fmt.Errorf("%w: the machine's record, which was there: another process has removed it", dr.ErrNotFound)
	case err == nil:
		if _, _, err = r.Fences.Admit(ctx); err == nil && g.absent {
			err = fmt.Errorf("%w: another process has prepared the machine anew", dr.ErrConflict)
		}
		if err == nil && g.draft != "" && r.Draft != g.draft {
			err = errOtherDraft
		}
	}
	if err == nil {
		g.seen = now
	}
	return err
}

// saw says that the record admitted the call when it was asked for at that time.
func saw(ctx context.Context, at time.Time) {
	if g, _ := ctx.Value(guardKey{}).(*guard); g != nil {
		g.mu.Lock()
		g.seen = at
		g.mu.Unlock()
	}
}

// guarded is the policy that asks the guard before every request, and every
// repetition of one, that may change anything at the Resource Manager.
type guarded struct{}

// Do implements policy.Policy.
func (guarded) Do(req *policy.Request) (*http.Response, error) {
	// What gives an address back harms nobody, and helps whoever came after.
	if m := req.Raw().Method; m != http.MethodGet && m != http.MethodHead && !strings.HasSuffix(req.Raw().URL.Path, "/endGetAccess") {
		if err := recheck(req.Raw().Context()); err != nil {
			return nil, overtaken{err}
		}
	}
	return req.Next()
}

// overtaken is an error that the SDK doesn't repeat the request for.
type overtaken struct{ error }

func (o overtaken) Unwrap() error { return o.error }

// NonRetriable is how the SDK asks.
func (overtaken) NonRetriable() {}

// unchanged is the condition that nobody has changed the machine at Azure since
// it was looked at; nil where Azure doesn't tell.
func (m *machine) unchanged() *string {
	if m.vm == nil || deref(m.vm.Etag) == "" {
		return nil
	}
	return to.Ptr(*m.vm.Etag)
}

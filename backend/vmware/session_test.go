package vmware

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A password that is wrong by now is tried once, by however many calls: more
// would lock the account.
func TestWrongPasswordIsTriedOnce(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	p.sim.ExpireSessions()
	before := p.sim.Calls("Login")
	armed := p.sim.Fault(vmwaretest.Fault{Call: "Login", Times: -1, Err: &types.InvalidLogin{}})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := p.v.Machine(t.Context(), p.id)
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, p.sim.Calls("Login")-before)
	armed.Remove()
	p.v.session.when = p.v.session.when.Add(-loginPause) // it is corrected, and a while has passed
	p.look()
}

// Whoever waits for another's login can give up.
func TestLoginIsNotWaitedForBeyondTheContext(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	p.sim.ExpireSessions()
	hold := make(chan struct{})
	defer p.sim.Fault(vmwaretest.Fault{Call: "Login", Hold: hold, Drop: true}).Remove()
	before := p.sim.Calls("Login")
	first := make(chan error)
	go func() {
		_, err := p.v.Machine(context.Background(), p.id)
		first <- err
	}()
	require.Eventually(t, func() bool { return p.sim.Calls("Login") > before }, time.Minute, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := p.v.Machine(ctx, p.id)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(began), 5*time.Second)
	close(hold)
	require.Error(t, <-first)
	p.look()
}

// replaced ends the sessions before the n-th call of a name.
type replaced struct {
	soap.RoundTripper
	sim  *vmwaretest.Simulator
	call string
	n    int
}

func (r *replaced) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	if callName(req) == r.call {
		if r.n--; r.n == 0 {
			r.sim.ExpireSessions()
		}
	}
	return r.RoundTripper.RoundTrip(ctx, req, res)
}

// A listing whose view went with its session must not read as an empty one: a
// second replica would be made.
func TestListingOverAReplacedSession(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	place := backend.Placement{Key: "k", Machine: p.look().describe()}
	r, err := p.v.Prepare(t.Context(), place)
	require.NoError(t, err)
	for n := 1; n < 4; n++ {
		p.v.session.next = &replaced{p.v.session.next, p.sim, "RetrievePropertiesEx", n}
		found, err := p.v.findByKey(t.Context(), "k")
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, r.ID, found[0].id)
	}
}

// Opening and closing leaves nothing running, also when it is closed twice and
// by many; and what is closed stays closed.
func TestOpenAndCloseLeaveNothing(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	sessions := p.sim.Sessions()
	before := runtime.NumGoroutine()
	const opens = 5
	for range opens {
		v, err := Open(t.Context(), p.w.o)
		require.NoError(t, err)
		i, err := v.Capture(t.Context(), p.id, "p", dr.CrashConsistent)
		require.NoError(t, err)
		_, err = i.ReadAt(t.Context(), p.ids[0], make([]byte, 512), 0)
		require.NoError(t, err)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if err := v.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.NoError(t, i.Close())
		_, err = v.Machine(t.Context(), p.id)
		require.ErrorContains(t, err, "closed")
	}
	require.Equal(t, sessions, p.sim.Sessions())
	// A connection that net/http dialled for a call which got another one ends
	// in its own time; what each Open left behind would be more.
	require.Eventually(t, func() bool { return runtime.NumGoroutine() < before+2*opens }, time.Minute, 10*time.Millisecond)
}

package vmware

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/internal/keyed"
)

// VSphere is a vCenter, or an ESXi host, as a backend. All methods are safe for
// concurrent use; several processes may use one vCenter, on different machines.
type VSphere struct {
	options Options
	client  *vim25.Client
	session *session
	limits  *limits
	locks   keyed.Locks[dr.MachineID] // by machine: what changes a machine, one at a time
	buffers *fsys.Pool
	fresh   time.Duration // freshFor, or a test's
	// patience is lookPatience, or a test's.
	patience time.Duration
	places   places
	held     held   // guests that are frozen
	mounts   string // for tests: the list of mounts that guests freeze

	stop func() // the keeping alive
	idle sync.WaitGroup
}

var (
	_ backend.Backend     = (*VSphere)(nil)
	_ backend.Inspector   = (*VSphere)(nil)
	_ backend.Lister      = (*VSphere)(nil)
	_ backend.Preflighter = (*VSphere)(nil)
	_ backend.Prober      = (*VSphere)(nil)
	_ backend.Shutdowner  = (*VSphere)(nil)
	_ backend.Sweeper     = (*VSphere)(nil)
)

// idleConnections are kept for the next call.
const idleConnections = 64

// Open logs in. The error of a server whose certificate can't be verified, or
// that refuses the login, says which option to look at.
func Open(ctx context.Context, o Options) (*VSphere, error) {
	fail := func(err error, remedy string) (*VSphere, error) {
		return nil, &dr.Error{Op: "connect to vSphere", Err: err, Remedy: remedy}
	}
	if err := o.complete(); err != nil {
		return fail(err, "")
	}
	sc := soap.NewClient(o.URL, o.Insecure)
	// Many machines at once are the rule, and a handshake costs more than a call.
	sc.DefaultTransport().MaxIdleConnsPerHost = idleConnections
	if o.CAFile != "" {
		if err := sc.SetRootCAs(o.CAFile); err != nil {
			return fail(fmt.Errorf("%w: CAFile: %w", dr.ErrInvalid, err), "")
		}
	}
	if o.Thumbprint != "" {
		sc.SetThumbprint(o.URL.Host, strings.ToUpper(o.Thumbprint))
	}
	vc, err := vim25.NewClient(ctx, sc)
	if err != nil {
		return fail(err, "check the address, that port 443 is reachable from here, and the certificate: set CAFile or Thumbprint to trust it")
	}
	v := &VSphere{options: o, client: vc, limits: newLimits(o.PerHost, o.Total), buffers: fsys.NewPool(1<<20, 8), fresh: freshFor, patience: lookPatience}
	v.session = &session{next: vc.RoundTripper, client: vc, entry: make(gate, 1), user: url.UserPassword(o.User, o.Password), log: o.Log}
	vc.RoundTripper = v.session
	if err := v.session.login(ctx, 0); err != nil {
		return fail(explain(err), "check User and Password")
	}
	alive, stop := context.WithCancel(context.Background())
	v.stop = stop
	v.idle.Go(func() { v.keepAlive(alive) })
	return v, nil
}

// Close logs out. Images and drafts that are open end with errors. A second
// call does nothing.
func (v *VSphere) Close(ctx context.Context) error {
	v.stop()
	v.idle.Wait()
	return v.session.logout(ctx)
}

// keepAlive touches the session from time to time. What it meets is left to
// the next real call, which logs in again.
func (v *VSphere) keepAlive(ctx context.Context) {
	t := time.NewTicker(v.options.KeepAlive)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			v.session.touch(ctx)
		}
	}
}

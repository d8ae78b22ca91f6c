package inventory

import (
	"context"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness/offline"
)

// Inspect tells what a backend.Inspector tells of a guest, of this machine: what
// its files say that runs here. The answers are those that
// failover/readiness/offline has of a recovery point, and beside them whether a
// restart is due.
func Inspect(ctx context.Context, o Options) (backend.Facts, error) {
	r, err := Read(ctx, o)
	if err != nil {
		return backend.Facts{}, err
	}
	return r.inspect(ctx, o)
}

func (r Report) inspect(ctx context.Context, o Options) (backend.Facts, error) {
	if o.Root == "" {
		o.Root = "/"
	}
	facts, err := offline.Running(ctx, root(o.Root), dr.Machine{ID: r.ID, NICs: r.nics()}, offline.Options{})
	facts.From, facts.At = "this host", time.Now().UTC()
	return facts, err
}

// Inspector is Inspect as package physical takes it (Config.Inspect): it answers
// for one machine, and refuses others.
func Inspector(id dr.MachineID, o Options) func(context.Context, dr.MachineID) (backend.Facts, error) {
	return func(ctx context.Context, asked dr.MachineID) (backend.Facts, error) {
		if asked != id {
			return backend.Facts{}, &dr.Error{Op: "inspect", Machine: asked, Err: fmt.Errorf("%w: only machine %s is the host itself", dr.ErrUnsupported, id)}
		}
		return Inspect(ctx, o)
	}
}

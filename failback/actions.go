package failback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Actions are the steps of the flows planned here that package failover has
// not. Register both.
func Actions(e *replication.Env) dr.Actions {
	a := actions{e}
	return dr.Actions{
		"failback.standby@1":    a.standby,
		"failback.first@1":      a.first,
		"failback.last@1":       a.last,
		"failback.release@1":    a.release,
		"reprotect.seed@1":      a.seed,
		"reprotect.replicate@1": a.replicate,
		"reprotect.hydrate@1":   a.hydrate,
		"reprotect.finish@1":    a.finish,
	}
}

type actions struct{ e *replication.Env }

// ends are both ends of a flow, with what every step needs.
type ends struct {
	failover.Input
	from, to replication.Site
	replica  backend.Replica // from the prepare step; zero before it
}

// begin reads what every step needs.
func (a actions) begin(c *dr.Call) (ends, error) {
	in, err := failover.ReadInput(c)
	if err != nil {
		return ends{}, err
	}
	x := ends{Input: in}
	if x.from, err = a.e.Sites.Site(in.From.Site); err != nil {
		return x, err
	}
	if x.to, err = a.e.Sites.Site(in.To.Site); err != nil {
		return x, err
	}
	_, err = failover.ReadResult(c, failover.StepPrepare, &x.replica)
	return x, err
}

// fail says where a step failed.
func fail(op string, side dr.Side, site string, m dr.MachineID, err error) error {
	if err == nil {
		return nil
	}
	return &dr.Error{Op: op, Side: side, Site: site, Machine: m, Err: err}
}

// standby turns the former machine off: from here on its disks don't change.
// What was frozen of it in earlier times goes, since nobody replicates it.
// Taking it back starts it again if it ran.
func (a actions) standby(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, a.unstandby(ctx, c, x)
	}
	err = fail("stop the former machine", dr.TargetSide, x.To.Site, x.To.Machine, x.to.Backend.Stop(ctx, x.To.Machine))
	if err != nil {
		return nil, fmt.Errorf("%w; if it is gone, choose an alternate location", err)
	}
	if s, ok := dr.As[backend.Sweeper](x.to.Backend); ok {
		if _, err := s.Sweep(ctx, x.To.Machine, func(dr.PointID) bool { return false }); err != nil {
			a.e.Logger().WarnContext(ctx, "captures of the former machine may be left", "machine", x.To.Machine, "error", err)
		}
	}
	return nil, nil
}

func (a actions) unstandby(ctx context.Context, c *dr.Call, x ends) error {
	b, err := failover.ReadBegun(c)
	if err != nil || b.To != dr.On {
		return err
	}
	err = x.to.Backend.Start(ctx, x.To.Machine)
	if errors.Is(err, dr.ErrTorn) {
		// What is half written must not start, whatever it was before.
		a.e.Logger().WarnContext(ctx, "the former machine stays off: its disks were being written", "machine", x.To.Machine)
		return nil
	}
	return fail("start the former machine again", dr.TargetSide, x.To.Site, x.To.Machine, err)
}

func encode(v any, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

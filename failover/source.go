package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// DefaultShutdownTimeout is how long a guest is given to shut down.
const DefaultShutdownTimeout = 10 * time.Minute

// canShutDown refuses with dr.ErrUnsupported a flow that must shut the
// machine down on a backend that can't.
func canShutDown(b backend.Backend, in Input) error {
	if _, ok := dr.As[backend.Shutdowner](b); ok || in.PowerOff {
		return nil
	}
	return &dr.Error{Op: "shut down", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: dr.ErrUnsupported,
		Remedy: "the backend can't ask guests to shut down: allow power off"}
}

// shutdown returns only when the machine is off. Taking it back starts the
// machine again if it ran when the flow began.
func (a actions) shutdown(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	from, err := a.e.Sites.Site(in.From.Site)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		var b begun
		if _, err := ReadResult(c, StepBegin, &b); err != nil || b.Power != dr.On {
			return nil, err
		}
		return nil, wrap(from.Backend.Start(ctx, in.From.Machine), "start again", dr.SourceSide, in.From)
	}
	c.Beat(dr.Progress{What: "waiting for the guest to shut down"})
	if err := shutDown(ctx, from.Backend, in); err != nil {
		return nil, err
	}
	return result(off{At: a.e.Time()}, nil)
}

// off is the result of a shutdown.
type off struct {
	At time.Time `json:"at"`
}

// shutDown shuts the flow's machine down at From and makes sure that it is
// off. It powers off hard only where the options allow it.
func shutDown(ctx context.Context, b backend.Backend, in Input) error {
	if err := canShutDown(b, in); err != nil {
		return err
	}
	timeout := in.ShutdownTimeout
	if timeout <= 0 {
		timeout = DefaultShutdownTimeout
	}
	err := dr.ErrUnsupported
	if s, ok := dr.As[backend.Shutdowner](b); ok {
		wait, cancel := context.WithTimeout(ctx, timeout)
		err = s.Shutdown(wait, in.From.Machine)
		cancel()
	}
	if err != nil && in.PowerOff && ctx.Err() == nil {
		if stop := b.Stop(ctx, in.From.Machine); stop != nil {
			err = errors.Join(err, stop)
		} else {
			err = nil
		}
	}
	if err == nil {
		var m dr.Machine
		if m, err = b.Machine(ctx, in.From.Machine); err == nil && m.Power != dr.Off {
			err = fmt.Errorf("%w: power is %q after the shutdown", dr.ErrRunning, m.Power)
		}
	}
	if err == nil {
		return nil
	}
	return &dr.Error{Op: "shut down", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: err,
		Remedy: "shut the guest down by hand and try again, or allow power off"}
}

// Copied is the result of a step that took the machine's last changes.
type Copied struct {
	Point  dr.Point           `json:"point"`
	Report replication.Report `json:"report"`
}

// sync replicates the last changes. The point stays if the flow is taken
// back: it is a recovery point like others.
func (a actions) sync(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	rep, err := a.e.ReplicateAs(ctx, p, replication.PointName(c.Key), dr.CrashConsistent, c.Beat)
	if err != nil {
		return nil, err
	}
	if in.Operation != dr.OpUnplannedFailover && rep.Point.Machine.Power != dr.Off {
		return nil, dr.Permanent(&dr.Error{Op: "replicate the last changes", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: dr.ErrRunning,
			Remedy: "somebody started the machine again after the shutdown; keep it off during the failover"})
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		p.Last = rep.Point
		return nil
	})
	return result(Copied{rep.Point, rep}, err)
}

// measure counts the bytes that the machine wrote since the point, where its
// side can still be asked and keeps track.
func (a actions) measure(ctx context.Context, c *dr.Call) (_ json.RawMessage, err error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	var ch chosen
	if err := needResult(c, StepChoose, &ch); err != nil {
		return nil, err
	}
	from, err := a.e.Sites.Site(in.From.Site)
	if err != nil {
		return nil, err
	}
	name := replication.PointName(c.Key)
	img, err := from.Backend.Capture(ctx, in.From.Machine, name, dr.CrashConsistent)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, img.Close(), from.Backend.Release(ctx, in.From.Machine, name))
	}()
	var n int64
	for _, d := range img.Point().Machine.Disks {
		t, ok := dr.As[dr.ChangeTracker](img)
		if !ok {
			return nil, dr.Permanent(dr.ErrChangesLost)
		}
		for e, err := range t.Changes(ctx, d.ID, ch.Point) {
			if err != nil {
				return nil, err
			}
			n += e.Len
		}
	}
	return result(measured{Unreplicated: n}, nil)
}

// measured is the result of measure.
type measured struct {
	Unreplicated int64 `json:"unreplicated"`
}

// wrap says where an operation on a machine failed.
func wrap(err error, op string, side dr.Side, at dr.Place) error {
	if err == nil {
		return nil
	}
	return &dr.Error{Op: op, Side: side, Site: at.Site, Machine: at.Machine, Err: err}
}

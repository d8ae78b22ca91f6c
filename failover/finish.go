package failover

import (
	"context"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Report is what a flow that brought a machine up returns as the result of
// its finish step: the evidence that is kept.
type Report struct {
	Flow    string             `json:"flow"`
	From    dr.Place           `json:"from"`
	To      dr.Place           `json:"to"`
	Point   dr.Point           `json:"point"`
	Loss    dr.Loss            `json:"loss"`
	Copied  replication.Report `json:"copied"` // into the machine's disks
	Started time.Time          `json:"started,omitzero"`
	// Evidence that the machine lives; nil if there was none to be had, and
	// VerifyFailed if it was looked for in vain.
	Evidence     *backend.Evidence `json:"evidence,omitempty"`
	VerifyFailed bool              `json:"verifyFailed,omitempty"`
	Notes        string            `json:"notes,omitempty"`
}

// report gathers what the flow's steps left.
func (a actions) report(c *dr.Call, in flow) (Report, error) {
	r := Report{Flow: in.Flow, From: in.From, To: in.To, Loss: dr.Loss{Unreplicated: -1}}
	var rep backend.Replica
	var st started
	var ev backend.Evidence
	for _, s := range []struct {
		step string
		into any
	}{{StepPrepare, &rep}, {StepHydrate, &r.Copied}, {StepStart, &st}} {
		if _, err := ReadResult(c, s.step, s.into); err != nil {
			return r, err
		}
	}
	ok, err := ReadResult(c, StepVerify, &ev)
	if err != nil {
		return r, err
	}
	if ok && ev.Kind != evidenceNone {
		r.Evidence = &ev
	}
	r.VerifyFailed = !ok
	if r.Point, err = ChosenPoint(c); err != nil {
		return r, err
	}
	r.Started = st.At
	if rep.ID != "" {
		r.To = in.Place(rep.ID)
	}
	r.Loss.Age = recoverypoint.Age(r.Point, st.At)
	return r, nil
}

// loss says what the failover cost, and whether it left the machine off at
// From. Nothing was lost if the machine was off when its last changes were
// replicated, and that is the point taken.
func loss(c *dr.Call, r Report) (l dr.Loss, down bool, err error) {
	l = r.Loss
	var o off
	if down, err = ReadResult(c, StepShutdown, &o); err != nil {
		return l, down, err
	}
	var s Copied
	ok, err := ReadResult(c, StepSync, &s)
	if err == nil && !ok {
		ok, err = ReadResult(c, StepCopy, &s)
	}
	if err != nil {
		return l, down, err
	}
	var m measured
	if measured, err := ReadResult(c, StepMeasure, &m); err != nil {
		return l, down, err
	} else if measured {
		l.Unreplicated = m.Unreplicated
		down = m.Power == dr.Off // also if the guest was slower than the patience it was given
	}
	l.None = down && ok && s.Point.ID == r.Point.ID && s.Point.Machine.Power == dr.Off
	if l.None {
		l.Unreplicated = 0
	}
	return l, down, nil
}

// finish records that the machine now runs at To.
func (a actions) finish(ctx context.Context, c *dr.Call, in flow) (any, error) {
	r, err := a.report(c, in)
	if err != nil {
		return nil, err
	}
	var down bool
	if r.Loss, down, err = loss(c, r); err != nil {
		return nil, err
	}
	b, err := ReadBegun(c)
	if err != nil {
		return nil, err
	}
	var direct Copied
	isDirect, err := ReadResult(c, StepCopy, &direct)
	if err != nil {
		return nil, err
	}
	if isDirect {
		r.Copied = direct.Report
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		was := p.State
		if err := p.Move(dr.FailedOver); err != nil {
			return err
		}
		p.Failover = &dr.Failover{
			Run: c.Run, Kind: in.Flow, From: was, Point: r.Point, At: r.Started,
			Loss: r.Loss, Ran: b.From != dr.Off, Stopped: in.shutsDown() && down && b.From != dr.Off, Direct: isDirect,
		}
		p.Active, p.Standby = r.To, p.Active
		p.Common, p.Run = r.Point, ""
		p.Unpin(pinOf(c.Run))
		p.Unpin(pinFailover)
		p.Unpin(PinStandby) // its disks descend from this point now
		if !isDirect {
			p.Pin(r.Point.ID, pinFailover)
		}
		return nil
	})
	return r, err
}

// shutsDown reports whether the flow was to shut the machine down.
func (in Input) shutsDown() bool { return in.Operation != dr.OpUnplannedFailover || in.Shutdown }

const (
	// pinFailover keeps the point that a machine runs from until the commit.
	pinFailover = "failover"
	// PinStandby keeps the point that a standby machine's disks hold, so
	// that the next copy into them is a delta.
	PinStandby = "standby"
)

// back takes an uncommitted failover out of the record. The point stays
// pinned: it is what both sides have in common, and makes the next flow to
// this side a delta.
func back(p *dr.Protection) {
	p.Swap()
	p.State = p.Failover.From
	p.Failover, p.Run = nil, ""
}

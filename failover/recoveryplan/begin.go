package recoveryplan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

type beginInput struct {
	Plan      string            `json:"plan"`
	Flow      string            `json:"flow"`
	Home      bool              `json:"home,omitempty"`
	Options   Options           `json:"options"`
	Machines  []dr.ProtectionID `json:"machines"`
	Callbacks []string          `json:"callbacks,omitempty"`
	Scripts   []string          `json:"scripts,omitempty"`
}

// begun is the result of the first step.
type begun struct {
	// Machines are all that take part.
	Machines []dr.ProtectionID `json:"machines"`
	// Points were chosen and pinned for the machines named; the others choose
	// their own. None are machines for which there is no fitting point, and why.
	Points map[dr.ProtectionID]dr.Point `json:"points,omitempty"`
	None   map[dr.ProtectionID]string   `json:"none,omitempty"`
}

// begin refuses what can be known to fail, before anything is touched, and
// settles the points of machines that must have them in common.
func (e *Env) begin(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var in beginInput
	if err := read(c, &in); err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, e.unpin(ctx, c.Run, in.Machines)
	}
	if err := errors.Join(e.missing(in.Callbacks, in.Scripts)...); err != nil {
		return nil, dr.Permanent(err)
	}
	b := begun{Machines: in.Machines}
	if together(in.Flow, in.Options) {
		if err := e.choose(ctx, c.Run, in, &b); err != nil {
			return nil, err
		}
	}
	return json.Marshal(b)
}

// missing tells what a plan needs that this process lacks.
func (e *Env) missing(callbacks, scripts []string) (errs []error) {
	for _, name := range callbacks {
		if e.Callbacks[name] == nil {
			errs = append(errs, fmt.Errorf("%w: callback %q is not registered in this process", dr.ErrNotFound, name))
		}
	}
	for _, name := range scripts {
		if _, err := e.scriptPath(name); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// together reports whether points are chosen for all machines at once.
func together(flow string, o Options) bool {
	switch flow {
	case FlowTest, FlowDrill, FlowUnplanned:
		return forPlans(o.Point)
	case FlowFailback:
		return o.Sync == failback.FromPoints && o.Point != "" && o.Point != recoverypoint.Latest
	}
	return false
}

// choose settles the machines' points and pins them. What an attempt that was
// cut off has pinned is let go of first: newer moments may have come since, and
// common ones must be chosen at once.
func (e *Env) choose(ctx context.Context, run dr.RunID, in beginInput, b *begun) error {
	if err := e.unpin(ctx, run, in.Machines); err != nil {
		return err
	}
	sel, records, err := e.selection(ctx, in)
	if err != nil {
		return err
	}
	b.Points, b.None = map[dr.ProtectionID]dr.Point{}, map[dr.ProtectionID]string{}
	for i, s := range sel {
		id := records[i].ID
		if s.Err != nil {
			b.None[id] = s.Err.Error()
			continue
		}
		_, err := e.Replication.Amend(ctx, id, func(p *dr.Protection) error {
			if slices.Contains(p.Expiring, s.Point.ID) {
				return fmt.Errorf("protection %s: point %s: %w: retention has just begun to delete it", id, s.Point.ID, dr.ErrConflict)
			}
			p.Pin(s.Point.ID, pinOf(run))
			return nil
		})
		if err != nil {
			return err
		}
		b.Points[id] = s.Point
	}
	return nil
}

// selection chooses, and changes nothing.
func (e *Env) selection(ctx context.Context, in beginInput) ([]recoverypoint.Selection, []dr.Protection, error) {
	records := make([]dr.Protection, len(in.Machines))
	all := make([]recoverypoint.Candidate, len(in.Machines))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(listAtOnce)
	for i, id := range in.Machines {
		g.Go(func() (err error) {
			if records[i], err = e.Replication.Records.Load(ctx, id); err != nil {
				return fmt.Errorf("record of protection %s: %w", id, err)
			}
			all[i], err = e.candidate(ctx, records[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	choice := recoverypoint.Choice{Option: in.Options.Point}
	if in.Flow == FlowFailback {
		sel, err := recoverypoint.ChooseFailback(all, choice)
		return sel, records, err
	}
	sel, err := recoverypoint.ChooseAll(all, choice)
	return sel, records, err
}

// listAtOnce bounds the stores' listings that are under way.
const listAtOnce = 16

func (e *Env) candidate(ctx context.Context, r dr.Protection) (recoverypoint.Candidate, error) {
	c := recoverypoint.Candidate{Machine: r.Active.Machine, Group: r.Group, Accepted: r.Accepted}
	site, err := e.Replication.Sites.Site(r.Standby.Site)
	if err != nil {
		return c, err
	}
	for p, err := range site.Points.List(ctx, r.Active.Machine) {
		if err != nil {
			return c, &dr.Error{Op: "list recovery points", Side: dr.StoreSide, Site: r.Standby.Site, Machine: r.Active.Machine, Err: err}
		}
		if !slices.Contains(r.Expiring, p.ID) {
			c.Points = append(c.Points, p)
		}
	}
	return c, nil
}

func (e *Env) unpin(ctx context.Context, run dr.RunID, machines []dr.ProtectionID) error {
	var errs []error
	for _, id := range machines {
		p, err := e.Replication.Records.Load(ctx, id)
		if err == nil {
			if _, pinned := p.Pinned(pinOf(run)); !pinned {
				continue
			}
			_, err = e.Replication.Amend(ctx, id, func(p *dr.Protection) error {
				p.Unpin(pinOf(run))
				return nil
			})
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// pinOf escapes what separates pins from each other.
func pinOf(run dr.RunID) string { return "plan/" + url.PathEscape(string(run)) }

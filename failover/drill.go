package failover

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// testBegin notes the drill, so that it can be cleaned up whatever happens.
// Replication goes on. Taking it back makes sure that nothing is left, and
// notes a failed drill if something is.
func (a actions) testBegin(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if !c.Undo {
		_, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
			if err := in.matchesTest(*p); err != nil {
				return err
			}
			p.Test = &dr.TestFailover{Run: c.Run, State: dr.TestRunning, Place: dr.Place{Site: in.To.Site}, Started: a.e.Time()}
			return nil
		})
		return nil, err
	}
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil || p.Test == nil || p.Test.Run != c.Run {
		return nil, err // refused: nothing happened
	}
	left := a.removeTest(ctx, in, p)
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		switch {
		case p.Test == nil || p.Test.Run != c.Run:
		case left != nil:
			p.Test.State = dr.TestFailed
		default:
			p.Test = nil
		}
		return nil
	})
	return nil, errors.Join(left, err)
}

// noteDrill notes where the drill's machine is: before it is made, under which
// key it can be found; then which one it is, because a platform finds by key
// only what is off; and neither once it is gone. It does nothing in other flows.
func (a actions) noteDrill(ctx context.Context, c *dr.Call, in flow, at dr.Place) error {
	if !in.Test {
		return nil
	}
	note := *c
	note.Key += "/note/" + string(at.Machine)
	_, err := a.e.Update(ctx, &note, in.Protection, func(p *dr.Protection) error {
		if p.Test != nil && p.Test.Run == c.Run {
			p.Test.Place = at
		}
		return nil
	})
	return err
}

// matchesTest refuses a drill planned of a record which has changed since.
func (in Input) matchesTest(p dr.Protection) error {
	in.To = dr.Place{Site: in.To.Site} // the drill makes its own machine
	return in.matches(p, p.Run)
}

// testFinish notes the drill's machine and keeps the evidence.
func (a actions) testFinish(ctx context.Context, c *dr.Call, in flow) (any, error) {
	r, err := a.report(c, in)
	if err != nil {
		return nil, err
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if p.Test == nil || p.Test.Run != c.Run {
			return dr.Permanent(dr.ErrConflict)
		}
		p.Test.Place, p.Test.Point = r.To, r.Point.ID
		return nil
	})
	return r, err
}

// testCleaning notes that the drill is being cleaned up.
func (a actions) testCleaning(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		return nil, a.uncleaning(ctx, c, in)
	}
	p, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if err := p.Allow(dr.OpCleanUpTest); err != nil {
			return err
		}
		if p.Test.Run != in.Drill {
			return dr.Permanent(fmt.Errorf("protection %s: %w: the plan is about test failover %s, now there is %s", p.ID, dr.ErrConflict, in.Drill, p.Test.Run))
		}
		p.Test.State = dr.TestCleaningUp
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p.Test, nil
}

// uncleaning says again that the drill runs, or that it failed if it never came
// to its end.
func (a actions) uncleaning(ctx context.Context, c *dr.Call, in flow) error {
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil || p.Test == nil || p.Test.Run != in.Drill || p.Test.State != dr.TestCleaningUp {
		return err
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		p.Test.State = dr.TestRunning
		if p.Test.Point == "" {
			p.Test.State = dr.TestFailed
		}
		return nil
	})
	return err
}

func (a actions) testRemove(ctx context.Context, c *dr.Call, in flow) (any, error) {
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	if p.Test == nil {
		return nil, nil
	}
	c.Beat(dr.Progress{What: "removing the drill's machine"})
	return nil, a.removeTest(ctx, in, p)
}

// removeTest removes the drill's machine, by its ID if that was noted, else
// by its key. Without a key none was ever made.
func (a actions) removeTest(ctx context.Context, in flow, p dr.Protection) error {
	at := p.Test.Place
	to, err := a.e.Sites.Site(at.Site)
	if err != nil {
		return err
	}
	switch {
	case at.Machine != "":
		return wrap(to.Backend.Remove(ctx, at.Machine), "remove the drill's machine", dr.TargetSide, at)
	case at.Key == "":
		return nil
	}
	in.Test, in.Key, in.To = true, at.Key, dr.Place{Site: at.Site}
	// Any description of the machine will do, if it has disks.
	m := p.Last.Machine
	for _, pt := range []dr.Point{p.Common, in.formerPoint()} {
		if len(m.Disks) == 0 {
			m = pt.Machine
		}
	}
	return remove(ctx, to.Backend, in.Input, m)
}

func (in Input) formerPoint() dr.Point {
	if in.Former == nil {
		return dr.Point{}
	}
	return in.Former.Point
}

func testKey(id dr.ProtectionID, run dr.RunID) string {
	return "test/" + url.PathEscape(string(id)) + "/" + url.PathEscape(string(run))
}

// Cleaned is the result of a drill's clean-up.
type Cleaned struct {
	Test  dr.TestFailover `json:"test"`
	Notes string          `json:"notes,omitempty"`
}

func (a actions) testCleaned(ctx context.Context, c *dr.Call, in flow) (any, error) {
	out := Cleaned{Notes: in.Notes}
	if err := needResult(c, StepBegin, &out.Test); err != nil {
		return nil, err
	}
	_, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		p.Test = nil
		p.Unpin(pinOf(out.Test.Run))
		return nil
	})
	return out, err
}

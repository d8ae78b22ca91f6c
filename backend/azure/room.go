package azure

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var _ backend.Roomer = (*Azure)(nil)

// Room implements backend.Roomer: it asks what Prepare asks, quotas of processors
// above all. Its codes: "quota" and "placement", which both make Prepare fail. An
// original has its disks and its size: there is nothing to make room for.
func (a *Azure) Room(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	found, err := a.room(ctx, p)
	return found, fail("look for room", p.Original, "", -1, err)
}

func (a *Azure) room(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	o, err := parseOptions(p.Options)
	if err == nil {
		err = p.CheckCards()
	}
	if err != nil {
		return misplaced(err)
	}
	if p.Original != "" {
		_, err := a.find(ctx, p.Original)
		return nil, err
	}
	if p.Key == "" {
		return misplaced(fmt.Errorf("%w: placement without key", dr.ErrInvalid))
	}
	m, err := a.find(ctx, replicaID(p.Key))
	switch {
	case errors.Is(err, dr.ErrNotFound):
		m = &machine{id: replicaID(p.Key), power: dr.Off}
	case err != nil:
		return nil, err
	case m.has && m.rec.Placement != nil:
		p = inherit(p, *m.rec.Placement)
		if o, err = parseOptions(p.Options); err != nil {
			return misplaced(err)
		}
	}
	if _, _, err = a.check(ctx, m, p, o); err != nil {
		return misplaced(err)
	}
	return nil, nil
}

// misplaced makes a problem of what Prepare would refuse, and passes on the rest.
func misplaced(err error) ([]backend.Problem, error) {
	p := backend.Problem{Code: "placement", Blocker: true}
	switch {
	case errors.Is(err, errRefused):
		p.Code = "quota"
	case errors.Is(err, dr.ErrInvalid), errors.Is(err, dr.ErrUnsupported), errors.Is(err, dr.ErrAmbiguous):
	default:
		return nil, err
	}
	var e *dr.Error
	if p.Text = err.Error(); errors.As(fail("prepare", "", "", -1, err), &e) {
		p.Text, p.Remedy = e.Err.Error(), e.Remedy
	}
	return []backend.Problem{p}, nil
}

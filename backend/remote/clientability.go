package remote

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// Each type here is one ability and nothing else: the chain has those that the
// agent's backend has.

type link struct{ next any }

func (l link) Unwrap() any { return l.next }

type ofClient struct {
	link
	c *Client
}

func (c *Client) chain(has []string) any {
	var v any
	add := func(name string, make func(ofClient) any) {
		if slices.Contains(has, name) {
			v = make(ofClient{link{v}, c})
		}
	}
	add(canList, func(o ofClient) any { return lister{o} })
	add(canShutdown, func(o ofClient) any { return shutdowner{o} })
	add(canQuiesce, func(o ofClient) any { return quiescer{o} })
	add(canTellLive, func(o ofClient) any { return liveCapturer{o} })
	add(canSweep, func(o ofClient) any { return sweeper{o} })
	add(canForget, func(o ofClient) any { return forgetter{o} })
	add(canProbe, func(o ofClient) any { return prober{o} })
	add(canPreflight, func(o ofClient) any { return preflighter{o} })
	add(canCheck, func(o ofClient) any { return checker{o} })
	add(canInspect, func(o ofClient) any { return inspector{o} })
	add(canReach, func(o ofClient) any { return reacher{o} })
	add(canReceive, func(o ofClient) any { return receiver{o} })
	add(canRoom, func(o ofClient) any { return roomer{o} })
	add(canNetworks, func(o ofClient) any { return networkLister{o} })
	return v
}

type (
	lister        struct{ ofClient }
	shutdowner    struct{ ofClient }
	quiescer      struct{ ofClient }
	liveCapturer  struct{ ofClient }
	sweeper       struct{ ofClient }
	forgetter     struct{ ofClient }
	prober        struct{ ofClient }
	preflighter   struct{ ofClient }
	checker       struct{ ofClient }
	inspector     struct{ ofClient }
	reacher       struct{ ofClient }
	receiver      struct{ ofClient }
	roomer        struct{ ofClient }
	networkLister struct{ ofClient }
)

// Machines implements backend.Lister. A connection that is lost half way ends
// the sequence with ErrLost.
func (l lister) Machines(ctx context.Context) iter.Seq2[dr.Machine, error] {
	return func(yield func(dr.Machine, error) bool) {
		seen, left := false, false
		var broken error
		err := l.c.again(ctx, func(w *wire) error {
			err := w.stream(ctx, agentwire.OpMachines, 0, argument{}, func(b []byte) (bool, error) {
				var m dr.Machine
				if err := agentwire.Decode(b, &m); err != nil {
					return false, err
				}
				seen = true
				left = !yield(m, nil)
				return !left, nil
			})
			if seen && errors.Is(err, ErrLost) {
				broken = err // from the beginning it would tell some twice
				return nil
			}
			return err
		})
		if broken != nil {
			err = broken
		}
		if err != nil && !left {
			yield(dr.Machine{}, place(agentwire.OpMachines, "", "", "", -1, err))
		}
	}
}

// Shutdown implements backend.Shutdowner.
func (s shutdowner) Shutdown(ctx context.Context, id dr.MachineID) error {
	_, err := repeat[any](ctx, s.c, agentwire.OpShutdown, argument{Machine: id})
	return err
}

// Quiesce implements backend.Quiescer. The machine thaws as well when the
// connection is lost.
func (q quiescer) Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	var w *wire
	var o opened
	err := q.c.again(ctx, func(x *wire) (err error) {
		w = x
		o, err = ask[opened](ctx, w, agentwire.OpQuiesce, 0, argument{Machine: id, Want: want})
		return err
	})
	if err != nil {
		return 0, nil, place(agentwire.OpQuiesce, id, "", "", -1, err)
	}
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		bg, cancel := context.WithTimeout(context.Background(), cancelGrace)
		defer cancel()
		_, _ = ask[any](bg, w, agentwire.OpLetGo, o.Handle, argument{})
	})
	return o.Got, func(bg context.Context) error {
		early := !stop()
		if early {
			<-told
		}
		_, err := ask[any](bg, w, agentwire.OpThaw, o.Handle, argument{})
		switch {
		case errors.Is(err, ErrLost):
			err = fmt.Errorf("%w: the machine thawed when the connection was lost: %w", dr.ErrNotConsistent, err)
		case err == nil && early:
			err = fmt.Errorf("%w: the machine had thawed already: %w", dr.ErrNotConsistent, context.Cause(ctx))
		}
		return place(agentwire.OpThaw, id, "", "", -1, err)
	}, nil
}

// CapturesLive implements backend.LiveCapturer.
func (l liveCapturer) CapturesLive(ctx context.Context, id dr.MachineID) (bool, error) {
	return repeat[bool](ctx, l.c, agentwire.OpCapturesLive, argument{Machine: id})
}

// Sweep implements backend.Sweeper. keep is asked here, about what the agent
// found; what is captured meanwhile stays.
func (s sweeper) Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	found, err := repeat[[]dr.PointID](ctx, s.c, agentwire.OpCaptures, argument{Machine: id})
	if err != nil {
		return nil, err
	}
	gone := slices.DeleteFunc(found, keep)
	if len(gone) == 0 {
		return nil, nil
	}
	return repeat[[]dr.PointID](ctx, s.c, agentwire.OpSweep, argument{Machine: id, Names: gone})
}

// Forget implements backend.Forgetter.
func (f forgetter) Forget(ctx context.Context, id dr.MachineID, before dr.PointID) error {
	_, err := repeat[any](ctx, f.c, agentwire.OpForget, argument{Machine: id, Name: before})
	return err
}

// Probe implements backend.Prober.
func (p prober) Probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	return repeat[backend.Evidence](ctx, p.c, agentwire.OpProbe, argument{Machine: id})
}

// Preflight implements backend.Preflighter.
func (p preflighter) Preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	return repeat[[]backend.Problem](ctx, p.c, agentwire.OpPreflight, argument{Machine: id})
}

// Check implements backend.Checker.
func (c checker) Check(ctx context.Context) ([]backend.Problem, error) {
	return repeat[[]backend.Problem](ctx, c.c, agentwire.OpCheck, argument{})
}

// Inspect implements backend.Inspector.
func (i inspector) Inspect(ctx context.Context, id dr.MachineID) (backend.Facts, error) {
	return repeat[backend.Facts](ctx, i.c, agentwire.OpInspect, argument{Machine: id})
}

// Reach implements backend.Reacher.
func (r reacher) Reach(ctx context.Context, id dr.MachineID, from string, ports ...int) (backend.Reach, error) {
	return repeat[backend.Reach](ctx, r.c, agentwire.OpReach, argument{Machine: id, From: from, Ports: ports})
}

// Receives implements backend.Receiver.
func (r receiver) Receives(ctx context.Context, id dr.MachineID) (backend.Reception, error) {
	return repeat[backend.Reception](ctx, r.c, agentwire.OpReceives, argument{Machine: id})
}

// Room implements backend.Roomer.
func (r roomer) Room(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	return repeat[[]backend.Problem](ctx, r.c, agentwire.OpRoom, argument{Placement: &p})
}

// Networks implements backend.NetworkLister.
func (n networkLister) Networks(ctx context.Context) ([]backend.Network, error) {
	return repeat[[]backend.Network](ctx, n.c, agentwire.OpNetworks, argument{})
}

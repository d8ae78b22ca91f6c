package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// again calls f with a session, and with the next one if that is lost. f may be
// repeated.
func (c *Client) again(ctx context.Context, f func(w *wire) error) error {
	var p pause
	p.begin(c.o.Patience)
	for {
		w, err := c.wire(ctx)
		if err != nil {
			return err
		}
		begun := time.Now()
		if err = f(w); !passes(err) {
			return err
		}
		p.spent(begun)
		if !p.wait(ctx) {
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w", ctx.Err(), err)
			}
			return c.named(err)
		}
	}
}

// passes tells whether a new connection may help. It doesn't where one side has
// another idea of the protocol, or what was open there is lost.
func passes(err error) bool {
	return errors.Is(err, ErrLost) && !errors.Is(err, agentwire.ErrProtocol) && !errors.Is(err, dr.ErrNotConsistent)
}

// ask makes a call whose argument and answer are JSON, once.
func ask[R any](ctx context.Context, w *wire, op agentwire.Op, handle uint64, a argument) (R, error) {
	var r R
	if w.fences {
		a.Fences = dr.Fences(ctx)
	}
	b, err := agentwire.Marshal(a)
	if err != nil {
		return r, fmt.Errorf("%w: %w", dr.ErrInvalid, err)
	}
	p, err := w.begin(ctx, op, handle, nil, b)
	if err == nil {
		err = p.wait(ctx)
	}
	if err != nil {
		return r, err
	}
	return r, agentwire.Decode(p.answer, &r)
}

// repeat makes such a call until it arrives. What goes wrong on the way gets a
// place; what the agent says has one.
func repeat[R any](ctx context.Context, c *Client, op agentwire.Op, a argument) (R, error) {
	var r R
	err := c.again(ctx, func(w *wire) (err error) {
		r, err = ask[R](ctx, w, op, 0, a)
		return err
	})
	return r, place(op, a.Machine, a.Name, "", -1, err)
}

// place names where an error happened that doesn't say so itself. The end of a disk
// is none.
func place(op agentwire.Op, m dr.MachineID, p dr.PointID, disk dr.DiskID, off int64, err error) error {
	var at *dr.Error
	if err == nil || err == io.EOF || errors.As(err, &at) {
		return err
	}
	return &dr.Error{Op: op.String(), Machine: m, Point: p, Disk: disk, Off: off, Err: err}
}

// Machine implements backend.Source.
func (c *Client) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	return repeat[dr.Machine](ctx, c, agentwire.OpMachine, argument{Machine: id})
}

// Capture implements backend.Source. See [Client] for what becomes of the image
// when the connection is lost.
func (c *Client) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	a := argument{Machine: id, Name: name, Want: want}
	var w *wire
	var o opened
	err := c.again(ctx, func(x *wire) (err error) {
		w = x
		o, err = ask[opened](ctx, w, agentwire.OpCapture, 0, a)
		return err
	})
	if err != nil {
		return nil, place(agentwire.OpCapture, id, name, "", -1, err)
	}
	return newImage(c, a, w, o), nil
}

// Release implements backend.Source.
func (c *Client) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	_, err := repeat[any](ctx, c, agentwire.OpRelease, argument{Machine: id, Name: name})
	return err
}

// Prepare implements backend.Target.
func (c *Client) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	r, err := repeat[backend.Replica](ctx, c, agentwire.OpPrepare, argument{Placement: &p})
	return r, place(agentwire.OpPrepare, p.Original, "", "", -1, err)
}

// Draft implements backend.Target. The draft ends with the connection: then its
// calls are ErrLost, the machine stays torn, and the copy is to be begun again.
func (c *Client) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	var w *wire
	var o opened
	err := c.again(ctx, func(x *wire) (err error) {
		w = x
		o, err = ask[opened](ctx, w, agentwire.OpDraft, 0, argument{Machine: id, Point: &p})
		return err
	})
	if err != nil {
		return nil, place(agentwire.OpDraft, id, p.ID, "", -1, err)
	}
	return newDraft(c, w, id, p.ID, o), nil
}

// Start implements backend.Target.
func (c *Client) Start(ctx context.Context, id dr.MachineID) error {
	_, err := repeat[any](ctx, c, agentwire.OpStart, argument{Machine: id})
	return err
}

// Stop implements backend.Target.
func (c *Client) Stop(ctx context.Context, id dr.MachineID) error {
	_, err := repeat[any](ctx, c, agentwire.OpStop, argument{Machine: id})
	return err
}

// Remove implements backend.Target.
func (c *Client) Remove(ctx context.Context, id dr.MachineID) error {
	_, err := repeat[any](ctx, c, agentwire.OpRemove, argument{Machine: id})
	return err
}

package backendtest

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Op names a method of the contracts, as it is called there.
type Op string

// Methods that can be intercepted.
const (
	OpMachine Op = "Machine" // of backends
	OpCapture Op = "Capture"
	OpRelease Op = "Release"
	OpPrepare Op = "Prepare"
	OpDraft   Op = "Draft"
	OpStart   Op = "Start"
	OpStop    Op = "Stop"
	OpRemove  Op = "Remove"

	OpMachines  Op = "Machines" // abilities of backends
	OpShutdown  Op = "Shutdown"
	OpQuiesce   Op = "Quiesce"
	OpThaw      Op = "thaw"
	OpSweep     Op = "Sweep"
	OpForget    Op = "Forget"
	OpProbe     Op = "Probe"
	OpPreflight Op = "Preflight"
	OpNetworks  Op = "Networks"

	OpReadAt  Op = "ReadAt" // of images and their abilities
	OpChanges Op = "Changes"
	OpExtents Op = "Extents"
	OpSettle  Op = "Settle"

	OpWriteAt Op = "WriteAt" // of drafts and their abilities
	OpCommit  Op = "Commit"
	OpZero    Op = "Zero"
	OpDurable Op = "Durable"
	OpAdopt   Op = "Adopt"

	OpSums  Op = "Sums" // of both
	OpClose Op = "Close"
)

// Call is one call of a method. Fields that don't apply are zero.
type Call struct {
	Op      Op
	Machine dr.MachineID
	Point   dr.PointID
	Disk    dr.DiskID
	Off     int64
	Len     int64 // bytes asked for: read, written, zeroed or summed
}

// Interceptor stands around calls. It calls do, or doesn't, and returns what
// the caller is to see; do's error passes through unless it says otherwise.
// For a method that yields a sequence, do is the whole sequence: an error that
// do didn't return is yielded behind it. Interceptors are called concurrently.
type Interceptor func(ctx context.Context, c Call, do func() error) error

// Wrap puts interceptors around b, the first outermost, and around all images
// and drafts that come from it. The abilities of b stay, and are intercepted;
// those that this package doesn't know stay visible by Unwrap, and are not.
func Wrap(b backend.Backend, is ...Interceptor) backend.Backend {
	return &wrapped{b: b, around: chain(is)}
}

// chain makes one interceptor of many.
func chain(is []Interceptor) Interceptor {
	return func(ctx context.Context, c Call, do func() error) error {
		for i := len(is) - 1; i >= 0; i-- {
			inner, f := do, is[i]
			do = func() error { return f(ctx, c, inner) }
		}
		return do()
	}
}

// result intercepts a call that returns a value. What a call returned whose
// success is turned into a failure is not shown, as if the answer had been
// lost on the way.
func result[R any](ctx context.Context, around Interceptor, c Call, do func() (R, error)) (R, error) {
	var r R
	err := around(ctx, c, func() (err error) {
		r, err = do()
		return err
	})
	if err != nil {
		var none R
		return none, err
	}
	return r, nil
}

// sequence intercepts a call that yields.
func sequence[V any](ctx context.Context, around Interceptor, c Call, seq func() iter.Seq2[V, error]) iter.Seq2[V, error] {
	return func(yield func(V, error) bool) {
		var told error // the sequence's own error, which was yielded already
		left := false
		err := around(ctx, c, func() error {
			for v, err := range seq() {
				if err != nil {
					told = err
				}
				if !yield(v, err) {
					left = true
					return nil
				}
			}
			return told
		})
		if err != nil && told == nil && !left {
			var none V
			yield(none, err)
		}
	}
}

type wrapped struct {
	b      backend.Backend
	around Interceptor
}

func (w *wrapped) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	return result(ctx, w.around, Call{Op: OpMachine, Machine: id}, func() (dr.Machine, error) { return w.b.Machine(ctx, id) })
}

func (w *wrapped) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	var img dr.Image
	err := w.around(ctx, Call{Op: OpCapture, Machine: id, Point: name}, func() (err error) {
		img, err = w.b.Capture(ctx, id, name, want)
		return err
	})
	if err != nil {
		if img != nil {
			_ = img.Close() // nobody else will
		}
		return nil, err
	}
	return wrapImage(img, w.around), nil
}

func (w *wrapped) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	return w.around(ctx, Call{Op: OpRelease, Machine: id, Point: name}, func() error { return w.b.Release(ctx, id, name) })
}

func (w *wrapped) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	return result(ctx, w.around, Call{Op: OpPrepare, Machine: p.Original}, func() (backend.Replica, error) { return w.b.Prepare(ctx, p) })
}

func (w *wrapped) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	var d dr.Draft
	err := w.around(ctx, Call{Op: OpDraft, Machine: id, Point: p.ID}, func() (err error) {
		d, err = w.b.Draft(ctx, id, p)
		return err
	})
	if err != nil {
		if d != nil {
			_ = d.Close()
		}
		return nil, err
	}
	return wrapDraft(d, Call{Machine: id, Point: p.ID}, w.around), nil
}

func (w *wrapped) Start(ctx context.Context, id dr.MachineID) error {
	return w.around(ctx, Call{Op: OpStart, Machine: id}, func() error { return w.b.Start(ctx, id) })
}

func (w *wrapped) Stop(ctx context.Context, id dr.MachineID) error {
	return w.around(ctx, Call{Op: OpStop, Machine: id}, func() error { return w.b.Stop(ctx, id) })
}

func (w *wrapped) Remove(ctx context.Context, id dr.MachineID) error {
	return w.around(ctx, Call{Op: OpRemove, Machine: id}, func() error { return w.b.Remove(ctx, id) })
}

// Unwrap shows an intercepted version of each ability that the backend has,
// and behind them the backend itself.
func (w *wrapped) Unwrap() any {
	var c any = w.b
	if a, ok := dr.As[backend.Lister](w.b); ok {
		c = lister{link{c}, a, w.around}
	}
	if a, ok := dr.As[backend.Shutdowner](w.b); ok {
		c = shutdowner{link{c}, a, w.around}
	}
	if a, ok := dr.As[backend.Quiescer](w.b); ok {
		c = quiescer{link{c}, a, w.around}
	}
	if a, ok := dr.As[backend.Sweeper](w.b); ok {
		c = sweeper{link{c}, a, w.around}
	}
	if a, ok := dr.As[backend.Forgetter](w.b); ok {
		c = forgetter{link{c}, a, w.around}
	}
	if a, ok := dr.As[backend.Prober](w.b); ok {
		c = prober{link{c}, a, w.around}
	}
	if a, ok := dr.As[backend.Preflighter](w.b); ok {
		c = preflighter{link{c}, a, w.around}
	}
	if a, ok := dr.As[backend.NetworkLister](w.b); ok {
		c = networkLister{link{c}, a, w.around}
	}
	return c
}

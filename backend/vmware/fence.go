package vmware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Fences are remembered in the machine's record. What changes the record, and
// every other change of the configuration, depends on the configuration's
// changeVersion: vSphere itself refuses it once another has raised an epoch.
// Power, snapshots, customization and removal take no condition. Before each
// of those the record is looked at, unless that was a moment ago.

// freshFor is how long a look at the record counts. A worker that stood still
// for longer looks again before it asks vSphere for anything; if it comes to be this
// late looksInARow times, it can't tell, and the call is refused for now.
const (
	freshFor    = 5 * time.Second
	looksInARow = 3

	// lookPatience is for how long a draft's write waits for a look while vSphere
	// can't be reached, or is too slow. Disks are written past it, and filling them
	// from the beginning takes hours. Meanwhile they stay open, which keeps a new
	// owner out: so it isn't longer.
	lookPatience = 2 * time.Minute
)

var errSlow = &explained{fmt.Errorf("%w: whether the claim still counts could not be told soon enough", dr.ErrBusy), "it is tried again; vSphere is slow to answer, or this program rarely gets to run"}

// guard is under which fences a machine is changed.
type guard struct {
	asked  map[string]uint64 // nil: nobody's claim, and nothing is checked
	looked time.Time         // when the record was asked for that last admitted them
	owed   bool              // they aren't in vSphere's record yet
}

// admit refuses a change that is fenced. The epochs that are to be remembered
// are in m's record then, and written with what is saved next: see remember.
func (v *VSphere) admit(ctx context.Context, m *machine) error {
	if m.unread != nil {
		return nil // nobody knows what it remembers; what needs the record refuses it
	}
	next, raised, err := m.record.Fences.Admit(ctx)
	if err != nil {
		return fenced(err)
	}
	m.guard = guard{asked: dr.Fences(ctx), looked: m.seen, owed: raised}
	m.record.Fences = next
	return nil
}

// fenced says what to do about it.
func fenced(err error) error {
	if !errors.Is(err, dr.ErrFenced) {
		return err
	}
	return &explained{err, "leave it to the other worker, which goes on with the run, unless there is none"}
}

// remember writes the epochs under which m is changed, unless they are written.
func (v *VSphere) remember(ctx context.Context, m *machine) error {
	if !m.guard.owed {
		return nil
	}
	return v.save(ctx, m, m.record)
}

// rememberLocked is remember for who doesn't hold the machine's lock: what
// another writes meanwhile is dr.ErrConflict.
func (v *VSphere) rememberLocked(ctx context.Context, m *machine) error {
	unlock, err := v.locks.Lock(ctx, m.id)
	if err != nil {
		return err
	}
	defer unlock()
	return v.remember(ctx, m)
}

// passed looks whether another has raised an epoch in what was the record at the
// given time.
func (m *machine) passed(raw string, at time.Time) (record, error) {
	now, err := parseRecord([]types.BaseOptionValue{&types.OptionValue{Key: recordKey, Value: raw}}, m.id)
	if err != nil {
		return record{}, err
	}
	if err := now.Fences.Passed(m.guard.asked); err != nil {
		return record{}, fenced(err)
	}
	m.guard.looked = at
	return now, nil
}

// still makes sure that a change of m may go on: that its epochs are remembered,
// and that nobody has passed them.
func (v *VSphere) still(ctx context.Context, m *machine) error {
	if m.guard.asked == nil {
		return nil
	}
	if err := v.remember(ctx, m); err != nil {
		return err
	}
	for looks := 0; stale(m.guard.looked, v.fresh); looks++ {
		if looks == looksInARow {
			return errSlow
		}
		now := time.Now()
		raw, _, err := v.recordNow(ctx, m)
		if err != nil {
			return err
		}
		if _, err := m.passed(raw, now); err != nil {
			return err
		}
	}
	return nil
}

// stale tells whether the last look was too long ago, by the clock that stands
// still while the system sleeps or by the one that is set.
func stale(looked time.Time, limit time.Duration) bool {
	now := time.Now()
	return now.Sub(looked) > limit || now.Round(0).Sub(looked.Round(0)).Abs() > limit
}

// again reads a machine anew that is being changed.
func (v *VSphere) again(ctx context.Context, m *machine) (*machine, error) {
	next, err := v.look(ctx, m.ref)
	if err != nil {
		return nil, err
	}
	next.began, next.guard = m.began, m.guard
	if err := next.record.Fences.Passed(next.guard.asked); err != nil {
		return nil, fenced(err)
	}
	next.guard.looked = next.seen
	if next.guard.owed { // m's record has them, and nothing was saved since
		next.record.Fences = m.record.Fences
	}
	return next, nil
}

// effect is run for what vSphere does under no condition. The start's context
// carries the guard: the session asks it before the call is sent, and again
// when it had to log in first.
func (v *VSphere) effect(ctx context.Context, m *machine, start func(context.Context) (*object.Task, error)) (types.AnyType, error) {
	if err := v.still(ctx, m); err != nil {
		return nil, err
	}
	guarded := v.guarded(ctx, m)
	res, err := v.run(ctx, func() (*object.Task, error) { return start(guarded) })
	m.guard.looked = time.Time{} // who knows how long that took
	return res, err
}

// guardKey is where a context keeps what is asked before a call is sent.
type guardKey struct{}

func (v *VSphere) guarded(ctx context.Context, m *machine) context.Context {
	if m.guard.asked == nil {
		return ctx
	}
	return context.WithValue(ctx, guardKey{}, func() error { return v.still(ctx, m) })
}

// askGuard asks what a context carries.
func askGuard(ctx context.Context) error {
	if f, ok := ctx.Value(guardKey{}).(func() error); ok {
		return f()
	}
	return nil
}

// conditional changes a machine's configuration, unless another raises an epoch
// meanwhile. What somebody else changes besides is no hindrance.
func (v *VSphere) conditional(ctx context.Context, m *machine, spec types.VirtualMachineConfigSpec) error {
	if err := v.remember(ctx, m); err != nil {
		return err
	}
	for n := 1; ; n++ {
		if spec.ChangeVersion = m.version; spec.ChangeVersion == "" {
			now := time.Now()
			raw, version, err := v.recordNow(ctx, m)
			if err != nil {
				return err
			}
			if _, err := m.passed(raw, now); err != nil {
				return err
			}
			spec.ChangeVersion = version
		}
		m.version = ""
		err := v.reconfigureAt(ctx, m, spec)
		if !errors.Is(err, dr.ErrConflict) || n == saves {
			return err
		}
	}
}

// still looks from time to time whether the machine is torn by this draft: its
// disks are written by other ways than vSphere's API, which refuse nothing.
// It is called right before a write.
func (d *draft) still(ctx context.Context) error {
	d.tearing.Lock()
	defer d.tearing.Unlock()
	if d.fences == nil {
		return nil
	}
	began := time.Now()
	for looks := 0; stale(d.looked, d.v.fresh); looks++ {
		patient := time.Since(began) < d.v.patience
		switch {
		case looks >= looksInARow && !patient:
			return errSlow
		case looks > 0:
			if err := pause(ctx, lookPause); err != nil {
				return err
			}
		}
		now := time.Now()
		m := &machine{id: d.id, ref: d.ref, guard: guard{asked: d.fences}}
		raw, _, err := d.v.recordNow(ctx, m)
		if lost(err) && faultOf(err) == nil && patient && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		r, err := m.passed(raw, now)
		if err != nil {
			return err
		}
		if !r.Torn || r.Draft != d.token {
			return errOtherDraft
		}
		d.looked = now
	}
	return nil
}

// settled waits until whoever has torn the disks before would look again ahead
// of its next write. Of what it has sent already nothing is known.
func (d *draft) settled(ctx context.Context) error { return pause(ctx, d.v.fresh+d.v.fresh/4) }

// lookPause is between a draft's looks.
const lookPause = 200 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

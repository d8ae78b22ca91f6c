package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// await waits until ok says so of the machine, asked again whenever its power
// changes or its guest hangs or recovers. It returns with m.mu held, unless
// there is an error.
func (m *machine) await(ctx context.Context, op string, ok func() bool) error {
	for {
		m.mu.Lock()
		if err := m.gone(op); err != nil {
			m.mu.Unlock()
			return err
		}
		if ok() {
			return nil
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return &dr.Error{Op: op, Machine: m.id, Err: ctx.Err(), Remedy: "the guest does not answer"}
		}
	}
}

// shutdown implements backend.Shutdowner. A guest that shuts down leaves its
// applications' state on its disks.
func (b *Backend) shutdown(ctx context.Context, id dr.MachineID) error {
	if err := b.enter(ctx, OpShutdown); err != nil {
		return err
	}
	m, err := b.find("shut down", id)
	if err != nil {
		return err
	}
	if err := m.await(ctx, "shut down", func() bool { return !m.on || !m.hung && m.frozen == nil }); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if err := m.admit(ctx, "shut down"); err != nil {
		return err
	}
	m.stop(dr.ApplicationConsistent)
	return nil
}

// probe implements backend.Prober.
func (b *Backend) probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	if err := b.enter(ctx, OpProbe); err != nil {
		return backend.Evidence{}, err
	}
	m, err := b.find("probe", id)
	if err != nil {
		return backend.Evidence{}, err
	}
	if err := m.await(ctx, "probe", func() bool { return m.on && !m.hung }); err != nil {
		return backend.Evidence{}, err
	}
	defer m.mu.Unlock()
	return backend.Evidence{Kind: "heartbeat", What: fmt.Sprintf("guest of %s answers", id)}, nil
}

// quiesce implements backend.Quiescer. A machine that is held already is
// ErrBusy.
func (b *Backend) quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	if err := b.enter(ctx, OpQuiesce); err != nil {
		return 0, nil, err
	}
	m, err := b.find("quiesce", id)
	if err != nil {
		return 0, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.gone("quiesce"); err != nil {
		return 0, nil, err
	}
	if m.frozen != nil {
		return 0, nil, &dr.Error{Op: "quiesce", Machine: id, Err: dr.ErrBusy, Remedy: "wait for the other capture"}
	}
	f := &freeze{level: min(max(want, dr.CrashConsistent), m.reachable(b)), thawed: make(chan struct{})}
	m.frozen = f
	release := func(early error) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.thaw(f, early)
		return f.early
	}
	timer := time.AfterFunc(b.opts.QuiesceLimit, func() { _ = release(errors.New("it was held for too long")) })
	stop := context.AfterFunc(ctx, func() { _ = release(context.Cause(ctx)) })
	return f.level, func(context.Context) error {
		timer.Stop()
		stop()
		if err := release(nil); err != nil {
			return &dr.Error{Op: "thaw", Machine: id, Err: fmt.Errorf("%w: the machine had thawed already: %w", dr.ErrNotConsistent, err)}
		}
		return nil
	}, nil
}

// thaw ends f if it is in force; early says why it didn't last until it was
// told to end. It needs m.mu.
func (m *machine) thaw(f *freeze, early error) {
	if f == nil || m.frozen != f {
		return
	}
	m.frozen, f.early = nil, early
	close(f.thawed)
	m.wake()
}

// sweep implements backend.Sweeper.
func (b *Backend) sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	if err := b.enter(ctx, OpSweep); err != nil {
		return nil, err
	}
	m, err := b.find("sweep", id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	names := slices.Sorted(maps.Keys(m.captures))
	m.mu.Unlock()
	// keep is the caller's: it is asked without a lock.
	names = slices.DeleteFunc(names, keep)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		delete(m.captures, name)
	}
	return names, nil
}

// preflight implements backend.Preflighter.
func (b *Backend) preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	if err := b.enter(ctx, OpPreflight); err != nil {
		return nil, err
	}
	m, err := b.find("preflight", id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	problems := slices.Clone(m.problems)
	if m.torn != nil {
		problems = append(problems, backend.Problem{
			Code: "disks-torn", Blocker: true,
			Text:   fmt.Sprintf("the disks are half written: the draft of point %s was not committed", m.torn.point.ID),
			Remedy: "copy a point to the machine and commit",
		})
	}
	return problems, nil
}

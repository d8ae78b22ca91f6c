package memory

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// SetFacts says what Inspect tells of the machine from now on. f is kept as it
// is: don't change its maps any more.
func (b *Backend) SetFacts(id dr.MachineID, f backend.Facts) error {
	m, err := b.find("set facts", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts = f
	return m.gone("set facts")
}

// inspect tells what SetFacts said. A guest that is off, or hung, tells nothing.
func (b *Backend) inspect(ctx context.Context, id dr.MachineID) (backend.Facts, error) {
	if err := b.enter(ctx, OpInspect); err != nil {
		return backend.Facts{}, err
	}
	m, err := b.find("inspect", id)
	if err != nil {
		return backend.Facts{}, err
	}
	m.mu.Lock()
	f, on, hung, err := m.facts, m.on, m.hung, m.gone("inspect")
	m.mu.Unlock()
	switch {
	case err != nil:
		return backend.Facts{}, err
	case !on:
		return backend.Facts{}, &dr.Error{Op: "inspect", Machine: id, Err: fmt.Errorf("%w: the machine is off", dr.ErrNotAllowed), Remedy: "start it"}
	case hung:
		<-ctx.Done()
		return backend.Facts{}, &dr.Error{Op: "inspect", Machine: id, Err: ctx.Err(), Remedy: "see why the guest doesn't answer"}
	}
	if f.From == "" {
		f.From = "guest"
	}
	if f.At.IsZero() {
		f.At = b.opts.Now()
	}
	return f, nil
}

package physical

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// admit begins a change of the machine: it refuses whose claim was taken over,
// and makes durable who it is. The caller holds op until the change is made, so
// that nothing comes between.
func (m *machine) admit(ctx context.Context) error {
	next, raised, err := m.record().Fences.Admit(ctx)
	if err != nil || !raised {
		return err
	}
	return m.change(func(r *record) { r.Fences = next })
}

// passed tells whether the draft's opener was passed over since.
func (d *draft) passed() error {
	var now backend.Fences
	if rec := d.m.record(); rec != nil {
		now = rec.Fences
	}
	return now.Passed(d.fences)
}

package hyperv

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// claims is what a machine's disks are known to be.
type claims struct {
	holds dr.PointID
	fresh bool // they were never written
}

// settle finds out what can be proven of what the record says that the disks
// hold, and has it say no more from then on. A person may have started the
// machine meanwhile: then its state has changed since; or mounted its disks:
// then their tracker knows.
func (v *HyperV) settle(ctx context.Context, m *machine) (claims, error) {
	r := m.record
	if r.Torn || !m.off() || r.Stamp != m.stamp() {
		r.Holds, r.New = "", r.New && r.Stamp == m.stamp() && !r.Torn
	}
	if r.Holds != "" {
		if e, ok := r.epoch(r.Holds); ok && len(e.IDs) > 0 {
			same, err := m.unchanged(ctx, e)
			if err != nil {
				return claims{}, err
			}
			if !same {
				r.Holds = ""
			}
		}
	}
	return claims{r.Holds, r.New}, v.save(ctx, m, r)
}

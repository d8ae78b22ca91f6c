package vmware

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// noteHolds records that a stopped machine's disks hold the point that was
// captured of it. Only what can be proven later is recorded: the machine was
// off at the snapshot, is off now, and nothing was written between. A capture
// that was found says nothing new: the machine may have run since, and a process
// that was cut off here costs a comparison, no more.
func (v *VSphere) noteHolds(ctx context.Context, m *machine, i *image, found bool) error {
	p := i.point
	if !i.snapshot.mark.Off || !m.off() || m.record.Torn || found {
		return nil
	}
	same, err := v.unchanged(ctx, m, p.Cursors)
	if err != nil || !same {
		return err
	}
	r := m.record
	r.Holds = p.ID
	r.began(p.ID, p.Cursors)
	return v.save(ctx, m, r)
}

// holds is the point that a stopped machine's disks hold, if that can be
// proven: nothing was written since, by the machine's own tracker. A person may
// have started it, or reverted it, meanwhile.
func (v *VSphere) holds(ctx context.Context, m *machine) (dr.PointID, error) {
	e, ok := m.record.epoch(m.record.Holds)
	if m.record.Holds == "" || m.record.Torn || !ok {
		return "", nil
	}
	same, err := v.unchanged(ctx, m, e.Cursors)
	if err != nil || !same {
		return "", err
	}
	return e.Point, nil
}

// claims is what a machine's disks are known to be.
type claims struct {
	holds dr.PointID
	fresh bool // they were never written
}

func claimsOf(r record) claims { return claims{r.Holds, r.New} }

// settle finds out what can be proven of what the record says that the disks
// hold, and has it say no more from then on.
func (v *VSphere) settle(ctx context.Context, m *machine) (claims, error) {
	r := m.record
	var err error
	if r.Holds, err = v.holds(ctx, m); err != nil {
		return claims{}, err
	}
	return claimsOf(r), v.save(ctx, m, r)
}

package replication

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Process makes points of all that a store has received of the machine, so
// that they can be listed, opened and written over. A store that processes on
// commit has nothing to do.
func Process(ctx context.Context, s recoverypoint.PointStore, m dr.MachineID) error {
	p, ok := dr.As[recoverypoint.Processor](s)
	if !ok {
		return nil
	}
	if err := p.Process(ctx, m); err != nil {
		return &dr.Error{Op: "process received data", Side: dr.StoreSide, Machine: m, Err: err}
	}
	return nil
}

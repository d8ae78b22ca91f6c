package azure

import (
	"context"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/guestscript"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var (
	_ backend.Inspector = (*Azure)(nil)
	_ backend.Checker   = (*Azure)(nil)
	_ backend.Reacher   = (*Azure)(nil)
)

// Inspect implements backend.Inspector, by run command: it needs the guest's
// agent, and the privilege that ActionCheckPort needs. The script only reads.
func (a *Azure) Inspect(ctx context.Context, id dr.MachineID) (backend.Facts, error) {
	m, err := a.find(ctx, id)
	if err == nil && m.vm == nil {
		err = remedied(fmt.Errorf("%w: the machine was never started", dr.ErrNotAllowed), "look into a recovery point instead")
	}
	if err != nil {
		return backend.Facts{}, fail("inspect", id, "", -1, err)
	}
	script := guestscript.Linux
	if m.windows() {
		script = guestscript.Windows
	}
	output, err := a.run(ctx, m, script)
	if err != nil {
		return backend.Facts{}, fail("inspect", id, "", -1, err)
	}
	f, err := guestscript.Parse([]byte(output), "run command", time.Now())
	if err != nil {
		err = remedied(err, "see whether the guest's agent is well, and what runs the script there")
	}
	return f, fail("inspect", id, "", -1, err)
}

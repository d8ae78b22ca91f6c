package azure

import (
	"context"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// VMwareTools is the result of ActionVMwareTools: what the guest's service
// VMTools is now.
type VMwareTools struct {
	Service string `json:"service"` // "disabled", "automatic", or "absent"
}

// The service is only told whether to start: at Azure there is no VMware that it
// could talk to. Nothing of the scripts is a caller's text.
const (
	toolsScript = `$s = Get-Service -Name VMTools -ErrorAction SilentlyContinue
if (-not $s) { 'lifeboat-tools: absent'; exit }
`
	toolsOff = toolsScript + `Set-Service -Name VMTools -StartupType Disabled -ErrorAction Stop
Stop-Service -Name VMTools -Force -ErrorAction SilentlyContinue
'lifeboat-tools: disabled'`
	toolsOn = toolsScript + `Set-Service -Name VMTools -StartupType Automatic -ErrorAction Stop
'lifeboat-tools: automatic'`
)

// vmwareTools is the code of ActionVMwareTools. Linux guests' tools see by
// themselves on what they run.
func (a *Azure) vmwareTools(ctx context.Context, m *machine, in AccessInput, c *dr.Call) (any, error) {
	if !m.windows() {
		return VMwareTools{Service: "absent"}, nil
	}
	script, want := toolsOff, "disabled"
	if in.Enable != c.Undo {
		script, want = toolsOn, "automatic"
	}
	if c.Undo && m.power != dr.On {
		return nil, nil // what it would undo is about to be given up with its disks
	}
	output, err := a.run(ctx, m, script)
	if err != nil {
		return nil, err
	}
	for _, is := range []string{want, "absent"} {
		if strings.Contains(output, "lifeboat-tools: "+is) {
			return VMwareTools{Service: is}, nil
		}
	}
	return nil, remedied(fmt.Errorf("the guest's service VMTools could not be made %s", want), "see the guest's run command log, or make the step optional")
}

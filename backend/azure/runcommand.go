package azure

import (
	"context"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// run runs a script in the guest, by its Azure agent, and returns what it
// printed: of more than 4096 bytes Azure tells the end.
func (a *Azure) run(ctx context.Context, m *machine, script string) (string, error) {
	if m.power != dr.On {
		return "", remedied(fmt.Errorf("%w: the machine is off", dr.ErrNotAllowed), "start the machine first")
	}
	command := "RunShellScript"
	if m.windows() {
		command = "RunPowerShellScript"
	}
	p, err := a.vms.BeginRunCommand(ctx, m.at.group, m.at.name, armcompute.RunCommandInput{CommandID: to.Ptr(command), Script: []*string{to.Ptr(script)}}, nil)
	r, err := await(ctx, a, p, err)
	if err != nil {
		if status, code := codeOf(err); status == http.StatusConflict && code == "Conflict" {
			return "", remedied(fmt.Errorf("%w: %w", dr.ErrBusy, explain(err)), "a guest runs one command at a time; it is tried again")
		}
		return "", explain(err)
	}
	var output string
	for _, v := range r.Value {
		output += deref(v.Message)
	}
	return output, nil
}

package azuretest

import (
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// maxOutput is how much of a script's output is told: the end of it.
const maxOutput = 4096

// runCommand runs a script by Options.OnRunCommand. The machine is busy
// meanwhile, so that there is one at a time.
func (c *Cloud) runCommand(q *request) (reply, error) {
	v, err := need[*vm](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	in, err := decode[armcompute.RunCommandInput](q)
	if err != nil {
		return reply{}, err
	}
	switch {
	case v.op != nil:
		return reply{}, refuse(http.StatusConflict, "Conflict", "Run command extension execution is in progress. Please wait for completion before invoking a run command.")
	case v.power != running:
		return reply{}, notAllowed("Cannot modify extensions in the VM when the VM is not running.")
	case val(in.CommandID) != "RunPowerShellScript" && val(in.CommandID) != "RunShellScript":
		return reply{}, refuse(http.StatusNotFound, "NotFound", "The command '%s' was not found.", val(in.CommandID))
	}
	var script []string
	for _, line := range in.Script {
		script = append(script, val(line))
	}
	op := c.accept(q, "Updating", &v.entry)
	if v.hung && op.code == "" {
		op.code = "VMAgentStatusCommunicationError"
	}
	var stdout, stderr string
	op.before = func() {
		if c.o.OnRunCommand == nil {
			return
		}
		out, err := c.o.OnRunCommand(v.id, script)
		stdout = tail(out)
		if err != nil { // a script that fails is no failed operation
			stderr = tail(err.Error())
		}
	}
	op.failed = func() { v.state = "Succeeded" } // of an extension, not of the machine
	op.result = func() any {
		if *in.CommandID == "RunShellScript" {
			s := status("ProvisioningState/succeeded", "Provisioning succeeded")
			s.Message = to.Ptr("Enable succeeded: \n[stdout]\n" + stdout + "\n[stderr]\n" + stderr)
			return armcompute.RunCommandResult{Value: []*armcompute.InstanceViewStatus{s}}
		}
		o, e := status("ComponentStatus/StdOut/succeeded", "Provisioning succeeded"), status("ComponentStatus/StdErr/succeeded", "Provisioning succeeded")
		o.Message, e.Message = &stdout, &stderr
		return armcompute.RunCommandResult{Value: []*armcompute.InstanceViewStatus{o, e}}
	}
	return accepted(op)
}

func tail(s string) string { return s[max(0, len(s)-maxOutput):] }

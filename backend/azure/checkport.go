package azure

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// PortCheck is the result of ActionCheckPort.
type PortCheck struct {
	Listening []int  `json:"listening"`
	Output    string `json:"output"` // the guest's, 4096 bytes at most
}

// checkPort is the code of ActionCheckPort. The script prints only what it was
// asked for: of more than 4096 bytes Azure tells the end.
func (a *Azure) checkPort(ctx context.Context, m *machine, in AccessInput, c *dr.Call) (any, error) {
	if c.Undo {
		return nil, nil
	}
	if m.power != dr.On {
		return nil, remedied(fmt.Errorf("%w: the machine is off", dr.ErrNotAllowed), "start the machine first")
	}
	ports := in.ports(m)
	command, script := listeners(m.windows(), ports)
	p, err := a.vms.BeginRunCommand(ctx, m.at.group, m.at.name, armcompute.RunCommandInput{CommandID: to.Ptr(command), Script: []*string{to.Ptr(script)}}, nil)
	r, err := await(ctx, a, p, err)
	if err != nil {
		if status, code := codeOf(err); status == http.StatusConflict && code == "Conflict" {
			return nil, remedied(fmt.Errorf("%w: %w", dr.ErrBusy, explain(err)), "a guest runs one command at a time; it is tried again")
		}
		return nil, explain(err)
	}
	var out PortCheck
	for _, v := range r.Value {
		out.Output += deref(v.Message)
	}
	for _, port := range ports {
		if listens(out.Output, port) {
			out.Listening = append(out.Listening, port)
		}
	}
	if len(out.Listening) < len(ports) {
		return nil, remedied(fmt.Errorf("of the ports %v only %v are listened on in the guest", ports, out.Listening), "see that the service starts with the guest, and listens on more than its loopback address")
	}
	return out, nil
}

// listeners is a command that prints "address:port", a line each, of what
// listens on the ports. Nothing of it is a caller's text.
func listeners(windows bool, ports []int) (command, script string) {
	var list []string
	for _, p := range ports {
		list = append(list, strconv.Itoa(p))
	}
	if windows {
		return "RunPowerShellScript", "Get-NetTCPConnection -State Listen -LocalPort " + strings.Join(list, ",") +
			" -ErrorAction SilentlyContinue | ForEach-Object { \"$($_.LocalAddress):$($_.LocalPort)\" }"
	}
	return "RunShellScript", "(ss -Hltn || netstat -ltn) 2>/dev/null | awk '{print $4}' | grep -E ':(" + strings.Join(list, "|") + ")$'"
}

// listens reads what the guest printed. What is bound to the loopback address
// nobody reaches from outside.
func listens(output string, port int) bool {
	for _, line := range strings.Fields(output) {
		i := strings.LastIndexByte(line, ':')
		if i < 0 || line[i+1:] != strconv.Itoa(port) {
			continue
		}
		host, _, _ := strings.Cut(strings.Trim(line[:i], "[]"), "%")
		if at, err := netip.ParseAddr(host); err != nil || !at.IsLoopback() {
			return true
		}
	}
	return false
}

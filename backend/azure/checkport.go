package azure

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// PortCheck is the result of ActionCheckPort.
type PortCheck struct {
	Listening []int  `json:"listening"`
	Output    string `json:"output"` // the guest's, 4096 bytes at most
}

// checkPort is the code of ActionCheckPort. The script prints only what it was
// asked for: of a long list Azure would tell the end only.
func (a *Azure) checkPort(ctx context.Context, m *machine, in AccessInput, c *dr.Call) (any, error) {
	if c.Undo {
		return nil, nil
	}
	ports := in.ports(m)
	output, err := a.run(ctx, m, listeners(m.windows(), ports))
	if err != nil {
		return nil, err
	}
	out := PortCheck{Output: output}
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

// listeners is a script that prints "address:port", a line each, of what
// listens on the ports. Nothing of it is a caller's text.
func listeners(windows bool, ports []int) string {
	var list []string
	for _, p := range ports {
		list = append(list, strconv.Itoa(p))
	}
	if windows {
		return "Get-NetTCPConnection -State Listen -LocalPort " + strings.Join(list, ",") +
			" -ErrorAction SilentlyContinue | ForEach-Object { \"$($_.LocalAddress):$($_.LocalPort)\" }"
	}
	return "(ss -Hltn || netstat -ltn) 2>/dev/null | awk '{print $4}' | grep -E ':(" + strings.Join(list, "|") + ")$'"
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

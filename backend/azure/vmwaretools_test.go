package azure_test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// windowsGuest answers the scripts as a guest does that has the service, or
// hasn't.
type windowsGuest struct {
	mu      sync.Mutex
	service string // "" is none
	broken  bool
	scripts int
}

func (g *windowsGuest) run(_ string, script []string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.scripts++
	text := strings.Join(script, "\n")
	switch {
	case g.broken:
		return "Set-Service : Access is denied\n", nil
	case g.service == "":
		return "lifeboat-tools: absent\n", nil
	case strings.Contains(text, "-StartupType Disabled"):
		g.service = "disabled"
	case strings.Contains(text, "-StartupType Automatic"):
		g.service = "automatic"
	default:
		return "", errors.New("another script")
	}
	return "lifeboat-tools: " + g.service + "\n", nil
}

// "For Windows VMs, Site Recovery disables the VMware tools during failover",
// and enables them again for the way home.
func TestVMwareTools(t *testing.T) {
	g := &windowsGuest{service: "automatic"}
	r := newRig(t, azuretest.Options{OnRunCommand: g.run})
	for name, os := range map[string]string{"win": "Windows", "lin": "Linux"} {
		require.NoError(t, r.cloud.AddVM(sources, name, azuretest.VM{OS: os, Subnet: "prod/default"}))
	}
	ids := map[string]dr.MachineID{}
	for m, err := range r.a.Machines(t.Context()) {
		require.NoError(t, err)
		ids[m.Name] = m.ID
	}
	tools := func(machine string, enable bool, change ...func(*dr.Call)) (string, error) {
		raw, err := r.act(azure.ActionVMwareTools, azure.AccessInput{Machine: ids[machine], Enable: enable}, change...)
		var out azure.VMwareTools
		if err == nil && raw != nil {
			require.NoError(t, json.Unmarshal(raw, &out))
		}
		return out.Service, err
	}
	for range 2 { // each may be repeated
		is, err := tools("win", false)
		require.NoError(t, err)
		require.Equal(t, "disabled", is)
		require.Equal(t, "disabled", g.service)
	}
	_, err := tools("win", false, undo)
	require.NoError(t, err)
	require.Equal(t, "automatic", g.service, "taken back")
	_, err = tools("win", false)
	require.NoError(t, err)
	is, err := tools("win", true)
	require.NoError(t, err)
	require.Equal(t, "automatic", is)

	g.broken = true
	_, err = tools("win", false)
	var e *dr.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Remedy)
	g.broken, g.service = false, ""
	is, err = tools("win", false)
	require.NoError(t, err)
	require.Equal(t, "absent", is)

	asked := g.scripts
	is, err = tools("lin", false)
	require.NoError(t, err)
	require.Equal(t, "absent", is)
	require.Equal(t, asked, g.scripts, "Linux is not asked")

	require.NoError(t, r.cloud.Power(sources, "win", false))
	_, err = tools("win", false)
	require.ErrorIs(t, err, dr.ErrNotAllowed)
	_, err = tools("win", false, undo)
	require.NoError(t, err, "a machine that is off has nothing to be undone")
}

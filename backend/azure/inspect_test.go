package azure_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A Linux guest is this machine; a Windows one says what it is told.
func TestInspect(t *testing.T) {
	var say string
	var fault error
	r := newRig(t, azuretest.Options{OnRunCommand: func(_ string, s []string) (string, error) {
		if say != "" || fault != nil {
			return say, fault
		}
		out, err := exec.Command("sh", "-c", strings.Join(s, "\n")).Output()
		return string(out), err
	}})
	id := r.started(t, "linux", web())
	f, err := r.a.Inspect(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "linux", f.OS)
	require.Equal(t, "run command", f.From)
	require.NotEmpty(t, f.Agents)
	require.False(t, f.At.IsZero())

	m := web()
	m.ID, m.Name, m.OS = "win", "win", "windows"
	win := r.started(t, "windows", m)
	say = `{"lifeboat":1,"os":"windows","sanPolicy":{"answer":"yes","detail":"OnlineAll"}}`
	f, err = r.a.Inspect(t.Context(), win)
	require.NoError(t, err)
	require.Equal(t, backend.Fact{Answer: backend.Yes, Detail: "OnlineAll"}, f.SANPolicy)

	say = "no facts"
	_, err = r.a.Inspect(t.Context(), win)
	require.ErrorIs(t, err, dr.ErrInvalid)
	remedy(t, err)
	fault = errors.New("the agent died")
	_, err = r.a.Inspect(t.Context(), win)
	require.Error(t, err)
}

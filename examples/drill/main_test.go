package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/failover/drillreport"
)

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "drill")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	drill := func(args ...string) (code int, out string) {
		raw, err := exec.Command(bin, args...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return exit.ExitCode(), string(raw)
		}
		require.NoError(t, err)
		return 0, string(raw)
	}
	page, data := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.json")
	code, said := drill("-html", page, "-json", data)
	require.Zero(t, code, said)
	raw, err := os.ReadFile(data)
	require.NoError(t, err)
	var r drillreport.Report
	require.NoError(t, json.Unmarshal(raw, &r))
	require.True(t, r.Passed)
	require.Len(t, r.Machines, 2)
	for _, m := range r.Machines {
		require.True(t, *m.Cleaned)
		require.NotNil(t, m.Evidence, m.Protection)
	}
	require.FileExists(t, page)

	code, said = drill("-rto", "1ns")
	require.Equal(t, notPassed, code, said)
	require.Contains(t, said, "RTO: objective 1ns, got")

	code, said = drill("-broken")
	require.Equal(t, notPassed, code, said)
	require.Contains(t, said, "the orders of today are not there")

	code, _ = drill("-plan", filepath.Join(dir, "nothing"))
	require.Equal(t, 1, code)
	code, _ = drill("what")
	require.Equal(t, 2, code)
}

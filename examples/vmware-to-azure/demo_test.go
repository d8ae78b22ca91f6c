package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// build makes the program, with a folder for what it keeps meanwhile.
func build(t *testing.T) (bin, temp string) {
	t.Helper()
	bin = filepath.Join(t.TempDir(), "vmware-to-azure")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	temp, err = os.MkdirTemp("", "d") // sockets' paths are short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(temp) })
	return bin, temp
}

func program(bin, temp string) *exec.Cmd {
	cmd := exec.Command(bin, "-mib", "16")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	return cmd
}

func nothingIn(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// cells reads the table by its columns, which are two spaces apart at least.
func cells(t *testing.T, out string) [][]string {
	t.Helper()
	_, table, ok := strings.Cut(out, "\nSTAGE")
	require.True(t, ok, "no table:\n%s", out)
	table, _, _ = strings.Cut(table, "\n\n")
	var rows [][]string
	for _, line := range strings.Split(table, "\n")[1:] {
		var row []string
		for _, cell := range strings.Split(line, "  ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				row = append(row, cell)
			}
		}
		require.Len(t, row, 10, "row %q", line)
		rows = append(rows, row)
	}
	return rows
}

func TestTheWholeCycle(t *testing.T) {
	bin, temp := build(t)
	var out, complaints bytes.Buffer
	cmd := program(bin, temp)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	require.NoError(t, cmd.Run(), "%s%s", out.String(), complaints.String())
	require.Empty(t, complaints.String())
	nothingIn(t, temp)
	require.Contains(t, out.String(), "Nothing was left over: Azure has the resources that it had before")
	require.Contains(t, out.String(), "At home run web, in the machine that it was, and app, in one that was built anew.")
	require.Contains(t, out.String(), "ports [22]")
	require.Contains(t, out.String(), "a screenshot of ")
	require.NotContains(t, out.String(), "failed", "no step of any flow")

	const stage, local, rpo, verified = 0, 5, 6, 8
	want := [][2]string{ // what it says of verification
		{"protect", "2 of 2"}, {"replicate", "2 of 2"}, {"test-failover", "2 of 2"}, {"replicate", "2 of 2"}, {"clean-up-test", "-"},
		{"planned-failover", "1 of 1"}, {"unplanned-failover", "1 of 1"}, {"change-point", "1 of 1"}, {"commit", "-"},
		{"reprotect-original", "1 of 1"}, {"reprotect-alternate", "1 of 1"}, {"replicate", "2 of 2"},
		{"failback", "2 of 2"}, {"commit", "-"}, {"reprotect", "2 of 2"}, {"replicate", "2 of 2"}, {"unprotect", "-"},
	}
	rows := cells(t, out.String())
	require.Len(t, rows, len(want))
	for i, w := range want {
		require.Equal(t, w, [2]string{rows[i][stage], rows[i][verified]})
		switch w[0] {
		case "planned-failover", "failback":
			require.Equal(t, "0", rows[i][rpo], "%s loses nothing", w[0])
		case "unplanned-failover", "change-point":
			require.Contains(t, rows[i][rpo], "s", "%s loses what it must", w[0])
		}
		switch w[0] {
		case "test-failover", "planned-failover", "unplanned-failover", "change-point":
			require.Equal(t, "0 B", rows[i][local], "disks at Azure are made of points without copying bytes")
		}
	}
}

// Interrupted at any moment it ends in order, and leaves nothing behind.
func TestInterrupted(t *testing.T) {
	bin, temp := build(t)
	for _, at := range []string{"01-protect-web ", "03-test-failover-app ", "11-reprotect-alternate-app "} {
		t.Run(strings.TrimSpace(at), func(t *testing.T) {
			cmd := program(bin, temp)
			var complaints bytes.Buffer
			cmd.Stderr = &complaints
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(out)
			for lines.Scan() && !strings.HasPrefix(lines.Text(), at) {
			}
			require.NoError(t, lines.Err())
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			_, err = io.Copy(io.Discard, out)
			require.NoError(t, err)
			_ = cmd.Wait()
			require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), "%s", complaints.String())
			require.Equal(t, "vmware-to-azure: interrupted\n", complaints.String())
			nothingIn(t, temp)
		})
	}
}

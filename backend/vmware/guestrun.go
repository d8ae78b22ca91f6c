package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// runLimit bounds one script in a guest.
const runLimit = 5 * time.Minute

// runScript runs a script in the guest, for /bin/sh or Windows PowerShell, and
// returns what it printed, at most maxOutput of it, and its exit code. When ctx
// ends it is terminated; its files are removed whatever happens.
func (d *door) runScript(ctx context.Context, script string) (out []byte, exit int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runLimit, fmt.Errorf("the script did not end within %s", runLimit))
	defer cancel()
	dir, err := d.folder(ctx, "")
	if err != nil {
		return nil, 0, err
	}
	defer d.tidy(ctx, dir)
	name, output := dir+d.slash()+"run.sh", dir+d.slash()+"out"
	text := "exec >'" + output + "' 2>/dev/null </dev/null\necho $$\n" + script
	spec := &types.GuestProgramSpec{ProgramPath: "/bin/sh", Arguments: name}
	if d.os == windows {
		name = dir + `\run.ps1`
		text = script
		spec.ProgramPath = `C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe`
		spec.Arguments = fmt.Sprintf(`-NoProfile -NonInteractive -ExecutionPolicy Bypass -Command "& '%s' 2>$null | Out-File -Encoding utf8 -Width 8192 -FilePath '%s'; exit $LASTEXITCODE"`, name, output)
	}
	if err := d.put(ctx, name, []byte(text)); err != nil {
		return nil, 0, err
	}
	pid, err := d.start(ctx, spec)
	if err != nil {
		return nil, 0, err
	}
	exit, err = d.wait(ctx, pid)
	if err != nil {
		d.kill(ctx, pid, output)
		return nil, 0, err
	}
	out, more, err := d.get(ctx, output)
	switch {
	case err != nil:
		return nil, exit, err
	case more:
		return nil, exit, fmt.Errorf("%w: the script printed more than %d bytes", dr.ErrInvalid, maxOutput)
	}
	if d.os == linux {
		_, out = pidLine(out)
	}
	return bytes.TrimPrefix(out, []byte("\xef\xbb\xbf")), exit, nil
}

// pidLine takes the process's own number off what a script of ours has printed:
// the one that vSphere knows may be that of a shell around it.
func pidLine(out []byte) (pid int64, rest []byte) {
	line, rest, ok := bytes.Cut(out, []byte("\n"))
	if !ok {
		return 0, out
	}
	return number(string(line)), rest
}

// number is a process's number, 0 if it is none that we would end.
func number(s string) int64 {
	var n int64
	if len(s) > 10 || strings.Trim(s, "0123456789") != "" {
		return 0
	}
	fmt.Sscan(s, &n)
	if n < 2 {
		return 0
	}
	return n
}

// start starts a program. It is never started twice: if the answer is lost
// nobody knows whether it runs.
func (d *door) start(ctx context.Context, spec *types.GuestProgramSpec) (int64, error) {
	var pid int64
	err := d.ask(ctx, func() (err error) {
		pid, err = d.processes.StartProgram(ctx, d.auth, spec)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("start %s in the guest: %w", spec.ProgramPath, err)
	}
	return pid, nil
}

// wait waits until a program has ended.
func (d *door) wait(ctx context.Context, pid int64) (exit int, err error) {
	for wait := firstAsk / 2; ; wait = min(2*wait, lastAsk) {
		list, err := d.list(ctx, pid)
		if err != nil {
			return 0, err
		}
		if len(list) == 0 {
			return 0, errors.New("the program is no more, and nobody knows how it ended: the guest may have restarted")
		}
		if list[0].EndTime != nil {
			return int(list[0].ExitCode), nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return 0, fmt.Errorf("the program was terminated: %w", context.Cause(ctx))
		}
	}
}

func (d *door) list(ctx context.Context, pid int64) (list []types.GuestProcessInfo, err error) {
	err = d.ask(ctx, func() (err error) {
		list, err = d.processes.ListProcesses(ctx, d.auth, []int64{pid})
		return err
	})
	return list, err
}

// kill terminates a script that nobody waits for any more, also when ctx is
// over.
func (d *door) kill(ctx context.Context, pid int64, output string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyLimit)
	defer cancel()
	if d.os == linux {
		if out, _, err := d.get(ctx, output); err == nil {
			if own, _ := pidLine(out); own != 0 && own != pid {
				_ = d.terminate(ctx, own)
			}
		}
	}
	if err := d.terminate(ctx, pid); err != nil && !isNotFound(err) {
		d.v.options.Log.WarnContext(ctx, "a program may still run in the guest", "machine", d.m.id, "pid", pid, "error", err)
	}
}

func (d *door) terminate(ctx context.Context, pid int64) error {
	return d.ask(ctx, func() error { return d.processes.TerminateProcess(ctx, d.auth, pid) })
}

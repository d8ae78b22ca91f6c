package vmwaretest

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// GuestProgram is a program that a client has started in a guest.
type GuestProgram struct {
	VM              *VM
	User            string
	Path, Arguments string
	PID             int64
}

// program is one that runs, or has run.
type program struct {
	GuestProgram
	cancel     context.CancelFunc
	began      time.Time
	ended      *time.Time
	exit       int32
	terminated bool
}

// run is how the guest's programs run: by its own function, by that of all
// guests, or for real. Nil says that there is no such program.
func (v *VM) run(g Guest) func(context.Context, GuestProgram) int {
	switch {
	case g.Shell != "":
		return runShell
	case g.OnProgram != nil:
		return g.OnProgram
	}
	return v.s.options.OnGuestProgram
}

// runShell runs a program as the tools of Linux do, by a shell. Terminating it
// asks first and kills five seconds later; what it has started runs on.
func runShell(ctx context.Context, p GuestProgram) int {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `"`+p.Path+`" `+p.Arguments)
	ownGroup(cmd)
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return 127
	}
	return cmd.ProcessState.ExitCode()
}

// guestFault is what keeps a client out of a guest, or nil.
func (v *VM) guestFault(auth types.BaseGuestAuthentication) (Guest, types.BaseMethodFault) {
	v.s.mu.Lock()
	g, on := v.guest, v.on
	v.s.mu.Unlock()
	if !on {
		return g, &types.InvalidPowerState{RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: types.VirtualMachinePowerStatePoweredOff}
	}
	if g.Tools != ToolsRunning {
		return g, &types.GuestOperationsUnavailable{}
	}
	a, ok := auth.(*types.NamePasswordAuthentication)
	if !ok {
		return g, &types.InvalidGuestLogin{}
	}
	if want, ok := g.Users[a.Username]; !ok || want != a.Password {
		return g, &types.InvalidGuestLogin{}
	}
	return g, nil
}

// guestOf finds the machine that a call is about.
func (s *Simulator) guestOf(ctx *simulator.Context, ref types.ManagedObjectReference, auth types.BaseGuestAuthentication) (*VM, Guest, types.BaseMethodFault) {
	if _, ok := ctx.Map.Get(ref).(*simulator.VirtualMachine); !ok {
		return nil, Guest{}, &types.ManagedObjectNotFound{Obj: ref}
	}
	v := s.machine(ref)
	g, fault := v.guestFault(auth)
	return v, g, fault
}

func startProgram(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.StartProgramInGuest), &methods.StartProgramInGuestBody{}
	v, g, fault := s.guestOf(ctx, req.Vm, req.Auth)
	spec, ok := req.Spec.(*types.GuestProgramSpec)
	if fault == nil && !ok {
		fault = &types.InvalidArgument{InvalidProperty: "spec"}
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	run := v.run(g)
	if run == nil {
		body.Fault_ = simulator.Fault("", &types.FileNotFound{FileFault: types.FileFault{File: spec.ProgramPath}})
		return body
	}
	life, cancel := context.WithCancel(context.Background())
	p := &program{GuestProgram: GuestProgram{VM: v, User: req.Auth.(*types.NamePasswordAuthentication).Username, Path: spec.ProgramPath, Arguments: spec.Arguments},
		cancel: cancel, began: time.Now()}
	s.mu.Lock()
	s.pid++
	p.PID = 1000 + s.pid
	v.programs = append(v.programs, p)
	s.mu.Unlock()
	go func() {
		exit := run(life, p.GuestProgram)
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		now := time.Now()
		p.ended, p.exit = &now, int32(exit)
	}()
	body.Res = &types.StartProgramInGuestResponse{Returnval: p.PID}
	return body
}

func listProcesses(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.ListProcessesInGuest), &methods.ListProcessesInGuestBody{}
	v, _, fault := s.guestOf(ctx, req.Vm, req.Auth)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = new(types.ListProcessesInGuestResponse)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range v.programs {
		if len(req.Pids) > 0 && !slices.Contains(req.Pids, p.PID) {
			continue
		}
		body.Res.Returnval = append(body.Res.Returnval, types.GuestProcessInfo{
			Name: p.Path[strings.LastIndexAny(p.Path, `/\`)+1:], Pid: p.PID, Owner: p.User, CmdLine: p.Path + " " + p.Arguments,
			StartTime: p.began, EndTime: p.ended, ExitCode: p.exit,
		})
	}
	return body
}

// terminateProcess asks a program to end: its context does. Of a guest whose
// programs run for real any process can be meant.
func terminateProcess(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.TerminateProcessInGuest), &methods.TerminateProcessInGuestBody{}
	v, g, fault := s.guestOf(ctx, req.Vm, req.Auth)
	if fault == nil && !v.terminate(g, req.Pid) {
		fault = &types.GuestProcessNotFound{Pid: req.Pid}
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = new(types.TerminateProcessInGuestResponse)
	return body
}

func (v *VM) terminate(g Guest, pid int64) bool {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	for _, p := range v.programs {
		if p.PID == pid && p.ended == nil && !p.terminated {
			p.terminated = true
			p.cancel()
			return true
		}
	}
	return g.Shell != "" && v.ownProcess(pid, g.Shell) && terminatePID(pid)
}

// Programs lists the programs that were started in the guest and have not
// ended.
func (v *VM) Programs() []GuestProgram {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	var all []GuestProgram
	for _, p := range v.programs {
		if p.ended == nil {
			all = append(all, p.GuestProgram)
		}
	}
	return all
}

// endPrograms is what a power cut does to them. s.mu is held.
func (v *VM) endPrograms() {
	for _, p := range v.programs {
		p.cancel()
	}
	v.programs = nil
	if v.guest.Shell != "" {
		killBelow(v.guest.Shell)
	}
}

// Freeze holds the guest's writes until Thaw, as a program in it may: Write
// fails, and guest operations that would write to its disks wait. It is a no-op
// on a machine that is off.
func (v *VM) Freeze() {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	v.frozen = v.on
}

package hyperv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// node is a host with the paths of its services.
type node struct {
	v     *HyperV
	name  string
	conn  host.Conn
	disks host.Disks

	management, snapshots, references host.Ref
}

const (
	classSystem     = "Msvm_ComputerSystem"
	classSettings   = "Msvm_VirtualSystemSettingData"
	classReference  = "Msvm_VirtualSystemReferencePoint"
	classManagement = "Msvm_VirtualSystemManagementService"
)

// services looks up the host's services, which says whether Hyper-V is there.
func (n *node) services(ctx context.Context) error {
	for _, s := range []struct {
		class string
		to    *host.Ref
	}{
		{classManagement, &n.management},
		{"Msvm_VirtualSystemSnapshotService", &n.snapshots},
		{"Msvm_VirtualSystemReferencePointService", &n.references},
	} {
		o, err := n.one(ctx, "SELECT * FROM "+s.class)
		if err != nil {
			return err
		}
		*s.to = o.Path
	}
	return nil
}

// one runs a query that has one answer.
func (n *node) one(ctx context.Context, wql string) (host.Object, error) {
	all, err := n.conn.Query(ctx, wql)
	switch {
	case err != nil:
		return host.Object{}, err
	case len(all) == 0:
		return host.Object{}, fmt.Errorf("%w: %s", host.ErrNotFound, wql)
	case len(all) > 1:
		return host.Object{}, fmt.Errorf("%d objects answer %q, and one was expected", len(all), wql)
	}
	return all[0], nil
}

// Return values and states of jobs.
const (
	done       = 0
	jobStarted = 4096

	jobCompleted  = 7
	jobWarnings   = 32768
	jobTerminated = 8
	jobKilled     = 9
	jobException  = 10
)

// output names where a method's result is: in a parameter if it is done at once,
// else tied to its job.
type output struct {
	param string // "ResultingSnapshot"
	class string // of the object
}

// call runs a method to the end of its job and returns the object that it made,
// if of names one.
func (n *node) call(ctx context.Context, path host.Ref, method string, in host.Props, of output) (host.Object, error) {
	r, err := n.conn.Invoke(ctx, path, method, in)
	if err != nil {
		return host.Object{}, err
	}
	made := r.Out.Strings(of.param)
	switch r.Return {
	case done:
		if of.param == "" {
			return host.Object{}, nil
		}
	case jobStarted:
		job := host.Ref(r.Out.String("Job"))
		if job == "" {
			return host.Object{}, fmt.Errorf("%s started a job and did not say which", method)
		}
		if err := n.await(ctx, method, job); err != nil || of.param == "" {
			return host.Object{}, err
		}
		if len(made) > 0 {
			break // some methods say at once what the job will make
		}
		all, err := n.conn.Associators(ctx, job, "Msvm_AffectedJobElement", of.class)
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("the job of %s names %d objects of %s, and one was expected", method, len(all), of.class)
		}
		if err != nil {
			return host.Object{}, err
		}
		return all[0], nil
	default:
		return host.Object{}, &host.Error{Op: method, Kind: host.Method, Code: r.Return}
	}
	if len(made) != 1 {
		return host.Object{}, fmt.Errorf("%s returned %d objects in %s, and one was expected", method, len(made), of.param)
	}
	return n.conn.Get(ctx, host.Ref(made[0]))
}

// errJobGone says that nobody knows how a job ended: the host keeps jobs for some
// minutes, and forgets them when it restarts.
var errJobGone = &explained{errors.New("the host has forgotten the job and how it ended"), "try again: what the job did is found"}

// await polls a job to its end: it is read anew each time. Events would hold
// the connection's thread.
func (n *node) await(ctx context.Context, method string, job host.Ref) error {
	ctx, cancel := context.WithTimeoutCause(ctx, n.v.options.JobLimit, errors.New("the host's job took longer than Options.JobLimit"))
	defer cancel()
	for wait := n.v.pace(); ; wait.sleep(ctx) {
		o, err := n.conn.Get(ctx, job)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%s: %w", method, context.Cause(ctx))
			}
			if errors.Is(err, host.ErrNotFound) { // callers take "not found" for the machine
				return fmt.Errorf("%w: %s: %v", errJobGone, method, err)
			}
			return fmt.Errorf("look at the job of %s: %w", method, err)
		}
		switch state, _ := o.Props.Int("JobState"); state {
		case jobCompleted, jobWarnings:
			return nil
		case jobTerminated, jobKilled, jobException:
			code, _ := o.Props.Int("ErrorCode")
			return &host.Error{Op: method, Kind: host.Method, Code: uint32(code), Detail: oneLine(o.Props.String("ErrorDescription"))}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", method, context.Cause(ctx))
		}
	}
}

// idle is an error while a job is at work on the machine, whoever asked for it:
// what a process of ours that died has asked for may still come.
func (m *machine) idle(ctx context.Context) error {
	jobs, err := m.node.conn.Associators(ctx, m.system.Path, "Msvm_AffectedJobElement", "Msvm_ConcreteJob")
	for _, o := range jobs {
		switch state, _ := o.Props.Int("JobState"); state {
		case jobCompleted, jobWarnings, jobTerminated, jobKilled, jobException:
		default:
			return errUnderWay
		}
	}
	return err
}

var errUnderWay = &explained{fmt.Errorf("%w: a job of the host is at work on the machine, perhaps for a process of ours that died", dr.ErrBusy), "try again when it has ended"}

// pace is a wait that grows.
type pace struct{ next, most time.Duration }

// slowest is how long is waited at most between two looks.
const slowest = 2 * time.Second

func (v *HyperV) pace() *pace {
	if p := v.options.Poll; p > 0 {
		return &pace{p, p}
	}
	return &pace{slowest / 8, slowest}
}

// sleep waits, at most until ctx ends.
func (p *pace) sleep(ctx context.Context) {
	t := time.NewTimer(p.next)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	p.next = min(2*p.next, p.most)
}

// oneLine takes foreign text's line breaks out, and bounds it.
func oneLine(s string) string {
	b := []byte(s[:min(len(s), 300)])
	for i := range b {
		if b[i] < ' ' {
			b[i] = ' '
		}
	}
	return string(b)
}

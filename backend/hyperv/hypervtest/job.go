package hypervtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// Job states of Msvm_ConcreteJob.
const (
	jobNew       = 3
	jobRunning   = 4
	jobDone      = 7
	jobException = 10
	jobWarned    = 32768
)

// job is work that goes on after its method has returned. What it does happens
// at once, when its time has come.
type job struct {
	id       string
	method   string
	vm       *VM // nil if it works on none
	left     int // calls until it ends
	total    int
	state    int
	effect   func(*job) *refusal
	affected []func() (host.Object, bool)
	fail     *refusal
	undo     func() // what a job that fails before its effect leaves, or nil
	begun    time.Time
	ended    time.Time
}

// answer is what a method returns.
type answer struct {
	code uint32
	out  host.Props
}

func done() answer                { return answer{out: host.Props{}} }
func failed(code uint32) answer   { return answer{code: code, out: host.Props{}} }
func refused(r *refusal) answer   { return failed(r.code) }
func (j *job) open() bool         { return j.state == jobNew || j.state == jobRunning }
func (j *job) props() host.Props  { return host.Props{"InstanceID": j.id} }
func (h *Host) ref(j *job) string { return string(h.path("Msvm_ConcreteJob", j.props())) }

// start begins a job. One that is to work on a machine which is busy with
// another one is refused.
func (h *Host) start(method string, vm *VM, effect func(*job) *refusal) answer {
	if vm != nil && vm.job != nil && vm.job.open() {
		return failed(retInvalidState)
	}
	j := &job{id: newGUID(), method: method, vm: vm, left: h.opts.JobPolls, total: h.opts.JobPolls,
		state: jobNew, effect: effect, begun: time.Now()}
	if vm != nil {
		vm.job = j
	}
	h.jobs = append(slices.DeleteFunc(h.jobs, h.expired), j)
	h.working = append(h.working, j)
	return answer{code: retJobStarted, out: host.Props{"Job": h.ref(j)}}
}

// finished is a job that has done all it had to when its method returned: it
// is only slow to say so.
func (h *Host) finished(method string, vm *VM, out host.Props) answer {
	a := h.start(method, vm, func(*job) *refusal { return nil })
	if a.code == retJobStarted {
		for k, v := range out {
			a.out[k] = v
		}
	}
	return a
}

// tick lets one call's time pass: for jobs, shutdowns and merges.
func (h *Host) tick() {
	for _, j := range h.working {
		j.state = jobRunning
		if j.left--; j.left <= 0 {
			h.end(j)
		}
	}
	h.working = slices.DeleteFunc(h.working, func(j *job) bool { return !j.open() })
	for _, vm := range h.vms {
		if vm.stopping > 0 {
			if vm.stopping--; vm.stopping == 0 {
				vm.powerOff()
			}
		}
		vm.settle()
	}
}

// end does what the job is for, unless a test wants otherwise.
func (h *Host) end(j *job) {
	e := h.hooks.jobEnd(j.method)
	if e == nil || e.Effect || e.State == jobWarned {
		j.fail = j.effect(j)
	} else if j.undo != nil {
		j.undo()
	}
	j.state, j.ended = jobDone, time.Now()
	switch {
	case j.fail != nil:
		j.state = jobException
	case e != nil:
		j.state, j.fail = e.State, refuse(e.Code, e.Text)
	}
}

// settleAll ends all that is under way.
func (h *Host) settleAll() {
	for {
		open := len(h.working) > 0 ||
			slices.ContainsFunc(h.vms, func(vm *VM) bool { return vm.stopping > 0 })
		h.tick()
		if !open {
			return
		}
	}
}

// expired tells whether a job has ended so long ago that it is gone.
func (h *Host) expired(j *job) bool { return !j.open() && time.Since(j.ended) > h.opts.JobLife }

func (h *Host) jobProps(j *job) host.Props {
	p := host.Props{
		"InstanceID": j.id, "Name": "Msvm_ConcreteJob", "ElementName": j.method,
		"Caption":  h.say("Virtual Machine Management", "Verwaltung virtueller Computer"),
		"JobState": int64(j.state), "PercentComplete": int64((j.total - max(0, j.left)) * 100 / j.total),
		"ErrorCode": int64(0), "Cancellable": false,
		"StartTime": dmtf(j.begun), "TimeSubmitted": dmtf(j.begun),
		"ElapsedTime":       fmt.Sprintf("%08d000000.000000:000", 0),
		"TimeBeforeRemoval": "00000000000500.000000:000",
		"JobStatus":         h.say("OK", "OK"),
		"OperationalStatus": []any{int64(2)},
		"HealthState":       int64(5),
	}
	if j.fail != nil {
		p["ErrorCode"] = int64(j.fail.code)
		p["ErrorDescription"] = j.fail.detail
		p["ErrorSummaryDescription"] = j.fail.detail
		p["JobStatus"] = j.fail.detail
		p["OperationalStatus"] = []any{int64(6), int64(32768)}
	}
	return p
}

// dmtf is a time as CIM writes it.
func dmtf(t time.Time) string {
	if t.IsZero() {
		return "16010101000000.000000-000"
	}
	return t.UTC().Format("20060102150405.000000") + "-000"
}

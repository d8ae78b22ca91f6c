package bootproof

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Report is what a proof showed. Its JSON form is stable: fields may be added,
// never changed.
type Report struct {
	Machine   dr.MachineID `json:"machine"`
	Point     dr.PointID   `json:"point"`
	PointTime time.Time    `json:"pointTime,omitzero"`
	Began     time.Time    `json:"began"`
	// Took is the time from the call of Boot to the last sign of life, or to
	// the failure.
	Took time.Duration `json:"took"`
	// Booted: all the evidence was seen. Why says what was not.
	Booted bool               `json:"booted"`
	Why    string             `json:"why,omitempty"`
	Seen   []backend.Evidence `json:"seen,omitempty"`
	// Screenshot is a PNG of the screen at the end.
	Screenshot []byte `json:"screenshot,omitempty"`
	// Console is the end of what the machine said at its serial port.
	Console string `json:"console,omitempty"`
	// BytesRead of the point: what the boot needed.
	BytesRead int64 `json:"bytesRead"`
}

// String is one line for a plan's report.
func (r Report) String() string {
	if !r.Booted {
		return fmt.Sprintf("machine %s, point %s: did not boot: %s", r.Machine, r.Point, r.Why)
	}
	var saw []string
	for _, e := range r.Seen {
		saw = append(saw, e.What)
	}
	return fmt.Sprintf("machine %s, point %s: booted in %s: %s", r.Machine, r.Point, r.Took.Round(time.Millisecond), strings.Join(saw, "; "))
}

// consoleKept is how much of the console a report keeps.
const consoleKept = 16 << 10

// Report is what Wait and Screenshot have shown until now.
func (m *Machine) Report() Report {
	console := m.Console()
	console = strings.ToValidUTF8(console[max(0, len(console)-consoleKept):], "")
	m.mu.Lock()
	defer m.mu.Unlock()
	r := Report{Machine: m.point.Machine.ID, Point: m.point.ID, PointTime: m.point.Time, Began: m.began, Took: m.took,
		Booted: m.why == nil && m.took > 0, Seen: m.seen, Screenshot: m.screen, Console: console, BytesRead: m.read.Load()}
	if m.why != nil {
		r.Why = m.why.Error()
	}
	return r
}

// screenLimit bounds a screenshot: a proof that is over waits for nothing else.
const screenLimit = 10 * time.Second

// Prove boots the point and waits for Options.Evidence, takes a screenshot and
// ends the machine. The report is there also with an error. Without evidence
// nothing can be proved: dr.ErrInvalid.
func Prove(ctx context.Context, img dr.Image, o Options) (r Report, err error) {
	p := img.Point()
	r = Report{Machine: p.Machine.ID, Point: p.ID, PointTime: p.Time, Began: time.Now()}
	defer func() {
		if err != nil && r.Why == "" {
			r.Why = err.Error()
		}
		r.Booted = err == nil
		if o.Report != nil {
			o.Report(r)
		}
	}()
	if len(o.Evidence) == 0 {
		return r, &dr.Error{Op: "prove by booting", Machine: p.Machine.ID, Point: p.ID,
			Err: fmt.Errorf("%w: no evidence is asked for", dr.ErrInvalid), Remedy: "say what a machine must show that has booted"}
	}
	limit := o.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s: %w", limit, context.DeadlineExceeded))
	defer cancel()
	m, err := Boot(ctx, img, o)
	if err != nil {
		return r, err
	}
	err = m.Wait(ctx, o.Evidence...)
	// Also of one that failed: the screen often says why. Not of one whose
	// QEMU has ended.
	if err == nil || !errors.Is(err, ErrEnded) {
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), screenLimit)
		_, shot := m.Screenshot(last)
		stop()
		if err == nil {
			err = shot
		}
	}
	r = m.Report()
	return r, errors.Join(err, m.Close())
}

// Proof is Prove for those who only want to know whether it boots.
func Proof(o Options) func(ctx context.Context, img dr.Image) error {
	return func(ctx context.Context, img dr.Image) error {
		_, err := Prove(ctx, img, o)
		return err
	}
}

// Scan is Prove as a cleanroom.Scan: a point is called clean if it boots and
// shows the evidence. One that doesn't is told with what was seen; what can't be
// said of the point, such as a missing QEMU, is an error.
func Scan(o Options) func(ctx context.Context, img dr.Image) (clean bool, findings []string, err error) {
	return func(ctx context.Context, img dr.Image) (bool, []string, error) {
		r, err := Prove(ctx, img, o)
		if err == nil {
			for _, e := range r.Seen {
				r.Why += e.What + "; "
			}
			return true, []string{"it boots: " + strings.TrimSuffix(r.Why, "; ")}, nil
		}
		for _, of := range []error{ErrNoBootDevice, ErrPanicked, ErrResetLoop, ErrPoweredOff, dr.ErrCorrupt} {
			if errors.Is(err, of) {
				return false, []string{"it does not boot: " + err.Error()}, nil
			}
		}
		if r.BytesRead > 0 && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return false, []string{"it does not show that it has booted: " + err.Error()}, nil
		}
		return false, nil, err
	}
}

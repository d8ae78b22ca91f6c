package recoveryplan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// DefaultHealthTimeout is how long a sign of health is waited for that doesn't
// say.
const DefaultHealthTimeout = 5 * time.Minute

// askEvery is the wait between two questions, and askFor how long one may take.
const (
	askEvery = time.Second
	askFor   = 10 * time.Second
)

type healthInput struct {
	Plan   string `json:"plan"`
	Flow   string `json:"flow"`
	Health Health `json:"health"`
}

func healthTimeout(h Health) time.Duration {
	if h.Timeout > 0 {
		return time.Duration(h.Timeout)
	}
	return DefaultHealthTimeout
}

// health asks until there is a sign, or the time is over; then the last answer
// is the error.
func (e *Env) health(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var in healthInput
	if err := read(c, &in); err != nil {
		return nil, err
	}
	if why := stopped(c); why != "" {
		return json.Marshal(ActionResult{NotRun: why})
	}
	if m := in.Health.Machine; m != "" {
		// A machine that failed was reported, and the plan goes on past it.
		var o Outcome
		if ok, err := failover.ReadResult(c, stageStart+"/"+string(m), &o); err != nil {
			return nil, err
		} else if !ok || o.State == Failed {
			return json.Marshal(ActionResult{NotRun: fmt.Sprintf("machine %s failed", m)})
		}
	}
	limit := healthTimeout(in.Health)
	inTime, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	for {
		seen, err := e.ask(inTime, c, in)
		if err == nil {
			return json.Marshal(ActionResult{Seen: seen, Took: time.Since(start)})
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if dr.IsPermanent(err) {
			return nil, fmt.Errorf("health %s: %w", in.Health.Name, err)
		}
		c.Beat(dr.Progress{What: "waiting for " + in.Health.Name + ": " + err.Error()})
		wait := time.NewTimer(askEvery)
		select {
		case <-wait.C:
		case <-inTime.Done():
			wait.Stop()
			return nil, dr.Permanent(fmt.Errorf("health %s: not within %s: %w", in.Health.Name, limit, err))
		}
	}
}

func (e *Env) ask(ctx context.Context, c *dr.Call, in healthInput) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	h := in.Health
	var m ContextMachine
	if h.Machine != "" {
		var err error
		if m, err = e.standing(ctx, h.Machine, in.Flow); err != nil {
			return "", err
		}
	}
	switch {
	case h.TCP != "":
		return e.dial(ctx, h.TCP, m)
	case h.HTTP != "":
		return e.get(ctx, h.HTTP, m)
	}
	f := e.Callbacks[h.Callback]
	if f == nil {
		return "", dr.Permanent(fmt.Errorf("%w: callback %q is not registered in this process", dr.ErrNotFound, h.Callback))
	}
	x := Context{Plan: in.Plan, Flow: in.Flow, Run: c.Run, Step: c.Step, Key: c.Key, Attempt: c.Attempt}
	if h.Machine != "" {
		x.Machines = []ContextMachine{m}
	}
	v, err := f(ctx, x)
	if err != nil {
		return "", fmt.Errorf("callback %s: %w", h.Callback, err)
	}
	if v == nil {
		return "callback " + h.Callback + " is content", nil
	}
	return fmt.Sprint(v), nil
}

// hostOf is the host to ask: the one given, or the machine's first address.
func hostOf(host string, m ContextMachine) (string, error) {
	switch {
	case host != "":
		return host, nil
	case m.At.Machine == "":
		return "", fmt.Errorf("machine %s does not run", m.Protection)
	case len(m.Addresses) == 0:
		return "", fmt.Errorf("the platform at %s tells no address of machine %s yet", m.At.Site, m.Protection)
	}
	return m.Addresses[0], nil
}

func (e *Env) dial(ctx context.Context, address string, m ContextMachine) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", dr.Permanent(err)
	}
	if host, err = hostOf(host, m); err != nil {
		return "", err
	}
	dial := e.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	at := net.JoinHostPort(host, port)
	conn, err := dial(ctx, "tcp", at)
	if err != nil {
		return "", err
	}
	return at + " accepts connections", conn.Close()
}

func (e *Env) get(ctx context.Context, address string, m ContextMachine) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", dr.Permanent(err)
	}
	host, err := hostOf(u.Hostname(), m)
	if err != nil {
		return "", err
	}
	if u.Hostname() == "" {
		if port := u.Port(); port != "" {
			u.Host = net.JoinHostPort(host, port)
		} else {
			u.Host = host
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", dr.Permanent(err)
	}
	client := e.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	_, copyErr := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if err := errors.Join(copyErr, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode >= 400 {
		return "", fmt.Errorf("%s answers %s", u.Redacted(), resp.Status)
	}
	return u.Redacted() + " answers " + resp.Status, nil
}

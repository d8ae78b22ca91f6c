package scheduler

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Bandwidth is a rule: what the copies from one site to another may move
// together. Without sites it holds for all, with one of them for all that leave
// or enter it.
type Bandwidth struct {
	From string `json:"from,omitempty"` // "": any
	To   string `json:"to,omitempty"`   // "": any
	// Rate in bytes a second outside of all windows; 0: unlimited.
	Rate int64 `json:"rate,omitempty"`
	// Windows have rates of their own; the first that fits counts.
	Windows []Window `json:"windows,omitempty"`
	// Zone is whose clock the windows are told by; nil: UTC.
	Zone *time.Location `json:"-"`
}

// Window is a time of the day on some days of the week, by the clock on the
// wall: on the days that clocks change it is as long as they say.
type Window struct {
	Days []time.Weekday `json:"days,omitempty"` // none: every day
	// Begin and End are whole minutes since midnight; End is not part of it.
	// An End at or before Begin is of the next day.
	Begin time.Duration `json:"begin"`
	End   time.Duration `json:"end"`
	// Rate in bytes a second; 0: unlimited.
	Rate int64 `json:"rate,omitempty"`
}

// Workdays are Monday to Friday.
func Workdays() []time.Weekday {
	return []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
}

const day = 24 * time.Hour

// burst is what may pass at once: one request of a copy.
const burst = 1 << 20

func (b Bandwidth) validate() error {
	bad := func(why string, n any) error {
		return fmt.Errorf("%w: scheduler: bandwidth from %q to %q: %s %v", dr.ErrInvalid, b.From, b.To, why, n)
	}
	if b.Rate < 0 {
		return bad("rate", b.Rate)
	}
	for _, w := range b.Windows {
		switch {
		case w.Rate < 0:
			return bad("rate", w.Rate)
		case w.Begin < 0 || w.Begin >= day || w.End < 0 || w.End > day:
			return bad("a window beyond the day:", [2]time.Duration{w.Begin, w.End})
		case w.Begin%time.Minute != 0 || w.End%time.Minute != 0:
			return bad("a window of part minutes:", [2]time.Duration{w.Begin, w.End})
		}
	}
	return nil
}

// At returns the bytes a second at t; 0: unlimited.
func (b Bandwidth) At(t time.Time) int64 {
	if b.Zone != nil {
		t = t.In(b.Zone)
	} else {
		t = t.UTC()
	}
	clock := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	for _, w := range b.Windows {
		today, yesterday := w.on(t.Weekday()), w.on((t.Weekday()+6)%7)
		if w.Begin < w.End {
			if today && clock >= w.Begin && clock < w.End {
				return w.Rate
			}
			continue
		}
		if today && clock >= w.Begin || yesterday && clock < w.End {
			return w.Rate
		}
	}
	return b.Rate
}

func (w Window) on(d time.Weekday) bool {
	for _, x := range w.Days {
		if x == d {
			return true
		}
	}
	return len(w.Days) == 0
}

// pipe is a rule with the limiter that all its copies share.
type pipe struct {
	Bandwidth
	sites   []string // that it names
	limiter *rate.Limiter
}

func newPipes(rules []Bandwidth) []*pipe {
	var all []*pipe
	for _, b := range rules {
		p := &pipe{Bandwidth: b, limiter: rate.NewLimiter(rate.Inf, burst)}
		for _, s := range []string{b.From, b.To} {
			if s != "" {
				p.sites = append(p.sites, s)
			}
		}
		all = append(all, p)
	}
	return all
}

// set follows the windows; copies under way feel it at their next request.
func (p *pipe) set(now time.Time, share func(sites ...string) float64) {
	limit := rate.Inf
	if n := p.At(now); n > 0 {
		limit = rate.Limit(n)
		if share != nil {
			limit = max(1, limit*rate.Limit(share(p.sites...)))
		}
	}
	if p.limiter.Limit() != limit {
		p.limiter.SetLimitAt(now, limit)
	}
}

func (p *pipe) fits(from, to string) bool {
	return (p.From == "" || p.From == from) && (p.To == "" || p.To == to)
}

// String names the rule: "berlin to bonn", "any to bonn", "all".
func (b Bandwidth) String() string {
	if b.From == "" && b.To == "" {
		return "all"
	}
	name := func(s string) string {
		if s == "" {
			return "any"
		}
		return s
	}
	return strings.Join([]string{name(b.From), name(b.To)}, " to ")
}

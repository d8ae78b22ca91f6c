package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Options are the knobs of a Scheduler. The zero value runs 64 cycles at a
// time by the preset policies.
type Options struct {
	// Policies resolves the names in the records; nil: the presets.
	Policies replication.Policies
	Limits   Limits
	// Host tells the host that a machine runs on, for Limits.PerHost; "": not
	// known, then only its site's limit counts. It is called for every
	// protection at every listing, and must not block. nil: never known.
	Host func(dr.Protection) string
	// Bandwidth bounds what the copies move; a copy obeys every rule that fits
	// its sites. None: unlimited.
	Bandwidth []Bandwidth
	Backoff   Backoff
	// Silence is how long a cycle may go without progress until it is
	// stopped, which counts as a failure; 0: 30 minutes. It must be longer
	// than a platform takes to capture, and than a link takes for the burst
	// of one request. One that doesn't end within Grace, 0: a minute, keeps its
	// machine from being tried again but gives up its place to others. A prune
	// or a listing is waited for as long when Run ends.
	Silence, Grace time.Duration
	// Ramp spreads what is overdue when the process starts, or a record
	// appears; 0: a minute.
	Ramp time.Duration
	// List is how often the records are listed; 0: a minute. Poke is faster.
	List time.Duration
	// Retain is how often a protection's points are expired, after a cycle; 0:
	// an hour. Retention costs two writes of the record.
	Retain time.Duration
	// Prune is how often each store that can is pruned, one at a time; 0: six
	// hours, negative: never.
	Prune time.Duration
	// Share, if set, tells what part of what sites bear is this process's, from 0
	// to 1: PerSite, Sites and PerHost are asked for their one site, Bandwidth for
	// those that it names. Of each limit a process has one place at least. It is
	// asked often, and must be quick. nil: all. Total is always the process's own.
	Share func(sites ...string) float64
	// Only, if set, picks the protections that are this scheduler's.
	Only func(dr.Protection) bool
	// Within, if set, is asked when a cycle of the protection begins, and returns
	// the context under which it runs, and its retention and what it notes of a
	// failure after it; done is called when all of that has ended. That context's
	// end stops the cycle, which doesn't count as failed; an error keeps it from
	// beginning, and doesn't either. It must not block. With Only it is how shards
	// of a fleet come and go: Only is asked at listings, Within at each cycle.
	Within func(ctx context.Context, id dr.ProtectionID) (within context.Context, done func(), err error)
	// Pruning, if set, is Within's like for pruning a site's store.
	Pruning func(ctx context.Context, site string) (within context.Context, done func(), err error)
	// Observe, if set, is told what happens, by one goroutine at a time and in
	// order. It must not block: cycles wait for it.
	Observe func(Event)
	// Replicate runs one cycle; nil: Env.KeepGroup with these policies. A
	// cycle that must not begin now is dr.ErrNotAllowed or dr.ErrBusy, and
	// doesn't count as failed. It must save the new point in the record.
	Replicate func(ctx context.Context, id dr.ProtectionID, o replication.KeepOptions) (replication.Report, error)
	// Expire runs retention; nil: Env.ExpireBy with these policies.
	Expire func(ctx context.Context, id dr.ProtectionID) ([]dr.PointID, error)
}

// Limits say how many cycles run at a time. A cycle counts at both its sites.
type Limits struct {
	Total   int            `json:"total,omitempty"`   // 0: 64
	PerSite int            `json:"perSite,omitempty"` // 0: no limit but Total
	Sites   map[string]int `json:"sites,omitempty"`   // by name, in place of PerSite
	PerHost int            `json:"perHost,omitempty"` // 0: no limit
}

func (l Limits) site(name string) int {
	if n, ok := l.Sites[name]; ok {
		return n
	}
	return l.PerSite
}

// Backoff says when a failing machine is tried again: First after the first
// failure, twice as long after each more, at most Cap; spread by a quarter
// either way. 0: 30 seconds, and 30 minutes.
type Backoff struct {
	First, Cap time.Duration
}

// after returns the delay after n failures in a row.
func (b Backoff) after(id dr.ProtectionID, n int, permanent bool) time.Duration {
	d := b.First
	for i := 1; i < n && d < b.Cap; i++ {
		d *= 2
	}
	if d > b.Cap || permanent {
		d = b.Cap
	}
	return d*3/4 + time.Duration(float64(d)/2*spread(id, uint64(n)))
}

// most is the longest delay.
func (b Backoff) most() time.Duration { return b.Cap * 5 / 4 }

func (o Options) filled() Options {
	or := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	or(&o.Silence, 30*time.Minute)
	or(&o.Grace, time.Minute)
	or(&o.Ramp, time.Minute)
	or(&o.List, time.Minute)
	or(&o.Retain, time.Hour)
	or(&o.Prune, 6*time.Hour)
	or(&o.Backoff.First, 30*time.Second)
	or(&o.Backoff.Cap, 30*time.Minute)
	if o.Limits.Total == 0 {
		o.Limits.Total = 64
	}
	return o
}

func (o Options) validate() error {
	for what, d := range map[string]time.Duration{"Silence": o.Silence, "Grace": o.Grace, "Ramp": o.Ramp, "List": o.List, "Retain": o.Retain, "Backoff.First": o.Backoff.First, "Backoff.Cap": o.Backoff.Cap} {
		if d < 0 {
			return fmt.Errorf("%w: scheduler: %s is %v", dr.ErrInvalid, what, d)
		}
	}
	if o.Limits.Total < 0 || o.Limits.PerSite < 0 || o.Limits.PerHost < 0 {
		return fmt.Errorf("%w: scheduler: limits below 0", dr.ErrInvalid)
	}
	for site, n := range o.Limits.Sites {
		if n < 1 {
			return fmt.Errorf("%w: scheduler: site %s: limit %d; pause it instead", dr.ErrInvalid, site, n)
		}
	}
	for _, b := range o.Bandwidth {
		if err := b.validate(); err != nil {
			return err
		}
	}
	return o.Policies.Validate()
}

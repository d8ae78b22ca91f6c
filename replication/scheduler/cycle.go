package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// run is a cycle under way.
type run struct {
	stand
	entry   *entry
	id      dr.ProtectionID
	began   time.Time
	waited  time.Duration
	upkeep  dr.Upkeep // as it was
	expire  bool
	stop    context.CancelCauseFunc
	lives   time.Time    // began by a clock that nobody sets: what is silent is told by it
	told    time.Time    // when it was told to stop for its silence, by the same
	givenUp bool         // its places are others'
	beat    atomic.Int64 // the last sign of life, in nanoseconds since lives

	mu    sync.Mutex
	disks []dr.Progress
}

// result is how a run ended.
type result struct {
	run     *run
	at      time.Time
	report  replication.Report
	err     error
	stopped bool      // err says that it should not have run now
	upkeep  dr.Upkeep // after a failure
	expired []dr.PointID
	expErr  error
}

// recordGrace is how long saving a failure may take when the scheduler ends.
const recordGrace = 10 * time.Second

func (s *Scheduler) begin(ctx context.Context, e *entry, now time.Time) {
	ctx, stop := context.WithCancelCause(ctx)
	r := &run{stand: stand{e.from, e.to, e.host, e.heavy()}, entry: e, id: e.id, began: now, lives: time.Now(), waited: max(0, now.Sub(e.due)), upkeep: e.upkeep, stop: stop}
	if e.upkeep.Failures == 0 && !e.soon && e.period > 0 {
		missed := uint64(r.waited / e.period)
		e.hits.Missed += missed
		s.totals.Missed += missed
	}
	// A moment of retention has come since the last cycle: told by its time,
	// so that a restart forgets none.
	r.expire = e.base(now).IsZero() || !slot(e.id, s.o.Retain, e.base(now)).After(now) || e.owes
	e.run, e.begun, e.soon = r, now, false
	s.runs[r] = true
	s.queue.count(r.stand, 1)
	s.tell(Event{Kind: Started, RPO: e.age(now), Waited: r.waited, Failures: e.upkeep.Failures}, e, now)
	var limits []*rate.Limiter
	for _, p := range s.pipes {
		if p.fits(e.from, e.to) {
			limits = append(limits, p.limiter)
		}
	}
	go func() {
		defer stop(nil)
		res := s.attempt(ctx, r, limits)
		select {
		case s.ended <- res:
		case <-s.over:
		}
	}()
}

// attempt runs the cycle, and what belongs to its end.
func (s *Scheduler) attempt(ctx context.Context, r *run, limits []*rate.Limiter) result {
	res := result{run: r}
	if s.o.Within != nil {
		within, done, err := s.o.Within(ctx, r.id)
		if err != nil {
			res.at, res.err, res.stopped = s.env.Time(), err, true
			return res
		}
		defer done()
		ctx = within
	}
	res.report, res.err = s.cycle(ctx, r.id, replication.KeepOptions{Limits: limits, Progress: r.progress})
	res.at = s.env.Time()
	cause := context.Cause(ctx)
	switch {
	case res.err == nil:
		if r.expire && ctx.Err() == nil {
			res.expired, res.expErr = s.expire(ctx, r.id)
		}
		return res
	case errors.Is(cause, errSilent):
		res.err = fmt.Errorf("protection %s: %w: %w", r.id, errSilent, res.err)
	case cause != nil, errors.Is(res.err, dr.ErrBusy), errors.Is(res.err, dr.ErrNotAllowed):
		res.stopped = true
		return res
	}
	u := r.upkeep
	u.Failures++
	u.Tried, u.Permanent, u.Err = r.began, dr.IsPermanent(res.err), shorten(res.err.Error())
	u.Until = res.at.Add(s.o.Backoff.after(r.id, u.Failures, u.Permanent))
	res.upkeep = u
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordGrace)
	defer cancel()
	if _, err := s.env.Amend(ctx, r.id, func(p *dr.Protection) error { p.Upkeep = u; return nil }); err != nil {
		// What a restart would not know this process does.
		s.env.Logger().WarnContext(ctx, "a failed cycle is not recorded", "protection", r.id, "error", err)
	}
	return res
}

// shorten keeps records small.
func shorten(s string) string {
	const most = 1000
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

func (r *run) progress(p dr.Progress) {
	r.beat.Store(int64(time.Since(r.lives)))
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.disks {
		if r.disks[i].Disk == p.Disk {
			r.disks[i] = p
			return
		}
	}
	r.disks = append(r.disks, p)
}

// settle takes a result in.
func (s *Scheduler) settle(res result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e, now := res.run, res.run.entry, res.at
	delete(s.runs, r)
	if !r.givenUp {
		s.queue.count(r.stand, -1)
	}
	e.run, e.touched = nil, now
	ev := Event{RPO: e.age(now), Waited: r.waited, Took: now.Sub(r.began), Report: res.report, Err: res.err}
	switch {
	case res.err == nil:
		ev.Kind = Ended
		e.hits.Cycles++
		s.totals.Cycles++
		e.took, e.upkeep, e.held = ev.Took, dr.Upkeep{}, time.Time{}
		if e.from == r.from && e.to == r.to {
			s.lates.drop(e) // its order changes with its point
			e.pointed(res.report.Point.Time, now)
		}
	case res.stopped:
		ev.Kind = Stopped
		// Looked at again, or asked for, before its next moment has come.
		e.held = now.Add(min(e.period, s.o.List))
	default:
		ev.Kind, ev.Failures, ev.Until = Failed, res.upkeep.Failures, res.upkeep.Until
		e.hits.Failures++
		s.totals.Failures++
		e.upkeep = res.upkeep
	}
	s.tell(ev, e, now)
	if r.expire && res.err == nil {
		e.owes = res.expErr != nil
		if len(res.expired) > 0 || res.expErr != nil {
			s.tell(Event{Kind: Expired, Points: res.expired, Err: res.expErr}, e, now)
		}
	}
	if e.gone {
		return
	}
	s.arrange(e, now)
}

// patience is how often silences are looked for.
func (s *Scheduler) patience() time.Duration {
	return max(time.Millisecond, min(s.o.Silence, s.o.Grace)/4)
}

// watch stops cycles that are silent, and gives up those that don't stop.
func (s *Scheduler) watch(now time.Time) {
	if now.Sub(s.checked) < s.patience() {
		return
	}
	s.checked = now
	for r := range s.runs {
		switch silent := time.Since(r.lives) - time.Duration(r.beat.Load()); {
		case r.givenUp:
		case !r.told.IsZero():
			if time.Since(r.told) >= s.o.Grace {
				r.givenUp = true
				s.queue.count(r.stand, -1)
			}
		case silent >= s.o.Silence:
			s.hang(r, now)
		case !r.heavy && now.Sub(r.began) > r.entry.period:
			// It has turned out to be long: others like it wait for it.
			s.queue.count(r.stand, -1)
			r.heavy = true
			s.queue.count(r.stand, 1)
		}
	}
}

func (s *Scheduler) hang(r *run, now time.Time) {
	r.told = time.Now()
	r.stop(errSilent)
	s.tell(Event{Kind: Hung, RPO: r.entry.age(now), Took: now.Sub(r.began)}, r.entry, now)
}

package scheduler

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// look is what looking at the records has found.
type look struct {
	began time.Time
	all   bool // every record; who isn't there is gone
	views []view
	gone  []dr.ProtectionID
	asked map[dr.ProtectionID]bool
	err   error
}

// Poke has records looked at now: with IDs these, whose back-off ends and whose
// cycles begin as soon as there is a place; without, all. Call it when a
// protection was added, removed, resumed, or let go of by a flow, or when what
// made it fail is mended; what isn't told of is noticed at the next listing.
func (s *Scheduler) Poke(ids ...dr.ProtectionID) {
	s.mu.Lock()
	for _, id := range ids {
		s.asked[id] = true
	}
	s.askAll = s.askAll || len(ids) == 0
	s.mu.Unlock()
	s.nudge()
}

// look begins to look at the records if it is time.
func (s *Scheduler) look(ctx context.Context, now time.Time) {
	if s.looking {
		return
	}
	l := look{began: now, asked: s.asked}
	switch {
	case len(s.asked) > 0:
		s.asked = map[dr.ProtectionID]bool{}
	case s.askAll || !now.Before(s.nextList):
		l.all, s.askAll, s.nextList = true, false, now.Add(s.o.List)
	default:
		return
	}
	s.looking = true
	go func() {
		s.read(ctx, &l)
		select {
		case s.looked <- l:
		case <-s.over:
		}
	}()
}

func (s *Scheduler) read(ctx context.Context, l *look) {
	take := func(p dr.Protection) {
		if s.o.Only == nil || s.o.Only(p) {
			l.views = append(l.views, s.view(p))
		} else if !l.all {
			l.gone = append(l.gone, p.ID)
		}
	}
	if !l.all {
		for id := range l.asked {
			p, err := s.env.Records.Load(ctx, id)
			switch {
			case err == nil:
				take(p)
			case errors.Is(err, dr.ErrNotFound):
				l.gone = append(l.gone, id)
			default:
				l.err = err
			}
		}
		return
	}
	for p, err := range s.list.Protections(ctx) {
		if err != nil {
			l.err = err
			return
		}
		take(p)
	}
}

// see takes in what was found.
func (s *Scheduler) see(l look) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.env.Time()
	s.looking = false
	if l.err != nil {
		if s.listErr == nil {
			s.tell(Event{Kind: Listing, Err: l.err}, nil, now)
		}
		s.listErr = l.err
	} else if l.all {
		s.listed, s.listErr = l.began, nil
	}
	var there map[dr.ProtectionID]bool
	if l.all {
		there = make(map[dr.ProtectionID]bool, len(l.views))
	}
	for _, v := range l.views {
		if l.all {
			there[v.id] = true
		}
		s.meet(v, l, now)
	}
	if l.all && l.err == nil {
		for id := range s.entries {
			if !there[id] {
				l.gone = append(l.gone, id)
			}
		}
	}
	slices.Sort(l.gone)
	for _, id := range l.gone {
		if e := s.entries[id]; e != nil {
			e.gone = true
			s.arrange(e, now)
			delete(s.entries, id)
			if e.run != nil {
				e.run.stop(errPaused)
			}
		}
	}
}

// meet takes one record in.
func (s *Scheduler) meet(v view, l look, now time.Time) {
	e := s.entries[v.id]
	asked := !l.all && l.asked[v.id]
	switch {
	case e == nil:
		e = newEntry(v, now)
		s.entries[v.id] = e
	case e.run != nil || e.touched.After(l.began):
		// What was read may be older than what is known; the end of the cycle,
		// or the next listing, tells.
		e.soon = e.soon || asked
		if e.run == nil && asked {
			e.upkeep.Until, e.held = now, time.Time{}
			s.arrange(e, now)
		}
		return
	case e.view == v && !asked:
		return
	default:
		s.lates.drop(e) // before what they are ordered by changes
		s.queue.drop(e)
		s.waiting.drop(e)
		if e.from != v.from || e.to != v.to || !e.expected && v.expected {
			// Another direction: what was known of the former one is over.
			e.begun, e.took, e.seen = time.Time{}, 0, now
		}
		if v.last.After(e.last) && e.from == v.from && e.to == v.to && e.expected {
			e.pointed(v.last, now) // somebody else has made a point
		}
		e.view = v
	}
	if asked {
		e.soon, e.held = true, time.Time{}
	}
	s.arrange(e, now)
}

package scheduler

import "time"

// Pause says that cycles from or to a site don't begin.
type Pause struct {
	Why   string
	Until time.Time // zero: until ResumeSite
}

// AllSites in place of a site's name stands for all.
const AllSites = ""

// PauseSite keeps cycles from and to the site from beginning, and stops those
// under way, without counting them as failures; they are gone on with later
// where both sides can. It returns at once: [Status] tells when none is left.
//
// It is this process's, and is gone when that ends: a pause that must outlast
// it is given again before Run. One protection is paused in its record, by
// replication.Env.Pause.
func (s *Scheduler) PauseSite(site string, p Pause) {
	s.mu.Lock()
	s.pauses[site] = p
	for r := range s.runs {
		if site == AllSites || r.from == site || r.to == site {
			r.stop(errPaused)
		}
	}
	s.mu.Unlock()
	s.nudge()
}

// ResumeSite ends a pause of that site; pausing all and pausing one are told
// apart.
func (s *Scheduler) ResumeSite(site string) {
	s.mu.Lock()
	delete(s.pauses, site)
	for _, e := range s.entries {
		// Stopped by the pause: they need not wait longer.
		if !e.held.IsZero() && e.run == nil && (site == AllSites || e.from == site || e.to == site) {
			e.held = time.Time{}
			s.arrange(e, s.env.Time())
		}
	}
	s.mu.Unlock()
	s.nudge()
}

// over reports whether the pause has ended by itself.
func (p Pause) over(now time.Time) bool { return !p.Until.IsZero() && !now.Before(p.Until) }

// open reports whether cycles of a site may begin.
func (s *Scheduler) open(site string) bool {
	_, all := s.pauses[AllSites]
	_, one := s.pauses[site]
	return !all && !one
}

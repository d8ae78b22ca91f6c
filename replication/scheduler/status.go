package scheduler

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Totals count since the process began, or since it first saw the protection.
type Totals struct {
	Cycles   uint64 `json:"cycles"`
	Failures uint64 `json:"failures"`
	// Missed are cycles that could not begin before the next one was due.
	Missed uint64 `json:"missed"`
	// WorstRPO is the greatest age that the newest point has had.
	WorstRPO time.Duration `json:"worstRPO"`
	// Late is how long, in all, the newest point was older than the policy's
	// RPO. Of the whole scheduler it is the sum over its protections.
	Late time.Duration `json:"late"`
}

// Status is a snapshot for consoles.
type Status struct {
	Time    time.Time        `json:"time"`
	Listed  time.Time        `json:"listed,omitzero"`   // when the records were last listed whole
	ListErr string           `json:"listErr,omitempty"` // why not since
	Running int              `json:"running"`
	Ready   int              `json:"ready"`   // due, and waiting for a place
	Late    int              `json:"late"`    // older than their RPO
	Failing int              `json:"failing"` // whose last cycle failed
	Oldest  time.Duration    `json:"oldest"`  // the greatest RPO now, of protections that expect points
	Pauses  map[string]Pause `json:"pauses,omitempty"`
	Pruning string           `json:"pruning,omitempty"` // the site whose store is being pruned
	// Rates are the bandwidth rules' bytes a second now; 0: unlimited.
	Rates       map[string]int64 `json:"rates,omitempty"`
	Totals      Totals           `json:"totals"`
	Protections []Protection     `json:"protections"` // by ID
}

// Protection is one protection as the scheduler sees it.
type Protection struct {
	ID      dr.ProtectionID `json:"id"`
	Name    string          `json:"name,omitempty"`
	Machine dr.MachineID    `json:"machine"`
	From    string          `json:"from"`
	To      string          `json:"to"`
	Host    string          `json:"host,omitempty"`
	// Expected says that its state wants points: RPO counts.
	Expected bool          `json:"expected"`
	Last     time.Time     `json:"last,omitzero"` // the moment of the newest point
	RPO      time.Duration `json:"rpo,omitempty"` // its age; without one, since when it is known
	Late     bool          `json:"late,omitempty"`
	// Why no cycle may begin; "" if one may.
	Why string `json:"why,omitempty"`
	// Next is when the next cycle is due; zero while one runs or none may
	// begin. In the past: it waits for a place.
	Next    time.Time     `json:"next,omitzero"`
	Running bool          `json:"running,omitempty"`
	Hung    bool          `json:"hung,omitempty"` // told to stop, and has not yet
	Began   time.Time     `json:"began,omitzero"` // of the cycle under way
	Disks   []dr.Progress `json:"disks,omitempty"`
	// Upkeep tells of the failures since the last good cycle.
	Upkeep dr.Upkeep `json:"upkeep,omitzero"`
	Totals Totals    `json:"totals"`
}

// Status returns where everything is now.
func (s *Scheduler) Status() Status {
	s.mu.Lock()
	now := s.env.Time()
	st := Status{Time: now, Listed: s.listed, Running: len(s.runs), Ready: s.queue.ready, Pruning: s.pruning, Totals: s.totals,
		Pauses: maps.Clone(s.pauses), Rates: map[string]int64{}, Protections: make([]Protection, 0, len(s.entries))}
	if s.listErr != nil {
		st.ListErr = s.listErr.Error()
	}
	for _, p := range s.pipes {
		st.Rates[p.String()] = p.At(now)
	}
	for _, e := range s.entries {
		p := s.protection(e, now)
		st.Protections = append(st.Protections, p)
		if p.Late {
			st.Late++
		}
		if p.Upkeep.Failures > 0 {
			st.Failing++
		}
		if p.Expected {
			st.Oldest = max(st.Oldest, p.RPO)
		}
		st.Totals.WorstRPO = max(st.Totals.WorstRPO, p.Totals.WorstRPO)
		st.Totals.Late += p.Totals.Late
	}
	s.mu.Unlock()
	slices.SortFunc(st.Protections, func(a, b Protection) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return st
}

// Protection returns one protection's; false if the scheduler doesn't know it.
func (s *Scheduler) Protection(id dr.ProtectionID) (Protection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return Protection{}, false
	}
	return s.protection(e, s.env.Time()), true
}

func (s *Scheduler) protection(e *entry, now time.Time) Protection {
	p := Protection{ID: e.id, Name: e.name, Machine: e.machine, From: e.from, To: e.to, Host: e.host,
		Expected: e.expected, Last: e.last, Why: e.why, Upkeep: e.upkeep, Totals: e.hits}
	if e.expected {
		p.RPO = e.age(now)
		lateFor := e.lateFor(now)
		p.Late = lateFor > 0
		p.Totals.Late += lateFor
		p.Totals.WorstRPO = max(p.Totals.WorstRPO, p.RPO)
	}
	if r := e.run; r != nil {
		p.Running, p.Hung, p.Began = true, !r.told.IsZero(), r.began
		r.mu.Lock()
		p.Disks = slices.Clone(r.disks)
		r.mu.Unlock()
		return p
	}
	if e.why == "" {
		p.Next = e.due
		for _, site := range []string{AllSites, e.from, e.to} {
			if pause, ok := s.pauses[site]; ok && !pause.over(now) {
				p.Why, p.Next = "replication of the site is paused", time.Time{}
				if pause.Why != "" {
					p.Why += ": " + pause.Why
				}
			}
		}
	}
	return p
}

// Glance is what of a protection's status costs nothing to tell.
type Glance struct {
	ID       dr.ProtectionID
	Expected bool
	Late     bool
	Running  bool
	Failures int           // in a row
	RPO      time.Duration // of one that expects points
}

// Glances calls each with every protection, in no order, while the scheduler
// waits: each must be quick, and must not call the scheduler.
func (s *Scheduler) Glances(each func(Glance)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.env.Time()
	for _, e := range s.entries {
		g := Glance{ID: e.id, Expected: e.expected, Running: e.run != nil, Failures: e.upkeep.Failures}
		if e.expected {
			g.RPO, g.Late = e.age(now), e.lateFor(now) > 0
		}
		each(g)
	}
}

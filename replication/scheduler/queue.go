package scheduler

import "time"

// queue holds the entries that are ready, and says which goes next. Entries of
// one host, kind and interval stand in a lane, ordered by urgency; lanes of the
// same sites, kind and interval are a class. Choosing looks at the first of
// each class only, and there are few.
type queue struct {
	limits  Limits
	classes map[classKey]*class
	lanes   map[laneKey]*lane
	hosts   map[hostKey]*host
	total   places
	sites   map[string]*places
	ready   int
	share   func(sites ...string) float64 // nil: all
	shares  map[string]float64            // of each site, when it was last asked
}

// divide asks for this process's share of each site, and reports whether that has
// changed.
func (q *queue) divide() (changed bool) {
	if q.share == nil {
		return false
	}
	for site := range q.sites {
		if part, known := q.shares[site]; !known || part != q.share(site) {
			q.shares[site] = q.share(site)
			changed = true
		}
	}
	if changed && q.limits.PerHost > 0 {
		for _, l := range q.lanes {
			q.refresh(l)
		}
	}
	return changed
}

// part is this process's of a limit at a site.
func (q *queue) part(limit int, site string) int {
	if q.share == nil || limit == 0 {
		return limit
	}
	part, known := q.shares[site]
	if !known { // a new site's first machines may all be asked for before it is divided again
		q.site(site)
		part = q.share(site)
		q.shares[site] = part
	}
	return max(1, int(float64(limit)*part+1e-9))
}

// places counts cycles under way against a limit.
type places struct{ all, heavy int }

// room reports whether one more may begin; limit 0 is none.
func (p places) room(limit int, heavy bool) bool {
	return limit == 0 || p.all < limit && (!heavy || p.heavy < max(1, limit/2))
}

func (p *places) count(n int, heavy bool) {
	p.all += n
	if heavy {
		p.heavy += n
	}
}

type classKey struct {
	from, to string
	period   time.Duration
	heavy    bool
}

type class struct {
	classKey
	lanes heap[*lane] // those that have entries, and room on their host
}

type hostKey struct{ site, name string }

type host struct {
	places
	lanes []*lane
}

type laneKey struct {
	classKey
	host string
}

type lane struct {
	class *class
	host  *host
	ready heap[*entry]
	at    int
}

func newQueue(l Limits) *queue {
	return &queue{limits: l, classes: map[classKey]*class{}, lanes: map[laneKey]*lane{}, hosts: map[hostKey]*host{}, sites: map[string]*places{}, shares: map[string]float64{}}
}

func (q *queue) host(site, name string) *host {
	k := hostKey{site, name}
	h := q.hosts[k]
	if h == nil {
		h = &host{}
		q.hosts[k] = h
	}
	return h
}

func (q *queue) site(name string) *places {
	p := q.sites[name]
	if p == nil {
		p = &places{}
		q.sites[name] = p
	}
	return p
}

func (q *queue) laneOf(e *entry) *lane {
	k := laneKey{classKey{e.from, e.to, e.period, e.heavy()}, e.host}
	if l := q.lanes[k]; l != nil {
		return l
	}
	c := q.classes[k.classKey]
	if c == nil {
		c = &class{classKey: k.classKey}
		c.lanes.less = func(a, b *lane) bool { return a.ready.top().key.Before(b.ready.top().key) }
		c.lanes.at = func(l *lane) *int { return &l.at }
		q.classes[k.classKey] = c
	}
	l := &lane{class: c, host: q.host(e.from, e.host), at: -1}
	l.ready.less = func(a, b *entry) bool { return a.key.Before(b.key) || a.key.Equal(b.key) && a.id < b.id }
	l.ready.at = func(e *entry) *int { return &e.readyAt }
	l.host.lanes = append(l.host.lanes, l)
	q.lanes[k] = l
	return l
}

// put makes an entry ready.
func (q *queue) put(e *entry) {
	q.drop(e)
	e.key, e.lane = e.urgent(), q.laneOf(e)
	e.lane.ready.put(e)
	q.ready++
	q.refresh(e.lane)
}

// drop takes an entry out, if it is ready.
func (q *queue) drop(e *entry) {
	if e.lane == nil {
		return
	}
	l := e.lane
	if l.ready.len() == 1 {
		l.class.lanes.drop(l) // while it has a first to be compared by
	}
	l.ready.drop(e)
	e.lane = nil
	q.ready--
	q.refresh(l)
}

// refresh puts a lane where it belongs after its first or its host changed.
func (q *queue) refresh(l *lane) {
	if l.ready.len() > 0 && (q.limits.PerHost == 0 || l.host == q.hosts[hostKey{l.class.from, ""}] || l.host.room(q.part(q.limits.PerHost, l.class.from), l.class.heavy)) {
		l.class.lanes.put(l)
		return
	}
	l.class.lanes.drop(l)
}

// take returns the ready entry that is latest, measured in its interval, of
// those that have room and whose sites are open; nil if there is none.
func (q *queue) take(now time.Time, open func(site string) bool) *entry {
	var best *entry
	var most float64
	for _, c := range q.classes {
		if c.lanes.len() == 0 || !q.total.room(q.limits.Total, c.heavy) || !open(c.from) || !open(c.to) ||
			!q.site(c.from).room(q.part(q.limits.site(c.from), c.from), c.heavy) || !q.site(c.to).room(q.part(q.limits.site(c.to), c.to), c.heavy) {
			continue
		}
		e := c.lanes.top().ready.top()
		by := float64(now.Sub(e.key)) / float64(c.period)
		if best == nil || by > most || by == most && e.id < best.id {
			best, most = e, by
		}
	}
	if best != nil {
		q.drop(best)
	}
	return best
}

// stand is what a cycle under way occupies.
type stand struct {
	from, to, host string
	heavy          bool
}

// count takes (1) or gives back (-1) the places of a cycle.
func (q *queue) count(st stand, n int) {
	q.total.count(n, st.heavy)
	q.site(st.from).count(n, st.heavy)
	if st.to != st.from {
		q.site(st.to).count(n, st.heavy)
	}
	h := q.host(st.from, st.host)
	h.count(n, st.heavy)
	if st.host == "" || q.limits.PerHost == 0 {
		return
	}
	for _, l := range h.lanes {
		q.refresh(l)
	}
}

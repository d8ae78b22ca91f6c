//go:build linux

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// age is what the records say of all newest points at one moment.
type age struct {
	machines int
	oldest   time.Duration
	late     int // older than the policy's RPO
}

// age reads it from the database: a worker that lost a machine couldn't tell.
func (w *world) age() (a age) {
	w.t.Helper()
	said := w.db.Query(fmt.Sprintf(`SELECT count(*), coalesce(max(a), 0), count(*) FILTER (WHERE a > %f)
		FROM (SELECT extract(epoch FROM clock_timestamp() - (body->'last'->>'time')::timestamptz) AS a FROM lifeboat.protection WHERE body->>'state' = 'protected') x`, w.o.rpo.Seconds()))
	f := strings.Split(said, "|")
	if len(f) != 3 {
		w.t.Fatalf("the records' ages: %q", said)
	}
	seconds, err := strconv.ParseFloat(f[1], 64)
	must(w.t, err)
	a.oldest = time.Duration(seconds * float64(time.Second))
	a.machines, _ = strconv.Atoi(f[0])
	a.late, _ = strconv.Atoi(f[2])
	return a
}

// watch is what replication has shown so far.
type watch struct {
	worst  time.Duration
	late   time.Duration // machines' lateness, summed up
	looked time.Time
	totals map[string]scheduler.Totals // by worker, of the killed ones what they said last
}

// look adds a moment.
func (w *world) look(v *watch) age {
	w.t.Helper()
	now, a := time.Now(), w.age()
	v.worst = max(v.worst, a.oldest)
	if !v.looked.IsZero() {
		v.late += time.Duration(a.late) * now.Sub(v.looked)
	}
	v.looked = now
	return a
}

// now is look, if the last one is a while ago.
func (w *world) now(v *watch) {
	w.t.Helper()
	if time.Since(v.looked) > interval {
		w.look(v)
	}
}

// interval is how often the records' ages are read, and glance how often the
// shards.
const (
	interval = 5 * time.Second
	glance   = 200 * time.Millisecond
)

// sum asks the workers what they have done.
func (w *world) sum(v *watch) (all scheduler.Totals, running, ready int) {
	for _, p := range w.lives() {
		var s struct{ Replication *scheduler.Status }
		if err := p.ask("/status", "", &s); err == nil && s.Replication != nil {
			v.totals[p.name] = s.Replication.Totals
			running, ready = running+s.Replication.Running, ready+s.Replication.Ready
		}
	}
	for _, x := range v.totals {
		all.Cycles, all.Failures, all.Missed = all.Cycles+x.Cycles, all.Failures+x.Failures, all.Missed+x.Missed
	}
	return all, running, ready
}

// shares are how many shards each worker holds, as one of them sees it; nil:
// some are nobody's.
func (w *world) shares() map[string]int {
	var s struct{ Fleet *fleet.Status }
	if err := w.lives()[0].ask("/status", "", &s); err != nil || s.Fleet == nil {
		return nil
	}
	n := map[string]int{}
	for _, x := range s.Fleet.Shards {
		if x.Member == "" || x.Silent || x.Name == "" {
			return nil
		}
		n[x.Name]++
	}
	return n
}

// level reports whether every live worker holds about as much, and nobody else
// anything.
func (w *world) level() bool {
	n := w.shares()
	least, most := w.o.shards, 0
	for _, p := range w.lives() {
		least, most = min(least, n[p.name]), max(most, n[p.name])
	}
	return len(n) == len(w.lives()) && most-least <= 1
}

// replicate shows replication for the time that was asked for.
func (w *world) replicate() {
	w.t.Helper()
	for range w.o.workers {
		w.worker(w.o.engine, true)
	}
	for _, p := range w.workers {
		p.ready()
	}
	began := time.Now()
	w.until("shards are spread", 5*time.Minute, glance, w.level)
	fmt.Fprintf(w.out, "cycles: shards are spread after %v: %v\n", time.Since(began).Round(100*time.Millisecond), w.shares())

	// What machines waited for while they were protected isn't replication's: it
	// counts once each has had a cycle.
	v := &watch{totals: map[string]scheduler.Totals{}}
	w.until("each machine has had a cycle", 5*w.o.cycle+5*time.Minute, w.pause(), func() bool { return w.fresh(began) })
	fmt.Fprintf(w.out, "cycles: each machine has had one after %v\n", time.Since(began).Round(100*time.Millisecond))
	first, _, _ := w.sum(v)
	before, started, told := w.used(), time.Now(), time.Now()
	killed, joined := false, false
	for time.Since(started) < w.o.lasting {
		time.Sleep(min(interval, w.o.cycle/20))
		a := w.look(v)
		if time.Since(told) >= w.o.report {
			told = time.Now()
			w.line(v, a, first, before, started)
		}
		if !killed && time.Since(started) > w.o.lasting/2 {
			killed = true
			w.takeover(v)
		}
		if killed && !joined && time.Since(started) > w.o.lasting*2/3 {
			joined = true
			w.join(v)
		}
	}
	a := w.look(v)
	sum := w.line(v, a, first, before, started)
	used := w.used().since(before)
	n, lasted := int(sum.Cycles-first.Cycles), time.Since(started)
	fmt.Fprintf(w.out, "cycles: %d in %v, %.1f a second; CPU of a cycle %s; all of it %.2f CPUs\n", n, lasted.Round(time.Second),
		float64(n)/lasted.Seconds(), used.each(n), used.cpu().Seconds()/lasted.Seconds())
	fmt.Fprintf(w.out, "cycles: worst RPO %v with cycles of %v; older than %v: %v of machines' time; failures %d, load %s\n",
		v.worst.Round(time.Second), w.o.cycle, w.o.rpo, v.late.Round(time.Second), sum.Failures, load())
	for _, p := range w.workers {
		fmt.Fprintf(w.out, "cycles: %s has used %.1f s of CPU since its start, and %s of memory\n", p.name, cpuOf(p.pid(), false).Seconds(), size(memoryOf(p.pid())))
	}
	w.storage("cycles")
	if w.temporal != nil {
		w.histories("cycles")
	}
	if v.late > 0 {
		w.t.Errorf("RPO wasn't held: %v late", v.late)
	}
}

// fresh reports whether every machine has a point that was made since then.
func (w *world) fresh(since time.Time) bool {
	w.t.Helper()
	return w.db.Query(fmt.Sprintf(`SELECT count(*) FROM lifeboat.protection WHERE (body->'last'->>'time')::timestamptz < '%s'`, since.Format(time.RFC3339Nano))) == "0"
}

// line prints where everything is.
func (w *world) line(v *watch, a age, first scheduler.Totals, before used, started time.Time) scheduler.Totals {
	sum, running, ready := w.sum(v)
	fmt.Fprintf(w.out, "%6v: %d cycles, %d under way, %d wait, %d failed, %d missed; oldest point %v, worst %v, %d late; %s; load %s\n",
		time.Since(started).Round(time.Second), sum.Cycles-first.Cycles, running, ready, sum.Failures, sum.Missed, a.oldest.Round(time.Second), v.worst.Round(time.Second), a.late,
		w.used().since(before), load())
	return sum
}

// takeover kills a worker and tells how long its shards were nobody's.
func (w *world) takeover(v *watch) {
	w.t.Helper()
	w.sum(v)
	p := w.workers[0]
	kept := w.shares()[p.name]
	w.kill(p)
	w.workers = slices.Delete(w.workers, 0, 1)
	at := time.Now()
	w.until("others have taken over", w.o.lease+2*time.Minute, glance, func() bool { w.now(v); return w.level() })
	fmt.Fprintf(w.out, "cycles: %s was killed with %d shards; others keep them %v later, with a lease of %v\n", p.name, kept, time.Since(at).Round(100*time.Millisecond), w.o.lease)
	w.look(v)
}

// join starts another worker and tells how long its share takes.
func (w *world) join(v *watch) {
	w.t.Helper()
	p := w.worker(w.o.engine, true)
	p.ready()
	at := time.Now()
	w.until("the new one has its share", 2*time.Minute+w.o.cycle, glance, func() bool { w.now(v); return w.level() })
	fmt.Fprintf(w.out, "cycles: %s has joined and keeps its share %v later: %v\n", p.name, time.Since(at).Round(100*time.Millisecond), w.shares())
	w.look(v)
}

package scheduler

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// BenchmarkCycle is what the scheduler's own work costs a cycle in a fleet of
// 10,000 machines on 500 hosts: choosing, beginning, taking the result in and
// arranging the next; without goroutines, the cycle itself and the records.
func BenchmarkCycle(b *testing.B) {
	s, now := benchScheduler(10_000)
	point := dr.Point{ID: "p"}
	var e *entry
	b.ReportAllocs()
	for b.Loop() {
		s.wake(now)
		for e = s.queue.take(now, s.open); e == nil; e = s.queue.take(now, s.open) {
			now = s.waiting.top().due
			s.wake(now)
		}
		r := &run{stand: stand{e.from, e.to, e.host, e.heavy()}, entry: e, id: e.id, began: now, stop: func(error) {}}
		e.run, e.begun = r, now
		s.runs[r] = true
		s.queue.count(r.stand, 1)
		point.Time = now
		s.settle(result{run: r, at: now.Add(time.Second), report: replication.Report{Point: point}})
	}
}

// BenchmarkListing is what taking in one record of a listing costs that tells
// nothing new.
func BenchmarkListing(b *testing.B) {
	s, now := benchScheduler(10_000)
	p := replication.New("vm-5", dr.Place{Site: "home", Machine: "m"}, "away")
	p.State = dr.Protected
	p.Last.Time = now
	b.ReportAllocs()
	for b.Loop() {
		s.meet(s.view(p), look{began: now, all: true}, now)
	}
}

type noRecords struct{ dr.Records }

func (noRecords) Protections(context.Context) iter.Seq2[dr.Protection, error] {
	return func(func(dr.Protection, error) bool) {}
}

func benchScheduler(n int) (*Scheduler, time.Time) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := New(&replication.Env{Records: noRecords{}, Now: func() time.Time { return now }}, Options{Limits: Limits{Total: 128, PerSite: 128, PerHost: 4},
		Host: func(p dr.Protection) string { return string(p.Active.Machine) }})
	if err != nil {
		panic(err)
	}
	for i := range n {
		p := replication.New(dr.ProtectionID(fmt.Sprint("vm-", i)), dr.Place{Site: "home", Machine: dr.MachineID(fmt.Sprint("host-", i%500))}, "away")
		p.State = dr.Protected
		p.Last.Time = now.Add(-time.Duration(i) * 5 * time.Minute / time.Duration(n))
		s.meet(s.view(p), look{began: now, all: true}, now)
	}
	return s, now
}

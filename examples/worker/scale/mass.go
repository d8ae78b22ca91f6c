//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// mass is one mass failover: plans, and who is asked about each.
type mass struct {
	w     *world
	runs  []dr.RunID
	host  map[dr.RunID]*process // where an embedded run lies
	ended map[dr.RunID]bool
	gates int // answered
}

// failOver fails machines over by plans, kills on the way, and has the
// platforms count.
func (w *world) failOver() {
	w.t.Helper()
	if w.o.lasting == 0 {
		for range w.o.workers {
			w.worker(w.o.engine, false)
		}
		for _, p := range w.workers {
			p.ready()
		}
	}
	before, asked, began := w.used(), w.requests(), time.Now()
	m := &mass{w: w, host: map[dr.RunID]*process{}, ended: map[dr.RunID]bool{}}
	for i := 0; i*w.o.plan < w.o.failover; i++ {
		m.start(i)
	}
	fmt.Fprintf(w.out, "failover: %d plans of up to %d machines in %d waves were started in %v\n", len(m.runs), w.o.plan, w.o.waves, time.Since(began).Round(100*time.Millisecond))
	killed, robbed, told := !w.o.kill, !w.o.kill, time.Now()
	limit := time.Now().Add(time.Hour)
	for len(m.ended) < len(m.runs) {
		time.Sleep(w.pause())
		done := w.count("failed-over")
		switch {
		case !killed && done >= w.o.failover/4:
			killed = true
			m.killWorker(done)
		case killed && !robbed && done >= w.o.failover/2:
			robbed = true
			m.killServer(done)
		}
		m.follow()
		if time.Since(told) >= w.o.report {
			told = time.Now()
			fmt.Fprintf(w.out, "%6v: %d of %d machines run at %s, %d gates answered, %d plans done; %s; load %s\n",
				time.Since(began).Round(time.Second), done, w.o.failover, away, m.gates, len(m.ended), w.used().since(before), load())
		}
		if time.Now().After(limit) {
			w.t.Fatalf("the failover isn't done after an hour: %d machines, %d plans", done, len(m.ended))
		}
	}
	took, used := time.Since(began), w.used().since(before)
	fmt.Fprintf(w.out, "failover: %d machines in %v, %.1f a second, %d gates; CPU of a machine %s; all of it %.2f CPUs; load %s\n", w.o.failover, took.Round(100*time.Millisecond),
		float64(w.o.failover)/took.Seconds(), m.gates, used.each(w.o.failover), used.cpu().Seconds()/took.Seconds(), load())
	fmt.Fprintf(w.out, "failover: %s\n", used)
	w.tellRequests("failover", asked, w.o.failover)
	if !killed || !robbed {
		w.t.Errorf("the failover was over before everything was killed")
	}
	w.once()
	if n := w.count("failed-over"); n != w.o.failover {
		w.t.Errorf("%d records say that they are failed over, want %d", n, w.o.failover)
	}
	if w.o.engine == "embedded" {
		n := folder(filepath.Join(w.dir, "worker-*.db*"))
		fmt.Fprintf(w.out, "failover: journals %s\n", size(n))
	} else {
		w.histories("failover")
	}
	w.storage("failover")
}

// start starts the i-th plan in one of the workers.
func (m *mass) start(i int) {
	w := m.w
	w.t.Helper()
	p := recoveryplan.Plan{Name: fmt.Sprintf("plan-%03d", i), Limits: recoveryplan.Limits{Groups: w.o.waves, Machines: w.o.plan}}
	first, last := i*w.o.plan, min((i+1)*w.o.plan, w.o.failover)
	for wave := range w.o.waves {
		g := recoveryplan.Group{Name: fmt.Sprintf("wave-%d", wave)}
		for n := first + wave; n < last; n += w.o.waves {
			g.Machines = append(g.Machines, recoveryplan.Machine{Protection: dr.ProtectionID(fmt.Sprintf("%s-%05d", home, n))})
		}
		if wave > 0 {
			g.Before = []recoveryplan.Action{{Name: fmt.Sprintf("gate-%d", wave), Manual: fmt.Sprintf("Do the machines of wave %d serve?", wave-1)}}
		}
		if len(g.Machines) > 0 {
			p.Groups = append(p.Groups, g)
		}
	}
	plan, err := json.Marshal(p)
	must(w.t, err)
	run := dr.RunID(p.Name)
	host := w.workers[i%len(w.workers)]
	body, err := json.Marshal(map[string]any{"flow": "unplanned", "run": run, "plan": json.RawMessage(plan), "shutdown": true, "by": "scale"})
	must(w.t, err)
	must(w.t, host.ask("/runs", string(body), nil))
	m.runs, m.host[run] = append(m.runs, run), host
}

// asked is the worker that knows a run: with Temporal whoever lives.
func (m *mass) asked(run dr.RunID) *process {
	if h := m.host[run]; m.w.o.engine == "embedded" || h.pid() != 0 {
		return h
	}
	return m.w.lives()[0]
}

// follow answers the gates that wait, and notes plans that have ended. A worker
// or a server that was killed meanwhile is asked again later.
func (m *mass) follow() {
	w := m.w
	w.t.Helper()
	for _, run := range m.runs {
		if m.ended[run] {
			continue
		}
		p := m.asked(run)
		var s dr.Status
		if err := p.ask("/runs/"+string(run), "", &s); err != nil {
			continue
		}
		if s.State.Ended() {
			m.ended[run] = true
			if s.State != dr.RunDone {
				w.t.Errorf("run %s is %s: %s", run, s.State, s.Reason)
			}
		}
		if s.State == dr.RunStuck {
			w.t.Fatalf("run %s is stuck: %s", run, s.Reason)
		}
		for _, st := range s.Steps {
			if st.State != dr.StepWaiting {
				continue
			}
			body, err := json.Marshal(map[string]string{"step": st.ID, "verdict": string(dr.Approve), "by": "scale"})
			must(w.t, err)
			if err := p.ask("/runs/"+string(run)+"/decide", string(body), nil); err == nil {
				m.gates++
			}
		}
	}
}

// killWorker kills one; runs that lie in it go on when it is started again,
// others in the other workers.
func (m *mass) killWorker(done int) {
	w := m.w
	p := w.workers[0]
	w.kill(p)
	fmt.Fprintf(w.out, "failover: %s was killed with %d machines done\n", p.name, done)
	if w.o.engine == "embedded" {
		p.begin()
	}
}

// killServer kills Temporal's server, or where there is none the database, and
// starts it again.
func (m *mass) killServer(done int) {
	w := m.w
	began := time.Now()
	what := "PostgreSQL"
	if w.temporal != nil && w.o.engine == "temporal" {
		what = "Temporal's server"
		w.keep("temporal", w.temporal.CPU())
		w.asked = w.requests()
		w.temporal.Kill()
		w.temporal.Start()
	} else {
		cpu, _ := w.database()
		w.keep("postgres", cpu)
		w.db.Kill()
		w.db.Start()
	}
	fmt.Fprintf(w.out, "failover: %s was killed with %d machines done, and serves again %v later\n", what, done, time.Since(began).Round(100*time.Millisecond))
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/observe"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// maxBody bounds what a request may say: a recovery plan is the longest.
const maxBody = 4 << 20

// handler is all that this worker answers: see doc.go.
func (w *worker) handler() http.Handler {
	in := http.NewServeMux()
	in.Handle("GET /metrics", promhttp.HandlerFor(w.watch.metrics, promhttp.HandlerOpts{}))
	in.HandleFunc("GET /status", w.serveStatus)
	in.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		r := w.board.read()
		answer(rw, readyStatus(r), r)
	})
	w.route(in, "GET /protections", w.listProtections)
	w.route(in, "POST /protections", w.addProtections)
	w.route(in, "GET /protections/{id}", w.showProtection)
	w.route(in, "POST /protections/{id}/pause", w.pause)
	w.route(in, "POST /protections/{id}/resume", w.resume)
	w.route(in, "GET /runs", w.listRuns)
	w.route(in, "POST /runs", w.startRuns)
	w.route(in, "GET /runs/{run...}", w.showRun)
	w.route(in, "POST /runs/{run...}", w.steer)

	mux := http.NewServeMux()
	mux.Handle("/", w.users.admit(in))
	// Balancers and monitors have no token, and are told no more than yes or no.
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "alive\n") })
	if w.users != nil {
		mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, r *http.Request) {
			if _, ok := w.users.who(r); ok {
				in.ServeHTTP(rw, r)
				return
			}
			rw.WriteHeader(readyStatus(w.board.read()))
		})
	}
	return mux
}

func readyStatus(r readiness) int {
	if r.Ready {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// route has a request answered by f once everything was reached.
func (w *worker) route(mux *http.ServeMux, pattern string, f func(p *plant, r *http.Request) (any, error)) {
	mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
		p := w.plant()
		if p == nil {
			answer(rw, http.StatusServiceUnavailable, w.board.read())
			return
		}
		if r.Body = http.MaxBytesReader(rw, r.Body, maxBody); r.Method != http.MethodGet && r.Header.Get("Content-Type") != "application/json" {
			refuse(rw, http.StatusUnsupportedMediaType, "want Content-Type: application/json")
			return
		}
		v, err := f(p, r)
		if err != nil {
			refuse(rw, statusOf(err), err.Error())
			return
		}
		answer(rw, http.StatusOK, v)
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked has gone
}

func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, map[string]string{"error": why})
}

func statusOf(err error) int {
	for _, s := range []struct {
		err    error
		status int
	}{
		{errDraining, http.StatusServiceUnavailable},
		{dr.ErrNotFound, http.StatusNotFound},
		{dr.ErrInvalid, http.StatusBadRequest},
		{dr.ErrUnsupported, http.StatusNotImplemented},
		{dr.ErrRunExists, http.StatusConflict}, {dr.ErrBusy, http.StatusConflict}, {dr.ErrNotAllowed, http.StatusConflict},
		{dr.ErrConflict, http.StatusConflict}, {dr.ErrExists, http.StatusConflict},
	} {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// read reads a request's body; an empty one is the zero value.
func read[T any](r *http.Request) (v T, err error) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return v, fmt.Errorf("%w: %v", dr.ErrInvalid, err)
	}
	if len(raw) > 0 {
		err = strict(raw, &v)
	}
	return v, err
}

func (w *worker) listRuns(p *plant, r *http.Request) (any, error) {
	all := []dr.Status{}
	state, flow := dr.RunState(r.FormValue("state")), r.FormValue("flow")
	list, err := listOf(p.runs, r.FormValue("open") != "" || state != "" && !state.Ended())
	if err != nil {
		return nil, err
	}
	for s, err := range list(r.Context()) {
		if err != nil {
			return nil, err
		}
		if (state == "" || s.State == state) && (flow == "" || s.Flow == flow) && (r.FormValue("open") == "" || !s.State.Ended()) {
			s.Steps = holdUps(s.Steps) // GET /runs/ID has them all
			all = append(all, s)
		}
	}
	return all, nil
}

// listOf returns what lists an engine's runs. Open ones are found without reading
// the ended, which may be a month's.
func listOf(o dr.Orchestrator, open bool) (func(context.Context) iter.Seq2[dr.Status, error], error) {
	if l, ok := dr.As[dr.OpenRunLister](o); ok && open {
		return func(ctx context.Context) iter.Seq2[dr.Status, error] {
			return func(yield func(dr.Status, error) bool) {
				for id, err := range l.OpenRuns(ctx) {
					var s dr.Status
					if err == nil {
						s, err = o.Status(ctx, id)
					}
					if errors.Is(err, dr.ErrNotFound) {
						continue
					}
					if !yield(s, err) || err != nil {
						return
					}
				}
			}
		}, nil
	}
	if l, ok := dr.As[dr.RunLister](o); ok {
		return l.Runs, nil
	}
	return nil, fmt.Errorf("%w: this engine lists no runs", dr.ErrUnsupported)
}

// holdUps are the steps that say why a run is where it is: those that wait for a
// person or for a worker, and those that have failed.
func holdUps(all []dr.StepStatus) []dr.StepStatus {
	return slices.DeleteFunc(all, func(s dr.StepStatus) bool {
		switch s.State {
		case dr.StepWaiting, dr.StepStuck, dr.StepFailed, dr.StepUndoFailed:
			return false
		case dr.StepDone, dr.StepSkipped:
			return true
		}
		return s.Err == "" && s.Awaits.IsZero()
	})
}

// showRun returns a run's status; with ?wait=30s when it has ended or waits for
// a person, or after that time.
func (w *worker) showRun(p *plant, r *http.Request) (any, error) {
	run := dr.RunID(r.PathValue("run"))
	wait := r.FormValue("wait")
	if wait == "" {
		return p.runs.Status(r.Context(), run)
	}
	d, err := time.ParseDuration(wait)
	if err != nil || d <= 0 || d > 10*time.Minute {
		return nil, fmt.Errorf("%w: wait=%s: want a time up to 10m", dr.ErrInvalid, wait)
	}
	ctx, cancel := context.WithTimeout(r.Context(), d)
	defer cancel()
	s, err := dr.WaitUntil(ctx, p.runs, run, func(s dr.Status) bool {
		return s.State == dr.RunWaiting || s.State == dr.RunStuck
	})
	if err != nil && ctx.Err() != nil && r.Context().Err() == nil {
		return p.runs.Status(r.Context(), run)
	}
	return s, err
}

// steer is POST /runs/ID/decide and POST /runs/ID/cancel. The ID of a run that a
// plan's run has started has a slash in it: PLANRUN/PROTECTION.
func (w *worker) steer(p *plant, r *http.Request) (any, error) {
	run, what := path.Split(r.PathValue("run"))
	id := dr.RunID(strings.TrimSuffix(run, "/"))
	switch what {
	case "decide":
		return w.decide(p, r, id)
	case "cancel":
		return w.cancel(p, r, id)
	}
	return nil, fmt.Errorf("%w: POST /runs/ID/decide or /runs/ID/cancel, not %q", dr.ErrNotFound, what)
}

func (w *worker) decide(p *plant, r *http.Request, run dr.RunID) (any, error) {
	d, err := read[struct {
		Step    string     `json:"step"`
		Verdict dr.Verdict `json:"verdict"`
		By      string     `json:"by,omitempty"`
		Note    string     `json:"note,omitempty"`
	}](r)
	if err != nil {
		return nil, err
	}
	by := asker(r.Context(), d.By)
	err = p.runs.Decide(r.Context(), run, d.Step, dr.Decision{Verdict: d.Verdict, By: by, Note: d.Note})
	if err != nil {
		return nil, err
	}
	return p.runs.Status(r.Context(), run)
}

func (w *worker) cancel(p *plant, r *http.Request, run dr.RunID) (any, error) {
	d, err := read[struct {
		By  string `json:"by,omitempty"`
		Why string `json:"why,omitempty"`
	}](r)
	if err != nil {
		return nil, err
	}
	if err := p.runs.Cancel(observe.By(r.Context(), asker(r.Context(), d.By)), run, d.Why); err != nil {
		return nil, err
	}
	return p.runs.Status(r.Context(), run)
}

// status is the answer of /status.
type status struct {
	Worker  string            `json:"worker"`
	Version string            `json:"version"`
	Engine  string            `json:"engine"`
	Time    time.Time         `json:"time"`
	Ready   readiness         `json:"ready"`
	Sites   []string          `json:"sites"`
	Queues  []string          `json:"queues,omitempty"`
	Replica *scheduler.Status `json:"replication,omitempty"`
	Fleet   *fleet.Status     `json:"fleet,omitempty"`
	// Unkept are protections that no worker replicates: no area has both of their
	// sites.
	Unkept []dr.ProtectionID `json:"unkept,omitempty"`
}

// serveStatus tells where everything is. Protections are many: ?protections=1
// adds them.
func (w *worker) serveStatus(rw http.ResponseWriter, r *http.Request) {
	s := status{Worker: w.o.name, Version: version(), Engine: w.o.engine, Time: time.Now().UTC(), Ready: w.board.read(), Queues: w.queues()}
	for name := range sorted(w.sites.Sites) {
		s.Sites = append(s.Sites, name)
	}
	if p := w.plant(); p != nil && p.repl != nil {
		st := p.repl.Status()
		if all, _ := strconv.ParseBool(r.FormValue("protections")); !all {
			st.Protections = []scheduler.Protection{}
		}
		s.Replica = &st
		if f, ok := p.repl.(*sharing); ok {
			st := f.Fleet()
			s.Fleet = &st
		}
	}
	slices.Sort(s.Sites)
	s.Unkept = w.counted().unkept
	answer(rw, http.StatusOK, s)
}

package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/drillreport"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/replication"
)

//go:embed plan.yaml
var planFile []byte

// server is what embeds Lifeboat: an engine, the sites, the plan, and an API
// for consoles. It keeps nothing that is not in its folder, or at the sites.
type server struct {
	plan   recoveryplan.Plan
	engine *embedded.Engine
	env    *recoveryplan.Env
	at     addresses
	sites  *http.Client
}

func serve(ctx context.Context, dir string) (err error) {
	s := &server{sites: over(filepath.Join(dir, "sites.sock"))}
	if s.plan, err = recoveryplan.Decode(bytes.NewReader(planFile)); err != nil {
		return err
	}
	sites, at, closeSites, err := connect(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSites()) }()
	s.at = at
	if s.engine, err = embedded.Open(filepath.Join(dir, "lifeboat.db"), embedded.Options{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.engine.Close()) }()
	env := &replication.Env{Records: s.engine, Sites: sites}
	s.env = &recoveryplan.Env{Replication: env, Runs: s.engine, Callbacks: s.callbacks()}
	actions, err := dr.Merge(replication.Actions(env), failover.Actions(env), failback.Actions(env), recoveryplan.Actions(s.env))
	if err != nil {
		return err
	}
	if err := s.enroll(ctx); err != nil {
		return err
	}
	socket := filepath.Join(dir, "serve.sock")
	_ = os.Remove(socket) // of one that was killed; the engine's file keeps two from serving
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	api := &http.Server{Handler: s.api(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- api.Serve(l) }()
	err = s.engine.Serve(ctx, actions)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, api.Close(), notClosed(<-served))
}

// enroll records the machines of the plan, once.
func (s *server) enroll(ctx context.Context) error {
	for _, id := range s.plan.Machines() {
		if _, err := s.engine.Load(ctx, id); !errors.Is(err, dr.ErrNotFound) {
			if err != nil {
				return err
			}
			continue
		}
		at := dr.Place{Site: home, Machine: dr.MachineID(s.at.Machines[string(id)])}
		if _, err := s.engine.Save(ctx, replication.New(id, at, away)); err != nil {
			return err
		}
	}
	return nil
}

// callbacks are what the plan calls by name.
func (s *server) callbacks() map[string]recoveryplan.Callback {
	return map[string]recoveryplan.Callback{
		// sound looks whether a machine has a disk of one moment, as a check of
		// the database would.
		"sound": func(ctx context.Context, c recoveryplan.Context) (any, error) {
			all, err := machines(ctx, s.sites)
			if err != nil {
				return nil, err
			}
			m := c.Machines[0]
			for _, x := range all {
				if x.Site != m.At.Site || x.Name != string(m.Protection) || !x.Running {
					continue
				}
				if x.Wrong != "" {
					return nil, errors.New(x.Wrong)
				}
				return fmt.Sprintf("%s counts on from write %d", x.Name, x.Began), nil
			}
			return nil, fmt.Errorf("%s doesn't run at %s yet", m.Protection, m.At.Site)
		},
		"promote": func(_ context.Context, c recoveryplan.Context) (any, error) {
			if c.Undo {
				return "the former primary is primary again", nil
			}
			return "db1 is the primary", nil
		},
		"dns": func(_ context.Context, c recoveryplan.Context) (any, error) {
			if c.Undo {
				return "shop.example.org leads where it led", nil
			}
			return "shop.example.org leads to " + c.Machines[len(c.Machines)-1].At.Site, nil
		},
	}
}

func (s *server) records(ctx context.Context) (all []dr.Protection, err error) {
	for p, err := range s.engine.Protections(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// api is what a console would be given. Here it has no login: only its user can
// open the socket.
func (s *server) api() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
				return
			}
			if page, ok := v.([]byte); ok {
				_, _ = w.Write(page)
				return
			}
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	handle("POST /protect/{machine}", func(r *http.Request) (any, error) {
		p, err := s.engine.Load(r.Context(), dr.ProtectionID(r.PathValue("machine")))
		if err != nil {
			return nil, err
		}
		run := dr.RunID("protect-" + r.PathValue("machine"))
		pl, err := replication.Protect(p)
		if err == nil {
			err = s.engine.Start(r.Context(), run, pl)
		}
		return run, err
	})
	handle("POST /start/{flow}/{run}", func(r *http.Request) (any, error) {
		records, err := s.records(r.Context())
		if err != nil {
			return nil, err
		}
		flow := r.PathValue("flow")
		pl, err := recoveryplan.Make(s.plan, flow, records, options(flow))
		if err != nil {
			return nil, err
		}
		run := dr.RunID(r.PathValue("run"))
		return run, s.engine.Start(r.Context(), run, pl)
	})
	handle("GET /dry-run/{flow}", func(r *http.Request) (any, error) {
		records, err := s.records(r.Context())
		if err != nil {
			return nil, err
		}
		flow := r.PathValue("flow")
		return recoveryplan.DryRun(r.Context(), s.env, s.plan, flow, records, options(flow))
	})
	handle("GET /runs/{run...}", func(r *http.Request) (any, error) {
		return s.engine.Status(r.Context(), dr.RunID(r.PathValue("run")))
	})
	handle("POST /decide", func(r *http.Request) (any, error) {
		var d decision
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
			return nil, err
		}
		return nil, s.engine.Decide(r.Context(), d.Run, d.Step, d.Decision)
	})
	handle("GET /report/{run}", func(r *http.Request) (any, error) {
		rep, err := drillreport.Gather(r.Context(), s.engine, dr.RunID(r.PathValue("run")), drillreport.Options{Objective: s.plan.Objective})
		if err != nil {
			return nil, err
		}
		var page bytes.Buffer
		err = rep.WriteHTML(&page)
		return page.Bytes(), err
	})
	return mux
}

type decision struct {
	Run      dr.RunID
	Step     string
	Decision dr.Decision
}

// options are those of the example's runs.
func options(flow string) recoveryplan.Options {
	switch flow {
	case recoveryplan.FlowUnplanned:
		return recoveryplan.Options{Shutdown: true}
	case recoveryplan.FlowDrill:
		return recoveryplan.Options{Notes: "a drill of examples/plan"}
	}
	return recoveryplan.Options{}
}

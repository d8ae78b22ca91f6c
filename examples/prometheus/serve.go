package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lifeboat-dr/lifeboat/dr/health"
	"github.com/lifeboat-dr/lifeboat/dr/jobs"
)

func (f *fleet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(f.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", f.serveHealth)
	mux.HandleFunc("GET /jobs.csv", f.serveJobs)
	return mux
}

func (f *fleet) serveHealth(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	var all []health.Report
	for p, err := range f.engine.Protections(r.Context()) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		all = append(all, health.Of(health.Facts{Protection: p, Policy: f.policy, Cycle: f.failure(p.ID), Now: now}))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct { // whoever asked has gone
		Site        health.SiteReport
		Protections []health.Report
	}{health.Site(here, all, now), all})
}

func (f *fleet) serveJobs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	// An error cuts the answer off; that is all that can be done once it has begun.
	if err := jobs.WriteCSV(w, jobs.List(r.Context(), f.o, jobs.Filter{}, jobs.Options{})); err != nil {
		panic(http.ErrAbortHandler)
	}
}

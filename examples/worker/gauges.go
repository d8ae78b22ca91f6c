package main

import (
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// gauges are what /metrics tells beside replication/telemetry: how this worker is,
// what it serves, and what the records and the fleet say. Nothing is asked when they
// are collected. What is said of all protections, runs and shards each worker says
// alike: alert on the greatest, don't add them up.
type gauges struct{ w *worker }

// siteLabel is the label that telemetry has for a site, too.
const siteLabel = "lifeboat_site"

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descInfo      = desc("lifeboat_worker_info", "This worker, always 1.", "lifeboat_worker", "lifeboat_engine", "version")
	descReady     = desc("lifeboat_worker_ready", "1 if this worker reaches all that it needs, as /readyz says.")
	descDraining  = desc("lifeboat_worker_draining", "1 if this worker is ending.")
	descPart      = desc("lifeboat_worker_part_up", "1 if a part that this worker needs answers: engine, records, claims, fleet, serving.", "lifeboat_part")
	descSite      = desc("lifeboat_worker_site_up", "1 if this worker reaches the site's machines and points.", siteLabel)
	descServes    = desc("lifeboat_worker_serves", "1 for each site whose steps this worker runs.", siteLabel)
	descAwait     = desc("lifeboat_steps_awaiting", "Steps of open runs that no worker of their site has taken up.", siteLabel)
	descAwaitTime = desc("lifeboat_steps_awaiting_seconds", "How long the step that has waited longest for a worker of its site does so.", siteLabel)
	descLooked    = desc("lifeboat_runs_looked_timestamp_seconds", "When the open runs were looked at last.")
	descStates    = desc("lifeboat_protections", "Protections by state, of all records.", "lifeboat_protection_state")
	descLate      = desc("lifeboat_protections_late", "Protections whose newest point was older than their policy's RPO when the records were read, whoever keeps them.", "lifeboat_site_source", "lifeboat_site_target")
	descUnkept    = desc("lifeboat_protections_unkept", "Protections that nothing replicates, or can: area, their sites are in none of the fleet's; reach, this worker may be given them and doesn't reach their sites; policy, theirs is not known here.", "reason")
	descRead      = desc("lifeboat_records_read_timestamp_seconds", "When the records were read last.")
	descHeld      = desc("lifeboat_fleet_shards_held", "Shards that this worker keeps.")
	descShards    = desc("lifeboat_fleet_shards", "Shards of the fleet: kept; silent, their worker isn't heard of; free, nobody's; unreached, no worker reaches their sites.", "lifeboat_shard_state")
	descRenewed   = desc("lifeboat_fleet_renewed_timestamp_seconds", "When this worker's leases were last heard of.")
	descOutdated  = desc("lifeboat_fleet_outdated", "1 if the fleet has a newer layout than this worker, which keeps nothing then.")
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInfo, descReady, descDraining, descPart, descSite, descServes, descAwait, descAwaitTime, descLooked, descStates,
		descLate, descUnkept, descRead, descHeld, descShards, descRenewed, descOutdated} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(to chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	w := g.w
	tell(descInfo, 1, w.o.name, w.o.engine, version())
	r := w.board.read()
	tell(descReady, yes(r.Ready))
	tell(descDraining, yes(r.Draining))
	for part, up := range r.parts() {
		if name, ok := strings.CutPrefix(part, "site "); ok {
			tell(descSite, yes(up), name)
		} else {
			tell(descPart, yes(up), part)
		}
	}
	p := w.plant()
	if p == nil {
		return // it serves nothing yet, and knows nothing
	}
	serves := w.queues()
	for _, q := range serves {
		tell(descServes, yes(!r.Draining), q)
	}
	waits, looked := w.watch.attention.waits()
	if !looked.IsZero() {
		tell(descLooked, seconds(looked))
	}
	for name := range w.sites.Sites { // a site that nothing waits for is told, too
		if _, ok := waits[name]; !ok {
			waits[name] = awaiting{}
		}
	}
	for name, x := range waits {
		tell(descAwait, float64(x.steps), name)
		var age float64
		if x.steps > 0 {
			age = max(0, time.Since(x.oldest).Seconds())
		}
		tell(descAwaitTime, age, name)
	}
	if c := w.counted(); !c.at.IsZero() {
		tell(descRead, seconds(c.at))
		for state, n := range c.states {
			tell(descStates, float64(n), string(state))
		}
		for at, n := range c.late {
			tell(descLate, float64(n), at.from, at.to)
		}
		tell(descUnkept, float64(len(c.unkept)), "area")
		tell(descUnkept, float64(len(c.unreached)), "reach")
		tell(descUnkept, float64(len(c.lost)), "policy")
	}
	if f, ok := p.repl.(*sharing); ok {
		g.fleet(f.Fleet(), tell)
	}
}

func (g gauges) fleet(s fleet.Status, tell func(*prometheus.Desc, float64, ...string)) {
	tell(descHeld, float64(len(s.Holds)))
	tell(descOutdated, yes(s.Outdated))
	if s.Renewed.IsZero() {
		return
	}
	tell(descRenewed, seconds(s.Renewed))
	count := map[string]int{"kept": 0, "silent": 0, "free": 0, "unreached": 0}
	for _, x := range s.Shards {
		switch {
		case x.Unreached:
			count["unreached"]++
		case x.Member == "":
			count["free"]++
		case x.Silent:
			count["silent"]++
		default:
			count["kept"]++
		}
	}
	for state, n := range count {
		tell(descShards, float64(n), state)
	}
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// version is what this program was built from: a tag, or the commit.
func version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range b.Settings {
		if s.Key == "vcs.revision" && (b.Main.Version == "" || b.Main.Version == "(devel)") {
			return s.Value
		}
	}
	return b.Main.Version
}

//go:build linux

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// asked is how often Temporal's server was asked for what, and what it asked of
// its database.
type asked struct {
	temporalserver.Requests
	transactions int
}

// requests is what Temporal's server was asked for until now. One that was
// killed counts with what it had been asked.
func (w *world) requests() (a asked) {
	w.t.Helper()
	if w.temporal == nil {
		return a
	}
	var err error
	a.Requests, err = w.temporal.Requests()
	must(w.t, err)
	for what, n := range w.asked.Frontend {
		a.Frontend[what] += n
	}
	for what, n := range w.asked.Store {
		a.Store[what] += n
	}
	a.transactions, err = strconv.Atoi(w.db.Query("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname LIKE 'temporal%'"))
	must(w.t, err)
	return a
}

// tellRequests prints how often the server was asked since before for each of n
// machines.
func (w *world) tellRequests(phase string, before asked, n int) {
	w.t.Helper()
	if w.temporal == nil || w.o.engine != "temporal" {
		return
	}
	now := w.requests()
	fmt.Fprintf(w.out, "%s: for a machine Temporal's server was asked for %s\n", phase, each(now.Frontend, before.Frontend, n))
	fmt.Fprintf(w.out, "%s: for a machine its database saw %.1f transactions, by its store's %s\n", phase, float64(now.transactions-before.transactions)/float64(n), each(now.Store, before.Store, n))
}

// each tells what was asked for each of n, the most frequent first; what is
// rare is only in the sum.
func each(now, before map[string]int, n int) string {
	diff, sum := map[string]int{}, 0
	for what := range now {
		diff[what] = now[what] - before[what]
		sum += diff[what]
	}
	told := []string{fmt.Sprintf("%.1f calls", float64(sum)/float64(n))}
	for _, what := range slices.SortedFunc(maps.Keys(diff), func(a, b string) int { return cmp.Or(diff[b]-diff[a], strings.Compare(a, b)) }) {
		if diff[what]*4 >= n {
			told = append(told, fmt.Sprintf("%s %.1f", what, float64(diff[what])/float64(n)))
		}
	}
	return strings.Join(told, ", ")
}

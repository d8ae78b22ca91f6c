package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/health"
)

// scrape reads /metrics as Prometheus does: name with labels → value.
func scrape(t *testing.T, url string) map[string]float64 {
	all := map[string]float64{}
	lines := bufio.NewScanner(strings.NewReader(get(t, url+"/metrics")))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "} "); ok && !strings.HasPrefix(name, "#") {
			v, err := strconv.ParseFloat(value, 64)
			require.NoError(t, err, lines.Text())
			all[name+"}"] = v
		}
	}
	require.NoError(t, lines.Err())
	return all
}

func get(t *testing.T, url string) string {
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, string(body))
	return string(body)
}

// What Prometheus is told is what happened.
func TestMetricsAreTheTruth(t *testing.T) {
	const machines, cycles = 5, 4
	f, err := open(t.Context(), machines)
	require.NoError(t, err)
	defer f.close()
	require.NoError(t, f.protect(t.Context()))
	server := httptest.NewServer(f.handler())
	defer server.Close()

	var written, equal, zeroed float64
	for range cycles {
		for _, r := range f.cycle(t.Context()) {
			written, equal, zeroed = written+float64(r.Written), equal+float64(r.Equal), zeroed+float64(r.Zeroed)
		}
	}
	require.NoError(t, f.env.Pause(t.Context(), "vm-04"))
	for i, r := range f.cycle(t.Context()) {
		require.Equal(t, i == 4, r.Point.ID == "", "one is paused")
		written, equal, zeroed = written+float64(r.Written), equal+float64(r.Equal), zeroed+float64(r.Zeroed)
	}
	require.NotZero(t, written)

	got := scrape(t, server.URL)
	sites := `lifeboat_site_source="hall-1",lifeboat_site_target="hall-2"`
	require.Equal(t, written, got[`lifeboat_replication_io_bytes_total{lifeboat_replication_outcome="written",`+sites+`}`])
	require.Equal(t, equal, got[`lifeboat_replication_io_bytes_total{lifeboat_replication_outcome="equal",`+sites+`}`])
	require.Equal(t, zeroed, got[`lifeboat_replication_io_bytes_total{lifeboat_replication_outcome="zeroed",`+sites+`}`])
	require.InDelta(t, machines*cycles+4, got[`lifeboat_replication_cycle_duration_seconds_count{`+sites+`}`], 0)
	require.InDelta(t, 1, got[`lifeboat_replication_cycle_duration_seconds_count{error_type="not-allowed",`+sites+`}`], 0)
	require.InDelta(t, 1, got[`lifeboat_failures_total{error_type="not-allowed",lifeboat_failure_source="replication"}`], 0)
	require.InDelta(t, 0, got[`lifeboat_replication_cycle_active{`+sites+`}`], 0)
	require.InDelta(t, machines, got[`lifeboat_runs{lifeboat_flow="protect",lifeboat_run_state="done"}`], 0)
	require.InDelta(t, machines, got[`lifeboat_step_duration_seconds_count{lifeboat_step_action="protect.replicate@1",lifeboat_step_undo="false"}`], 0)

	for _, id := range f.machines {
		p, err := f.engine.Load(t.Context(), id)
		require.NoError(t, err)
		series := `{lifeboat_protection_id="` + string(id) + `",` + sites + `}`
		rpo, ok := got["lifeboat_replication_rpo_seconds"+series]
		require.True(t, ok, series)
		require.InDelta(t, time.Since(p.Last.Time).Seconds(), rpo, 5)
		require.InDelta(t, 900, got["lifeboat_replication_objective_seconds"+series], 0)
	}
	old := got[`lifeboat_replication_rpo_seconds{lifeboat_protection_id="vm-04",`+sites+`}`]
	require.Greater(t, scrape(t, server.URL)[`lifeboat_replication_rpo_seconds{lifeboat_protection_id="vm-04",`+sites+`}`], old, "it grows by itself")
}

func TestHealthAndJobs(t *testing.T) {
	f, err := open(t.Context(), 3)
	require.NoError(t, err)
	defer f.close()
	require.NoError(t, f.protect(t.Context()))
	f.policy.RPO = time.Nanosecond
	f.cycle(t.Context())
	server := httptest.NewServer(f.handler())
	defer server.Close()
	var got struct {
		Site        health.SiteReport
		Protections []health.Report
	}
	require.NoError(t, json.Unmarshal([]byte(get(t, server.URL+"/health")), &got))
	require.Len(t, got.Protections, 3)
	require.Equal(t, 3, got.Site.Critical)
	require.Equal(t, health.CodeRPOExceeded, got.Site.Errors[0].Code)
	require.Equal(t, dr.Protected, got.Protections[0].State)

	rows, err := csv.NewReader(strings.NewReader(get(t, server.URL+"/jobs.csv"))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1+3*3)
	require.Equal(t, []string{"protect-vm-00", "", "protect", "vm-00", "Completed"}, rows[1][:5])
}

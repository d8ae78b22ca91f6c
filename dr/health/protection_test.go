package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

func point(id string, age time.Duration, c dr.Consistency) dr.Point {
	return dr.Point{ID: dr.PointID(id), Time: noon.Add(-age), Consistency: c}
}

// young is a protection in good health.
func young() Facts {
	return Facts{
		Protection: dr.Protection{ID: "web", Name: "Web shop", Home: "here", Active: dr.Place{Site: "here"}, Standby: dr.Place{Site: "there"},
			State: dr.Protected, Last: point("p9", time.Minute, dr.CrashConsistent)},
		Policy: recoverypoint.VMwarePolicy(),
		Now:    noon,
	}
}

func TestHealthOfAProtection(t *testing.T) {
	for _, k := range []struct {
		name string
		set  func(*Facts)
		want []string // "level code"
		says string   // contained in the first message or cause
		at   time.Time
	}{
		{"well", func(f *Facts) {}, nil, "", noon},
		{"just within the objective", func(f *Facts) { f.Newest = point("p", 15*time.Minute, 1) }, nil, "", noon},
		{"RPO exceeded", func(f *Facts) { f.Newest = point("p", 16*time.Minute, 1) }, []string{"warning rpo-exceeded"}, "point p is 16m0s old, the objective is 15m0s", noon.Add(-time.Minute)},
		{"RPO exceeded four times", func(f *Facts) { f.Newest = point("p", 61*time.Minute, 1) }, []string{"critical rpo-exceeded"}, "no process replicates", noon.Add(-46 * time.Minute)},
		{"no point", func(f *Facts) { f.Protection.Last = dr.Point{} }, []string{"critical rpo-exceeded"}, "no recovery point at all", noon},
		{"no objective", func(f *Facts) { f.Policy.RPO, f.Newest = 0, point("p", 1000*time.Hour, 1) }, nil, "", noon},
		{"a run holds replication", func(f *Facts) {
			f.Newest, f.Protection.Run, f.Cycle = point("p", 16*time.Minute, 1), "drill-7", fmt.Errorf("x: %w", dr.ErrNotAllowed)
		}, []string{"warning rpo-exceeded"}, "run drill-7 holds replication", noon.Add(-time.Minute)},
		{"clock ahead", func(f *Facts) { f.Newest = point("p", -time.Hour, 1) }, []string{"warning clock-skew"}, "1h0m0s after now", noon},
		{"failing", func(f *Facts) { f.Cycle = errors.New("boom") }, []string{"warning replication-failing"}, "boom", noon},
		{"failing three times", func(f *Facts) { f.Cycle, f.Failures, f.FailedAt = errors.New("boom"), 3, noon.Add(-9*time.Minute) }, []string{"critical replication-failing"}, "3 cycles in a row", noon.Add(-9 * time.Minute)},
		{"failing for good", func(f *Facts) { f.Cycle = dr.ErrCorrupt }, []string{"critical replication-failing"}, "corrupt", noon},
		{"failing and late", func(f *Facts) { f.Cycle, f.Newest = errors.New("boom"), point("p", 16*time.Minute, 1) }, []string{"warning rpo-exceeded", "warning replication-failing"}, "replication cycles fail", noon.Add(-time.Minute)},
		{"busy is no failure", func(f *Facts) { f.Cycle = fmt.Errorf("x: %w", dr.ErrBusy) }, nil, "", noon},
		{"paused for long", func(f *Facts) {
			f.Protection.Replication, f.PausedAt, f.Policy.RPO = dr.ReplicationPaused, noon.Add(-2*time.Hour), 0
		}, []string{"warning replication-paused-long"}, "was paused at 2026-01-02T10:00:00Z", noon.Add(-time.Hour)},
		{"paused, nobody knows since when", func(f *Facts) {
			f.Protection.Replication, f.Newest = dr.ReplicationPaused, point("p", 2*time.Hour, 1)
		}, []string{"critical rpo-exceeded", "warning replication-paused-long"}, "replication is paused", noon.Add(-2*time.Hour + 15*time.Minute)},
		{"paused a moment ago", func(f *Facts) { f.Protection.Replication = dr.ReplicationPaused }, nil, "", noon},
		{"resync required", func(f *Facts) { f.Protection.Replication = dr.ResyncRequired }, []string{"warning resync-required"}, "whole disks", noon},
		{"application points late", func(f *Facts) {
			f.Points = []dr.Point{point("a", 3*time.Hour, dr.ApplicationConsistent), point("c", time.Minute, 1)}
		}, []string{"warning application-points-late"}, "the newest is of 2026-01-02T09:00:00Z", noon.Add(-time.Hour)},
		{"no application point ever", func(f *Facts) { f.Points = []dr.Point{point("b", 3*time.Hour, 1), point("c", time.Minute, 1)} }, []string{"warning application-points-late"}, "there is none", noon.Add(-time.Hour)},
		{"application points in time", func(f *Facts) {
			f.Points = []dr.Point{point("a", time.Hour, dr.ApplicationConsistent), point("c", time.Minute, 1)}
		}, nil, "", noon},
		{"a drill was left", func(f *Facts) {
			f.Protection.Test = &dr.TestFailover{Run: "d", State: dr.TestRunning, Started: noon.Add(-25 * time.Hour)}
		}, []string{"warning drill-not-cleaned-up"}, "test failover d", noon.Add(-time.Hour)},
		{"a drill runs", func(f *Facts) {
			f.Protection.Test = &dr.TestFailover{Run: "d", State: dr.TestRunning, Started: noon.Add(-time.Hour)}
		}, nil, "", noon},
		{"a drill's clean-up failed", func(f *Facts) { f.Protection.Test = &dr.TestFailover{Run: "d", State: dr.TestFailed, Started: noon} }, []string{"critical drill-clean-up-failed"}, "something is left", noon},
		{"never drilled", func(f *Facts) { f.Limits.DrillEvery = 90 * 24 * time.Hour }, []string{"warning never-drilled"}, "there was none", noon},
		{"drilled long ago", func(f *Facts) { f.Limits.DrillEvery, f.Drilled = time.Hour, noon.Add(-2*time.Hour) }, []string{"warning drill-overdue"}, "last was at", noon.Add(-time.Hour)},
		{"drilled", func(f *Facts) { f.Limits.DrillEvery, f.Drilled = time.Hour, noon.Add(-time.Minute) }, nil, "", noon},
		{"failed over", func(f *Facts) {
			f.Protection.State, f.Protection.Failover = dr.FailedOver, &dr.Failover{Run: "f", Kind: "planned-failover", At: noon.Add(-time.Hour)}
		}, nil, "", noon},
		{"failed over and forgotten", func(f *Facts) {
			f.Protection.State, f.Protection.Failover = dr.FailedOver, &dr.Failover{Run: "f", Kind: "planned-failover", At: noon.Add(-25 * time.Hour)}
		}, []string{"warning failover-not-committed"}, "planned-failover f", noon.Add(-time.Hour)},
		{"committed", func(f *Facts) { f.Protection.State = dr.Committed }, []string{"warning not-protected"}, "nothing of it is replicated", noon},
		{"unprotected", func(f *Facts) { f.Protection.State, f.Protection.Last = dr.Unprotected, dr.Point{} }, nil, "", noon},
		{"first copy under way", func(f *Facts) { f.Protection.State, f.Protection.Last = dr.Synchronizing, dr.Point{} }, nil, "", noon},
		{"first copy fails", func(f *Facts) { f.Protection.State, f.Cycle = dr.Synchronizing, errors.New("boom") }, []string{"warning replication-failing"}, "boom", noon},
		{"pins beyond retention", func(f *Facts) {
			f.Policy.ApplicationEvery = 0
			f.Points = []dr.Point{point("free", 101*time.Hour, 1), point("old", 100*time.Hour, 1), point("older", 99*time.Hour, 1), point("p9", time.Minute, 1)}
			f.Protection.Pins = map[dr.PointID]string{"old": "run-1", "older": "run-1", "p9": "run-2"}
		}, []string{"warning pinned-beyond-retention"}, "run-1 keeps 2 points beyond 72h0m0s, the oldest old", noon.Add(-28 * time.Hour)},
		{"more", func(f *Facts) { f.More = []Error{{Code: "sshd-off", Level: Critical, Time: noon}} }, []string{"critical sshd-off"}, "", noon},
	} {
		t.Run(k.name, func(t *testing.T) {
			f := young()
			k.set(&f)
			r := Of(f)
			require.Equal(t, r, Of(f), "it is pure")
			var got []string
			worst := Normal
			for _, e := range r.Errors {
				got = append(got, e.Level.String()+" "+e.Code)
				worst = max(worst, e.Level)
			}
			require.Equal(t, k.want, got)
			require.Equal(t, worst, r.Level)
			if len(r.Errors) > 0 && k.says != "" {
				require.Contains(t, r.Errors[0].Message+strings.Join(r.Errors[0].PossibleCauses, "; "), k.says)
			}
			if len(r.Errors) > 0 {
				require.Equal(t, k.at, r.Errors[0].Time, "when it began")
			}
		})
	}
}

// A console that keys its rows by ID must see one row that turns red, and the
// same one after a restart.
func TestAFindingThatGrowsWorseKeepsItsID(t *testing.T) {
	f := young()
	f.Newest = point("p", 16*time.Minute, 1)
	amber := Of(f).Errors[0]
	f.Now = noon.Add(2 * time.Hour)
	red := Of(f).Errors[0]
	require.Equal(t, Warning, amber.Level)
	require.Equal(t, Critical, red.Level)
	require.Equal(t, amber.ID, red.ID)
	require.Equal(t, amber.Time, red.Time)
	f.Protection.ID = "db"
	require.NotEqual(t, red.ID, Of(f).Errors[0].ID)
}

func TestHealthOfASite(t *testing.T) {
	var all []Report
	for i := range 100 {
		f := young()
		f.Protection.ID = dr.ProtectionID(fmt.Sprintf("vm-%02d", i))
		switch {
		case i < 40:
			f.Newest = point("p", time.Duration(16+i)*time.Minute, 1)
		case i == 40:
			f.Cycle = dr.ErrCorrupt
		case i > 90:
			f.Protection.Active.Site, f.Cycle = "elsewhere", errors.New("boom")
		}
		all = append(all, Of(f))
	}
	s := Site("here", all, noon)
	require.Equal(t, []int{91, 50, 40, 1}, []int{s.Protections, s.Normal, s.Warning, s.Critical})
	require.Equal(t, Critical, s.Level)
	require.Equal(t, 55*time.Minute, s.RPO)
	require.Len(t, s.Errors, 2)
	require.Equal(t, CodeReplicationFailing, s.Errors[0].Code, "the worst first")
	rpo := s.Errors[1]
	require.Equal(t, CodeRPOExceeded, rpo.Code)
	require.Contains(t, rpo.Message, "40 of 91 protections")
	require.Len(t, rpo.Inner, maxSummed)
	require.Equal(t, noon.Add(-40*time.Minute), rpo.Time, "when the first of them began")
	require.Equal(t, "vm-39", rpo.Inner[0].Entity.ID)
	require.Equal(t, rpo.ID, Site("here", all[:20], noon).Errors[0].ID, "one row, however many machines it is about")
	require.Equal(t, 100, Site("there", all, noon).Protections, "a site is on either side")
	require.Equal(t, SiteReport{Entity: Entity{Kind: KindSite, ID: "nowhere"}, RPO: -1, Time: noon}, Site("nowhere", all, noon))
	_, err := json.Marshal(s)
	require.NoError(t, err)

	long, bad := young(), young()
	long.Cycle, long.FailedAt = errors.New("boom"), noon.Add(-time.Hour)
	bad.Cycle, bad.FailedAt, bad.Protection.ID = dr.ErrCorrupt, noon.Add(-time.Minute), "db"
	e := Site("here", []Report{Of(long), Of(bad)}, noon).Errors[0]
	require.Equal(t, Critical, e.Level)
	require.Contains(t, e.Message, "protection db")
	require.Equal(t, noon.Add(-time.Hour), e.Time, "a milder one had begun before")
}

func BenchmarkOf(b *testing.B) {
	f := young()
	f.Newest, f.Cycle, f.Failures = point("p", time.Hour, 1), &dr.Error{Op: "read", Err: dr.ErrCorrupt}, 4
	b.ReportAllocs()
	for b.Loop() {
		Of(f)
	}
}

package scheduler_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// A process has its part of what sites and hosts bear, and feels it at once when
// that changes.
func TestAShareOfTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(400, 2, 5, "")
		f.latency = 20 * time.Second
		var whole atomic.Bool
		s := f.scheduler(t, scheduler.Options{Host: f.host, Limits: scheduler.Limits{PerSite: 20, Sites: map[string]int{"site-1": 12, "recovery": 100}, PerHost: 4},
			Share: func(sites ...string) float64 {
				require.Len(t, sites, 1)
				if whole.Load() {
					return 1
				}
				return 0.25
			}})
		go serve(t, s, 20*time.Minute)
		time.Sleep(10 * time.Minute)
		f.mu.Lock()
		require.Equal(t, []int{5, 3, 1}, []int{f.most["site-0"], f.most["site-1"], f.most["host-0-0"]})
		f.mu.Unlock()
		whole.Store(true)
		time.Sleep(11 * time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		require.Equal(t, []int{12, 4}, []int{f.most["site-1"], f.most["host-0-0"]})
		require.Greater(t, f.most["site-0"], 10)
	})
}

// And of what links carry.
func TestAShareOfTheBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(1, 1, 1, "")
		var got []rate.Limit
		s, err := scheduler.New(f.env, scheduler.Options{Bandwidth: []scheduler.Bandwidth{{From: "site-0", Rate: 8 << 20}, {To: "recovery"}},
			Share: func(sites ...string) float64 {
				require.NotContains(t, sites, "")
				return 0.25
			},
			Expire: f.expire,
			Replicate: func(ctx context.Context, id dr.ProtectionID, o replication.KeepOptions) (replication.Report, error) {
				for _, l := range o.Limits {
					got = append(got, l.Limit())
				}
				return f.replicate(ctx, id, o)
			}})
		require.NoError(t, err)
		serve(t, s, 6*time.Minute)
		require.Equal(t, []rate.Limit{2 << 20, rate.Inf}, got[:2])
		require.Equal(t, int64(8<<20), s.Status().Rates["site-0 to any"], "the rule's, which is the fleet's")
	})
}

// Also of a site whose first machines are all asked for at once: nobody knew of it
// before.
func TestAShareOfANewSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(100, 1, 5, "")
		f.latency = 20 * time.Second
		s := f.scheduler(t, scheduler.Options{Host: f.host, Limits: scheduler.Limits{PerSite: 20, PerHost: 8}, Share: func(...string) float64 { return 0.25 }})
		s.Poke(f.records.ids...)
		serve(t, s, 10*time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		require.Equal(t, 5, f.most["site-0"])
		for host, n := range f.most {
			if host != "" && host != "site-0" {
				require.LessOrEqual(t, n, 2, host)
			}
		}
	})
}

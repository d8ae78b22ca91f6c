package scheduler_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

const mb = 1e6

// berlin is an hour ahead of UTC in winter, also where the system knows no zones.
func berlin(t *testing.T) *time.Location {
	z, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return time.FixedZone("CET", 3600)
	}
	return z
}

func TestWindows(t *testing.T) {
	z := berlin(t)
	office := scheduler.Bandwidth{Zone: z, Windows: []scheduler.Window{{Days: scheduler.Workdays(), Begin: 8 * time.Hour, End: 18 * time.Hour, Rate: 50 * mb}}}
	night := scheduler.Bandwidth{Rate: 10 * mb, Windows: []scheduler.Window{{Days: []time.Weekday{time.Friday}, Begin: 22 * time.Hour, End: 6 * time.Hour}}}
	whole := scheduler.Bandwidth{Windows: []scheduler.Window{{End: 24 * time.Hour, Rate: 5}}}
	at := func(day, h, m int, z *time.Location) time.Time { return time.Date(2026, 3, day, h, m, 0, 0, z) } // March 2nd is a Monday
	for _, c := range []struct {
		rule string
		b    scheduler.Bandwidth
		t    time.Time
		want int64
	}{
		{"before the window", office, at(2, 7, 59, z), 0},
		{"it begins", office, at(2, 8, 0, z), 50 * mb},
		{"in UTC it is the zone's clock that counts", office, at(2, 7, 0, time.UTC), 50 * mb},
		{"its last minute", office, at(6, 17, 59, z), 50 * mb},
		{"it ends", office, at(6, 18, 0, z), 0},
		{"not on Saturday", office, at(7, 12, 0, z), 0},
		{"over midnight: the evening", night, at(6, 23, 0, time.UTC), 0},
		{"over midnight: the next morning", night, at(7, 5, 59, time.UTC), 0},
		{"over midnight: not the morning of its own day", night, at(6, 5, 0, time.UTC), 10 * mb},
		{"over midnight: it ends", night, at(7, 6, 0, time.UTC), 10 * mb},
		{"all day", whole, at(4, 23, 59, time.UTC), 5},
	} {
		t.Run(c.rule, func(t *testing.T) { require.Equal(t, c.want, c.b.At(c.t)) })
	}
}

// Copies under way obey the rules of their link and of the whole, and go faster
// or slower when a window begins or ends.
func TestBandwidthFollowsItsWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble's clock begins on Saturday, 2000-01-01 00:00 UTC
		f := newFleet(40, 2, 1, "")
		moved := map[string]map[time.Duration]float64{"site-0": {}, "site-1": {}} // by hour
		began := time.Now().UTC()
		o := scheduler.Options{Expire: f.expire, Silence: 100 * time.Hour,
			Bandwidth: []scheduler.Bandwidth{
				{From: "site-0", To: "recovery", Windows: []scheduler.Window{{Begin: 2 * time.Hour, End: 4 * time.Hour, Rate: mb}}},
				{Rate: 10 * mb},
				{From: "elsewhere", Rate: 1},
			}}
		o.Replicate = func(ctx context.Context, id dr.ProtectionID, k replication.KeepOptions) (replication.Report, error) {
			for { // one cycle that never ends: it must feel the windows
				n := 1 << 20
				for _, l := range k.Limits {
					if l.Limit() == rate.Inf {
						continue
					}
					if err := l.WaitN(ctx, n); err != nil {
						return replication.Report{}, ctx.Err()
					}
				}
				f.mu.Lock()
				moved[f.sites[id]][time.Now().UTC().Sub(began).Truncate(time.Hour)] += float64(n)
				f.mu.Unlock()
			}
		}
		s, err := scheduler.New(f.env, o)
		require.NoError(t, err)
		stop := live(t, s)
		time.Sleep(5*time.Hour + time.Minute)
		require.Equal(t, map[string]int64{"site-0 to recovery": 0, "all": 10 * mb, "elsewhere to any": 1}, s.Status().Rates)
		stop()
		for h := range 5 {
			at := time.Duration(h) * time.Hour
			one, other := moved["site-0"][at]/3600, moved["site-1"][at]/3600
			t.Logf("hour %d: %.1f and %.1f MB/s", h, one/mb, other/mb)
			if h > 0 { // the first one has a ramp
				require.InDelta(t, 10*mb, one+other, mb/5)
			}
			if h == 2 || h == 3 {
				require.InDelta(t, mb, one, mb/10)
			} else if h > 0 {
				require.InDelta(t, 5*mb, one, mb/2)
			}
		}
	})
}

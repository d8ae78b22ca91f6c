package telemetry

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

func TestASchedulerIsFollowed(t *testing.T) {
	r := newRecorder()
	tel, err := New(Options{Meter: r, Now: func() time.Time { return noon }})
	require.NoError(t, err)
	st := scheduler.Status{Protections: []scheduler.Protection{
		{ID: "web", From: "here", To: "there", Expected: true, Last: noon.Add(-2 * time.Minute)},
		{ID: "off", From: "here", To: "there", Last: noon.Add(-time.Hour)},
	}}
	follow := func() { tel.Follow(st, func(dr.ProtectionID) time.Duration { return 15 * time.Minute }) }
	rpos := func() (all []string) {
		for _, v := range r.collect(t) {
			if strings.HasPrefix(v, "lifeboat.replication.rpo{") {
				all = append(all, v[strings.Index(v, "id=")+3:])
			}
		}
		return all
	}
	follow()
	require.Equal(t, []string{"web,lifeboat.site.source=here,lifeboat.site.target=there} 120"}, rpos())

	event := scheduler.Event{Kind: scheduler.Ended, Protection: "web", From: "here", To: "there", Took: time.Second,
		Report: replication.Report{Written: 4096, Point: dr.Point{Time: noon.Add(-time.Minute)}}}
	tel.Observe(event)
	require.Equal(t, []string{"web,lifeboat.site.source=here,lifeboat.site.target=there} 60"}, rpos())
	follow()
	require.Equal(t, []string{"web,lifeboat.site.source=here,lifeboat.site.target=there} 60"}, rpos(), "a status that was taken before makes nothing older")

	event.Report.Existed, event.Report.Point.Time = true, noon
	tel.Observe(event)
	require.Equal(t, []string{"web,lifeboat.site.source=here,lifeboat.site.target=there} 0"}, rpos())
	tel.Observe(scheduler.Event{Kind: scheduler.Failed, Protection: "web", From: "here", To: "there", Err: dr.ErrBusy})
	tel.Observe(scheduler.Event{Kind: scheduler.Pruned, Site: "there", Err: errors.New("no")})
	tel.Observe(scheduler.Event{Kind: scheduler.Pruned, Site: "there"})
	all := strings.Join(r.sums(), "\n")
	require.Contains(t, all, "outcome=written,lifeboat.site.source=here,lifeboat.site.target=there} 4096", "once: what existed was no cycle")
	require.Contains(t, all, "lifeboat.failure.source=replication} 1")
	require.Contains(t, all, "lifeboat.failure.source=prune} 1")

	st.Protections = st.Protections[1:]
	follow()
	require.Empty(t, rpos())
}

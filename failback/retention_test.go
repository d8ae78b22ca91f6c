package failback_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Retention in another process is about to delete a point: it can't be chosen
// any more, and the machine that would run from it is not even stopped. A point
// that was pinned just before stays.
func TestRetentionBesideAFlow(t *testing.T) {
	w := newWorld(t, all, all)
	w.serve(nil)
	failedOver(w)
	old := w.oldest()
	had := w.activeOn()
	change := func() (dr.Plan, error) {
		return failover.ChangePoint(w.record(), recoverypoint.Choice{Option: recoverypoint.Custom, Point: old}, failover.Options{})
	}
	stopped := false
	deletes := make(chan struct{})
	goOn := make(chan struct{})
	w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
		switch {
		case c.Op == opDelete && c.Point == old:
			close(deletes)
			<-goOn
		case c.Op == backendtest.OpStop:
			stopped = true
		}
		return do()
	})
	expired := make(chan error, 1)
	go func() {
		_, err := w.env.Expire(t.Context(), pid, recoverypoint.Policy{Keep: time.Nanosecond})
		expired <- err
	}()
	<-deletes
	st := w.do(change())
	require.Equal(t, dr.RunFailed, st.State)
	require.Contains(t, st.Reason, dr.ErrNoPoint.Error())
	require.False(t, stopped)
	close(goOn)
	require.NoError(t, <-expired)
	w.intercept(nil)
	require.Empty(t, w.record().Expiring)
	w.same(had, w.activeOn())
}

// The pin comes between retention's look at the record and its first deletion.
func TestRetentionFindsAPinThatHasJustCome(t *testing.T) {
	w := newWorld(t, all, all)
	w.serve(nil)
	failedOver(w)
	old := w.oldest()
	w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
		if err := do(); err != nil || c.Op != opList {
			return err
		}
		w.intercept(nil)
		_, err := w.env.Amend(t.Context(), pid, func(p *dr.Protection) error { p.Pin(old, "run/x"); return nil })
		return err
	})
	_, err := w.env.Expire(t.Context(), pid, recoverypoint.Policy{Keep: time.Nanosecond})
	require.NoError(t, err)
	require.Equal(t, old, w.oldest())
}

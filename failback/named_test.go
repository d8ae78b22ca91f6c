package failback_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// A run's name is used once, also when the journal has forgotten the run, or
// is another one. The second run would find the first one's last replication,
// and fail over to it as if nothing were lost.
func TestRunIsNamedOnce(t *testing.T) {
	w := newWorld(t, all, all)
	w.serve(nil)
	protected(w)
	planned := func() dr.Plan {
		p, err := failover.Planned(w.record(), failover.Options{ShutdownTimeout: patience})
		require.NoError(t, err)
		return p
	}
	require.NoError(t, w.engine.Start(t.Context(), "out", planned()))
	require.Equal(t, dr.RunDone, w.wait("out").State)
	w.must(failover.Cancel(w.record()))
	w.scribble(hq, vm, 5)
	had := w.activeOn()
	_, err := w.engine.Purge(t.Context(), 0)
	require.NoError(t, err)
	require.ErrorIs(t, w.engine.Start(t.Context(), "out", planned()), dr.ErrRunExists)

	record := w.record()
	w.end()
	w.path += "2" // the journal is lost, and the records are brought back
	w.open()
	record.Version, record.Epoch = 0, 0
	_, err = w.engine.Save(t.Context(), record)
	require.NoError(t, err)
	w.serve(nil)
	require.NoError(t, w.engine.Start(t.Context(), "out", planned()))
	st := w.wait("out")
	w.same(had, w.activeOn(), "%s", st.Reason)
	require.Equal(t, dr.RunFailed, st.State)
	require.Contains(t, st.Reason, "start it under another")
	require.Equal(t, dr.On, w.power(hq, vm))
}

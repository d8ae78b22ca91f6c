package servertest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// stalled are claims on a store that hangs once, as a network's file system
// does: whoever waits for it hears of no context.
type stalled struct {
	dr.Claims
	once   sync.Once
	called chan struct{}
	goOn   chan struct{}
	had    chan struct{} // it has what it waited for
}

func (s *stalled) Acquire(ctx context.Context, resource, owner string) (epoch uint64, err error) {
	first := false
	s.once.Do(func() {
		first = true
		close(s.called)
		<-s.goOn
		epoch, err = s.Claims.Acquire(context.WithoutCancel(ctx), resource, owner)
		close(s.had)
	})
	if first {
		return epoch, err
	}
	return s.Claims.Acquire(ctx, resource, owner)
}

// What is claimed for a run that has ended meanwhile is given back.
func TestClaimThatComesTooLate(t *testing.T) {
	t.Parallel()
	s := &stalled{Claims: newClaims(t), called: make(chan struct{}), goOn: make(chan struct{}), had: make(chan struct{})}
	st := newState(t, temporal.Options{Claims: s})
	_, err := st.Open()
	require.NoError(t, err)
	t.Cleanup(st.Kill)
	e := st.e
	p := dr.Plan{Flow: "test", Rev: 1, Locks: []string{"m"}, Steps: []dr.Step{do("a")}}
	started := make(chan error, 1)
	go func() { started <- e.Start(t.Context(), "r", p) }()
	<-s.called
	until(t, e, "r", func(dr.Status) bool { return true })
	require.NoError(t, e.Cancel(t.Context(), "r", "it hangs"))
	require.NoError(t, <-started)
	until(t, e, "r", func(s dr.Status) bool { return s.State == dr.RunCancelled })
	close(s.goOn)
	<-s.had
	require.Eventually(t, func() bool {
		_, err := s.Claims.Acquire(t.Context(), "m", "another")
		return err == nil
	}, time.Minute, 50*time.Millisecond)
}

package temporal

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
)

// line is a client that hears heartbeats, or nothing.
type line struct {
	client.Client
	cut   atomic.Bool
	beats atomic.Int64
}

func (l *line) RecordActivityHeartbeat(ctx context.Context, _ []byte, _ ...any) error {
	if l.cut.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	l.beats.Add(1)
	return nil
}

// A worker that can't reach Temporal stops its action before Temporal gives
// the step to another, at whatever moment the line is cut.
func TestCutOffHeartStopsInTime(t *testing.T) {
	const limit = 20 * time.Second
	for cut := time.Duration(0); cut < 12*time.Second; cut += 700 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			l := &line{}
			ctx, halt := context.WithCancelCause(t.Context())
			h := newHeart(l, activity.Info{HeartbeatTimeout: limit}, offer{}, halt)
			defer h.stop()
			began := time.Now()
			time.Sleep(cut)
			l.cut.Store(true)
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), errLost)
			heard := began.Add(time.Duration(l.beats.Load()) * slowest)
			require.Less(t, time.Since(heard), limit*8/10, "the line was cut after %v", cut)
		})
	}
}

// The line may fail for a while.
func TestHeartOutlivesAShortCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{}
		ctx, halt := context.WithCancelCause(t.Context())
		h := newHeart(l, activity.Info{HeartbeatTimeout: 20 * time.Second}, offer{}, halt)
		defer h.stop()
		time.Sleep(6 * time.Second)
		l.cut.Store(true)
		time.Sleep(5 * time.Second)
		l.cut.Store(false)
		time.Sleep(time.Hour)
		require.NoError(t, ctx.Err())
	})
}

// In a crowd hearts beat as seldom as their offers say, and by the limit.
func TestHeartsOfACrowdBeatSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{}
		ctx, halt := context.WithCancelCause(t.Context())
		h := newHeart(l, activity.Info{HeartbeatTimeout: 2 * time.Minute}, offer{Every: 30 * time.Second}, halt)
		time.Sleep(time.Hour + time.Second)
		require.EqualValues(t, 120, l.beats.Load())
		halt(errors.New("over"))
		h.stop()
		require.Error(t, ctx.Err())
	})
}

// A beginning is told by a heartbeat alone only if no earlier one can come to
// Temporal after it, and say that nothing has begun.
func TestABeginningIsNotOverwritten(t *testing.T) {
	for _, cut := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := &line{}
			_, halt := context.WithCancelCause(t.Context())
			h := newHeart(l, activity.Info{HeartbeatTimeout: 20 * time.Second}, offer{}, halt)
			defer h.stop()
			l.cut.Store(cut)
			time.Sleep(11 * time.Second) // two beats
			l.cut.Store(false)
			time.Sleep(time.Second)
			told, err := h.quietly(t.Context())
			require.NoError(t, err)
			require.Equal(t, !cut, told)
			require.Equal(t, told, h.told().Begun)
		})
	}
}

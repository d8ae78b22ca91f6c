package servertest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// A driver that was given no key, or a wrong one, ends no run: those that come
// to it stand still until one with the key takes them.
func TestDriverWithoutTheKeyEndsNothing(t *testing.T) {
	t.Parallel()
	queue := fmt.Sprint("keyless", queues.Add(1))
	claims := newClaims(t)
	open := func(secret byte, o temporal.Options) *temporal.Engine {
		codec, err := temporal.NewCodec(temporal.CodecOptions{Keys: []temporal.Key{{ID: "k", Secret: append(make([]byte, 31), secret)}}})
		require.NoError(t, err)
		c, err := temporal.Connect(t.Context(), temporal.ConnectOptions{Address: server.GetFrontendHostPort(), Namespace: server.GetDefaultNamespace(), Codec: codec})
		require.NoError(t, err)
		t.Cleanup(c.Close)
		o.Queue, o.Claims, o.Converter = queue, claims, codec.DataConverter()
		o.Heartbeat, o.BackoffFirst = 4*time.Second, time.Millisecond
		e, err := temporal.Open(c, o)
		require.NoError(t, err)
		t.Cleanup(func() { e.Close() })
		return e
	}
	wrong := open(1, temporal.Options{})
	starter := open(2, temporal.Options{NoDriver: true})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	p := dr.Plan{Flow: "test", Rev: 1, Locks: []string{"m"}, Steps: []dr.Step{{ID: "a", Action: "do@1"}}}
	require.ErrorIs(t, starter.Start(ctx, "r", p), temporal.ErrUnreachable, "it waits for a driver")
	require.NoError(t, wrong.Close())
	right := open(2, temporal.Options{})
	require.ErrorIs(t, right.Start(t.Context(), "r", p), dr.ErrRunExists)
	go func() {
		_ = right.Serve(t.Context(), dr.Actions{"do@1": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }})
	}()
	require.Eventually(t, func() bool {
		s, err := right.Status(t.Context(), "r") // fails as long as the wrong one was the last that tried
		return err == nil && s.State == dr.RunDone
	}, 90*time.Second, 100*time.Millisecond)
}

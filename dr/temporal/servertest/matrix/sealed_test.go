package matrix

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/claims"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// canaries stand where a plan, its results, errors, decisions and progress
// could give something away.
var canaries = []string{"canary-step", "canary-action", "canary-lock", "canary-input", "canary-question", "canary-result", "canary-error",
	"canary-undo-error", "canary-progress", "canary-author", "canary-note", "canary-why"}

// canaryRuns makes runs that sing everywhere: one that is decided and done,
// one that fails, one that is cancelled.
func canaryRuns(t *testing.T, o dr.Orchestrator, prefix dr.RunID) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	acts := dr.Actions{
		"canary-action@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
			c.Beat(dr.Progress{What: "canary-progress"})
			time.Sleep(100 * time.Millisecond)
			if strings.Contains(string(c.Input), "fail") {
				return nil, dr.Permanent(errors.New("canary-error"))
			}
			return json.Marshal("canary-result")
		},
		"undo@1": func(context.Context, *dr.Call) (json.RawMessage, error) {
			return nil, dr.Permanent(errors.New("canary-undo-error"))
		},
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- o.Serve(serving, acts) }()
	p := func(input string) dr.Plan {
		in, err := json.Marshal("canary-input " + input)
		require.NoError(t, err)
		return dr.Plan{Flow: "flow", Locks: []string{"canary-lock " + input}, Steps: []dr.Step{
			{ID: "first", Action: "canary-action@1", Undo: "undo@1", Input: json.RawMessage(`"canary-input"`)},
			{ID: "gate", Gate: "canary-question?", After: []string{"first"}},
			{ID: "canary-step", Action: "canary-action@1", Undo: "undo@1", Input: in, After: []string{"gate"}},
		}}
	}
	ids := map[dr.RunID]string{prefix + "done": "go", prefix + "failed": "fail", prefix + "cancelled": "stop"}
	for id, input := range ids {
		require.NoError(t, o.Start(ctx, id, p(input)))
	}
	for id, input := range ids {
		_, err := dr.WaitUntil(ctx, o, id, func(s dr.Status) bool { g, _ := s.Step("gate"); return g.State == dr.StepWaiting })
		require.NoError(t, err)
		if input == "stop" {
			require.NoError(t, o.Cancel(ctx, id, "canary-why"))
		} else {
			require.NoError(t, o.Decide(ctx, id, "gate", dr.Decision{Verdict: dr.Approve, By: "canary-author", Note: "canary-note"}))
		}
		_, err = dr.Wait(ctx, o, id, nil)
		require.NoError(t, err)
	}
	stop()
	<-served
}

// found are the canaries that stand in Temporal's databases.
func found(s *temporalserver.Server) (all []string) {
	var dumps strings.Builder
	for _, db := range []string{"temporal", "temporal_visibility"} {
		dumps.WriteString(s.DB.Run("pg_dump", "--data-only", "--inserts", s.DB.DSN(db)))
	}
	for _, c := range canaries {
		// Columns of bytes are dumped in hexadecimal.
		if strings.Contains(dumps.String(), c) || strings.Contains(dumps.String(), hex.EncodeToString([]byte(c))) {
			all = append(all, c)
		}
	}
	return all
}

// With the codec nothing that a run is about can be read in Temporal's
// database; without, it can, or the test would find nothing in any case. The
// search attributes are there, and say what they may.
func TestNothingReadableInTheDatabase(t *testing.T) {
	s := temporalserver.Start(t, temporalserver.Options{})
	codec, err := temporal.NewCodec(temporal.CodecOptions{Keys: []temporal.Key{{ID: "k", Secret: make([]byte, 32)}}})
	require.NoError(t, err)
	c, err := temporal.Connect(t.Context(), temporal.ConnectOptions{Address: s.Address, Codec: codec})
	require.NoError(t, err)
	defer c.Close()
	for range 2 {
		require.NoError(t, temporal.RegisterSearchAttributes(t.Context(), c, s.Namespace), "also when they are there")
	}
	e, err := temporal.Open(c, temporal.Options{Claims: claims.NewDir(t.TempDir(), claims.Options{}), Queue: "sealed",
		Heartbeat: heartbeat, Converter: codec.DataConverter()})
	require.NoError(t, err)
	canaryRuns(t, e, "sealed-")
	st, err := e.Status(t.Context(), "sealed-done")
	require.NoError(t, err)
	require.Equal(t, json.RawMessage(`"canary-result"`), st.Steps[2].Result, "who has the key can")
	e.Close()
	require.Empty(t, found(s))

	e, err = temporal.Open(c, temporal.Options{Claims: claims.NewDir(t.TempDir(), claims.Options{}), Queue: "searched", Heartbeat: heartbeat,
		Converter: codec.DataConverter(), SearchAttributes: true})
	require.NoError(t, err)
	canaryRuns(t, e, "searched-")
	e.Close()
	require.Equal(t, []string{"canary-lock"}, found(s), "search attributes stand readable")

	plain, err := temporal.Connect(t.Context(), temporal.ConnectOptions{Address: s.Address})
	require.NoError(t, err)
	defer plain.Close()
	e, err = temporal.Open(plain, temporal.Options{Claims: claims.NewDir(t.TempDir(), claims.Options{}), Queue: "plain", Heartbeat: heartbeat})
	require.NoError(t, err)
	canaryRuns(t, e, "plain-")
	e.Close()
	t.Logf("without a codec: %v", found(s))
	require.Greater(t, len(found(s)), 6)
}

package embedded_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
)

// A plan of one's own: open the journal, serve the actions, start a run, answer
// its gate, and wait for its end.
func Example() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	engine, err := embedded.Open(filepath.Join(dir, "journal"), embedded.Options{})
	if err != nil {
		panic(err)
	}
	defer engine.Close()

	// An action looks for what its key made before, and makes it if it isn't
	// there: it may be called again after a crash.
	actions := dr.Actions{
		"dns.point@1": func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			var in struct{ Name, Address string }
			if err := json.Unmarshal(c.Input, &in); err != nil {
				return nil, dr.Permanent(err)
			}
			fmt.Println(in.Name, "is", in.Address)
			return json.Marshal(in.Address)
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- engine.Serve(ctx, actions) }()

	plan := dr.Plan{Flow: "move", Rev: 1, Locks: []string{"service/shop"}, Steps: []dr.Step{
		{ID: "approve", Gate: "Move the shop to the other site?"},
		{ID: "dns", Action: "dns.point@1", Input: json.RawMessage(`{"name":"shop.example","address":"192.0.2.7"}`), After: []string{"approve"}},
	}}
	// Asking twice, as after a crash, starts it once.
	for range 2 {
		if err := engine.Start(ctx, "move-shop-2026-01", plan); err != nil && !errors.Is(err, dr.ErrRunExists) {
			panic(err)
		}
	}
	end, err := dr.Wait(ctx, engine, "move-shop-2026-01", func(s dr.Status) {
		if s.State != dr.RunWaiting {
			return
		}
		fmt.Println(s.Reason)
		err := engine.Decide(ctx, s.Run, "approve", dr.Decision{Verdict: dr.Approve, By: "ann"})
		if err != nil {
			panic(err)
		}
	})
	fmt.Println(end.State, err)
	stop()
	fmt.Println(<-served)
	// Output:
	// waiting for a decision: Move the shop to the other site?
	// shop.example is 192.0.2.7
	// done <nil>
	// context canceled
}

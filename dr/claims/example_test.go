package claims_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/claims"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
)

// Two engines, which may be on two hosts, never work on one machine at once.
func Example() {
	dir, err := os.MkdirTemp("", "claims")
	must(err)
	defer os.RemoveAll(dir)
	shared := filepath.Join(dir, "claims") // beside the recovery points, say on a share
	must(os.Mkdir(shared, 0o700))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	open := func(name string) *embedded.Engine {
		e, err := embedded.Open(filepath.Join(dir, name), embedded.Options{Claims: claims.NewDir(shared, claims.Options{})})
		must(err)
		go func() {
			_ = e.Serve(ctx, dr.Actions{"look@1": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }})
		}()
		return e
	}
	berlin, bonn := open("berlin"), open("bonn")
	defer berlin.Close()
	defer bonn.Close()

	plan := dr.Plan{Flow: "look", Rev: 1, Locks: []string{"protection/web"}, Steps: []dr.Step{
		{ID: "sure", Gate: "Look at web?"},
		{ID: "look", Action: "look@1", After: []string{"sure"}},
	}}
	must(berlin.Start(ctx, "r1", plan))
	fmt.Println("meanwhile:", errors.Is(bonn.Start(ctx, "r2", plan), dr.ErrBusy))

	must(berlin.Decide(ctx, "r1", "sure", dr.Decision{Verdict: dr.Approve, By: "ann"}))
	_, err = dr.Wait(ctx, berlin, "r1", nil)
	must(err)
	fmt.Println("afterwards:", bonn.Start(ctx, "r2", plan))
	// Output:
	// meanwhile: true
	// afterwards: <nil>
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

package temporal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// A worker of the site Frankfurt: it drives runs, of whichever site, and calls
// the actions of those steps that are Frankfurt's. Other sites run the same
// program with another name.
func ExampleOpen() {
	ctx := context.Background()
	o := temporal.ConnectOptions{
		Address: "temporal.example:7233", Namespace: "recovery",
		TLS:        &temporal.TLS{}, // the system's authorities; or CA, and Cert with Key
		APIKeyFile: "/etc/lifeboat/temporal.key",
	}
	// Once, where the server is one's own: histories are kept for a month.
	if err := temporal.EnsureNamespace(ctx, o, temporal.GoodRetention); err != nil {
		fmt.Println(err)
		return
	}
	c, err := temporal.Connect(ctx, o)
	if err != nil {
		fmt.Println(err) // what was tried, what the server said, and what to do
		return
	}
	defer c.Close()
	var shared dr.Claims // claims.NewDir("/srv/recovery/claims", claims.Options{}), say, or postgres.Open
	e, err := temporal.Open(c, temporal.Options{Claims: shared})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Close()
	actions := dr.Actions{"dns.point@1": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }} // failover.Actions(env), and one's own
	if err := e.Serve(ctx, actions, "frankfurt"); !errors.Is(err, context.Canceled) {
		fmt.Println(err)
	}
}

// Plans name machines and addresses. With a codec they stand in Temporal's
// database as ciphertext; its console decodes them by a handler of one's own.
func ExampleNewCodec() {
	key := make([]byte, 32) // from wherever secrets are kept
	codec, err := temporal.NewCodec(temporal.CodecOptions{Keys: []temporal.Key{{ID: "2026", Secret: key}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := temporal.Connect(context.Background(), temporal.ConnectOptions{Codec: codec})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
}

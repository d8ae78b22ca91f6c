package servertest

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"go.temporal.io/server/temporaltest"
)

// server is one for all tests: it takes seconds to begin. Tests tell their runs
// apart by their queues.
var server *temporaltest.TestServer

func TestMain(m *testing.M) {
	flag.Parse()
	// What the tests do is mostly to wait for a death to be noticed.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8")
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	server = temporaltest.NewServer()
	code := m.Run()
	server.Stop()
	if code != 0 {
		fmt.Println("exit", code)
	}
	os.Exit(code)
}

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

// children are what the test binary does instead, if it was told to by the
// environment variable of that name, whose value it is given.
var children = map[string]func(told string) error{}

// life is what such a process is told.
type life struct{ HostPort, Namespace, Queue, Dir string }

func TestMain(m *testing.M) {
	for name, child := range children {
		told := os.Getenv(name)
		if told == "" {
			continue
		}
		if err := child(told); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	// What the tests do is mostly to wait for a death to be noticed.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8")
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	server = temporaltest.NewServer()
	code := m.Run()
	server.Stop()
	os.Exit(code)
}

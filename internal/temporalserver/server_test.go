package temporalserver_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

func TestServerComesBack(t *testing.T) {
	begun := time.Now()
	s := temporalserver.Start(t, temporalserver.Options{Namespace: "lifeboat"})
	t.Logf("ready after %v", time.Since(begun))
	require.Equal(t, "lifeboat", s.DB.QueryIn("temporal", "SELECT name FROM namespaces WHERE name = 'lifeboat'"))
	s.Kill()
	begun = time.Now()
	s.Start()
	t.Logf("after a kill: %v", time.Since(begun))
	s.DB.Kill()
	s.DB.Start()
	s.Ready()
	s.Stop()
	s.Start()
}

// What the server is asked for is counted, and what it asks its store for.
func TestRequests(t *testing.T) {
	s := temporalserver.Start(t, temporalserver.Options{Measure: true})
	before, err := s.Requests()
	require.NoError(t, err)
	s.MakeNamespace("another", time.Hour)
	after, err := s.Requests()
	require.NoError(t, err)
	require.Greater(t, after.Frontend["RegisterNamespace"], before.Frontend["RegisterNamespace"], "%v", after)
	require.Equal(t, before.Store["CreateNamespace"]+1, after.Store["CreateNamespace"], "%v", after)
}

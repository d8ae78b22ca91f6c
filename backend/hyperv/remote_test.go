package hyperv

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

// agentEnd is a host whose agent serves it to a replicator elsewhere, as virtual
// disks are the host's own.
func agentEnd(t *testing.T, name string) roundtriptest.End {
	end := hypervEnd(t, name)
	ca, err := trialpki.New("trial", time.Hour)
	require.NoError(t, err)
	config := func(pair trialpki.Pair, err error) *tls.Config {
		require.NoError(t, err)
		cert, err := pair.TLS()
		require.NoError(t, err)
		return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: ca.Pool(), ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- remote.Serve(ctx, ln, end.Backend, remote.ServeOptions{TLS: config(ca.Server("agent", "127.0.0.1")), Grace: -1})
	}()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	c, err := remote.Dial(ctx, ln.Addr().String(), remote.DialOptions{TLS: config(ca.Client("replicator"))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	end.Backend = c
	return end
}

// Out and home through an agent, with the older reference points forgotten as if
// there were none in between.
func TestRoundTripThroughAnAgent(t *testing.T) {
	roundtriptest.OutAndHome(t, agentEnd(t, "home"), memoryEnd(t, "far"))
	roundtriptest.OutAndHome(t, memoryEnd(t, "home"), agentEnd(t, "far"))
}

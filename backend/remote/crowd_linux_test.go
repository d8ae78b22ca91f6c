package remote

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
)

// A host that opens all the connections that it can, and says nothing, keeps no other out.
func TestAHostThatTakesAllThePlaces(t *testing.T) {
	a := serve(t, memory.New(memory.Options{}), ServeOptions{})
	from := func(ip string) net.Dialer { return net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}} }
	greedy := from("127.0.0.2")
	for range 2 * porchPlaces {
		conn, err := greedy.DialContext(t.Context(), "tcp", a.addr)
		require.NoError(t, err)
		defer conn.Close()
	}
	other := from("127.0.0.3")
	ctx, cancel := context.WithTimeout(t.Context(), greetTime*8/10) // those places are free again later
	defer cancel()
	c, err := Dial(ctx, a.addr, DialOptions{TLS: pki().client, Dial: other.DialContext})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

package agentwire

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// answered is a connection whose peer answers so, whatever it is asked.
type answered struct {
	net.Conn
	r   io.Reader
	got bytes.Buffer
}

func (a *answered) Read(p []byte) (int, error)  { return a.r.Read(p) }
func (a *answered) Write(p []byte) (int, error) { return a.got.Write(p) }

func TestKnock(t *testing.T) {
	knock := func(answer string) (*Link, *answered, error) {
		a := &answered{r: strings.NewReader(answer)}
		l, err := Knock(a, "disks1.example.com:8443")
		return l, a, err
	}
	_, a, err := knock(Switching)
	require.NoError(t, err)
	require.Equal(t, "GET /v1/session HTTP/1.1\r\nHost: disks1.example.com:8443\r\nUser-Agent: lifeboat\r\nConnection: Upgrade\r\nUpgrade: lifeboat\r\n\r\n", a.got.String())
	told := dr.Permanent(fmt.Errorf("%w: for a reason", dr.ErrTorn))
	body := string(EncodeError(told))
	for what, c := range map[string]struct {
		answer    string
		is        error
		permanent bool
	}{
		"what it says":      {fmt.Sprintf("HTTP/1.1 403 Forbidden\r\nContent-Type: %s; x=y\r\nContent-Length: %d\r\n\r\n%s", ErrorType, len(body), body), dr.ErrTorn, true},
		"who it is":         {"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", fs.ErrPermission, true},
		"something else":    {"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>", dr.ErrUnsupported, dr.IsPermanent(dr.ErrUnsupported)},
		"too busy":          {"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", dr.ErrBusy, false},
		"broken":            {"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", ErrProtocol, false},
		"not HTTP":          {"SSH-2.0-OpenSSH_9.2\r\n", ErrProtocol, false},
		"to something else": {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", ErrProtocol, false},
		"too early":         {Switching + "frames", ErrProtocol, false},
		"gone":              {"", io.ErrUnexpectedEOF, false},
		"gone half way":     {"HTTP/1.1 101 Switching Protocols\r\nConn", ErrProtocol, false},
	} {
		_, _, err := knock(c.answer)
		require.ErrorIs(t, err, c.is, what)
		require.Equal(t, c.permanent, dr.IsPermanent(err), what)
	}
	// A head without end is read no further than it may be long.
	endless := &answered{r: io.MultiReader(strings.NewReader("HTTP/1.1 101 Switching Protocols\r\n"), &repeat{s: "X-A: b\r\n"})}
	_, err = Knock(endless, "a:1")
	require.ErrorIs(t, err, ErrProtocol)
}

// repeat says the same for ever.
type repeat struct{ s string }

func (r *repeat) Read(p []byte) (n int, err error) {
	for n+len(r.s) <= len(p) {
		n += copy(p[n:], r.s)
	}
	return n, nil
}

package agentwire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// UpgradeToken is what a client asks HTTP to become.
	UpgradeToken = "lifeboat"
	// ErrorType is the media type of an error as EncodeError makes it, in the
	// answer to a request that didn't become a session.
	ErrorType = "application/vnd.lifeboat.error+json"
	// MaxHead bounds the head of a request or of its answer, in bytes.
	MaxHead = 8 << 10
)

// SessionPath is where sessions of a version of the protocol begin.
func SessionPath(version int) string { return "/v" + strconv.Itoa(version) + "/session" }

// Served names the paths of all versions that this package speaks, for the text
// of an error.
func Served() string {
	var all []string
	for v := MinVersion; v <= MaxVersion; v++ {
		all = append(all, SessionPath(v))
	}
	return strings.Join(all, ", ")
}

// Switching is the answer to a request behind which frames follow.
const Switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + UpgradeToken + "\r\n\r\n"

// Asks tells whether a request's head asks to become a session.
func Asks(h http.Header) bool {
	return hasToken(h.Values("Connection"), "upgrade") && hasToken(h.Values("Upgrade"), UpgradeToken)
}

func hasToken(values []string, want string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), want) {
				return true
			}
		}
	}
	return false
}

// Knock asks the server at the other end of conn, whose name is host, for a
// session, and takes conn over. Its deadlines are the caller's. A server's refusal
// is the error that it sent, or what its status says: fs.ErrPermission,
// dr.ErrUnsupported or dr.ErrBusy.
func Knock(conn net.Conn, host string) (*Link, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+host+SessionPath(MaxVersion), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: address of an agent: %v", dr.ErrInvalid, err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", UpgradeToken)
	req.Header.Set("User-Agent", "lifeboat")
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	left := &io.LimitedReader{R: conn, N: MaxHead + MaxFault}
	r := bufio.NewReader(left)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		var n net.Error
		if errors.As(err, &n) || err == io.EOF || err == io.ErrUnexpectedEOF && left.N > 0 {
			return nil, err // the connection's end, which the caller tells apart
		}
		return nil, fmt.Errorf("%w: not an answer of HTTP: %v", ErrProtocol, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, refused(res)
	}
	if !Asks(res.Header) {
		return nil, fmt.Errorf("%w: the server switched to %q", ErrProtocol, res.Header.Get("Upgrade"))
	}
	if r.Buffered() > 0 {
		return nil, fmt.Errorf("%w: the server spoke before the hello", ErrProtocol)
	}
	return NewLink(conn), nil
}

// refused is the error that an answer stands for.
func refused(res *http.Response) error {
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err == nil && kind == ErrorType {
		b, err := io.ReadAll(io.LimitReader(res.Body, MaxFault))
		if err != nil {
			return err
		}
		return DecodeError(b)
	}
	err := fmt.Errorf("the server answers %q", clip(res.Status))
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return dr.Permanent(fmt.Errorf("%w: %w", fs.ErrPermission, err))
	case http.StatusNotFound, http.StatusUpgradeRequired, http.StatusHTTPVersionNotSupported:
		return fmt.Errorf("%w: %w", dr.ErrUnsupported, err)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return fmt.Errorf("%w: %w", dr.ErrBusy, err)
	}
	return fmt.Errorf("%w: %w", ErrProtocol, err)
}

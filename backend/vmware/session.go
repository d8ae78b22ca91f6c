package vmware

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"time"

	vim "github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// retries bounds how often a call that changes nothing is sent again when the
// network fails.
const retries = 3

// session is in front of every call of the API. A call that finds the session
// dead logs in again, once for all that find it, and is then made: it had no
// effect before. A call that only reads is made again when the network fails;
// others are not, as nobody knows whether they happened.
type session struct {
	next   soap.RoundTripper
	client *vim25.Client
	user   *url.Userinfo
	log    *slog.Logger

	entry gate // whoever logs in or out, one at a time

	mu      sync.Mutex
	turn    int // how often it was logged in
	closed  bool
	refused error     // the last login was, for what a repetition won't cure
	when    time.Time // and when
}

// loginPause is how long nobody logs in again after a login was refused: many
// calls find a session dead at once, and accounts are locked after a few wrong
// passwords.
const loginPause = 30 * time.Second

var errEnded = errors.New("the connection to vSphere is closed")

// gate lets one through at a time, and lets those who wait give up.
type gate chan struct{}

func (g gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g <- struct{}{}:
		return func() { <-g }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// turns is how often it was logged in: what a session keeps, such as views, is
// gone when that changes.
func (s *session) turns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turn
}

func (s *session) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	s.mu.Lock()
	turn, closed := s.turn, s.closed
	s.mu.Unlock()
	if closed {
		return errEnded
	}
	if err := askGuard(ctx); err != nil {
		return err
	}
	err := s.try(ctx, req, res)
	if !notAuthenticated(err) || loggingIn(req) {
		return err
	}
	if err := s.login(ctx, turn); err != nil {
		return err
	}
	if err := askGuard(ctx); err != nil {
		return err
	}
	reset(res)
	return s.try(ctx, req, res)
}

// try makes a call, again if that can do no harm.
func (s *session) try(ctx context.Context, req, res soap.HasFault) error {
	for n := 1; ; n++ {
		err := s.next.RoundTrip(ctx, req, res)
		if err == nil || n == retries || !reads(req) || !lost(err) || ctx.Err() != nil {
			return err
		}
		s.log.DebugContext(ctx, "call sent again", "call", callName(req), "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(n) * 200 * time.Millisecond):
		}
		reset(res)
	}
}

// login logs in, unless somebody has since the given turn.
func (s *session) login(ctx context.Context, turn int) error {
	leave, err := s.entry.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	done, closed, refused := s.turn != turn, s.closed, s.refused
	if time.Since(s.when) >= loginPause {
		refused = nil
	}
	s.mu.Unlock()
	switch {
	case done:
		return nil
	case closed:
		return errEnded
	case refused != nil:
		return refused
	case turn > 0:
		s.log.InfoContext(ctx, "session replaced", "turn", turn)
	}
	// Not through this session, which would log in again.
	err = vim.NewManager(s.beneath()).Login(ctx, s.user)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.turn++
		s.refused = nil
	case soap.IsSoapFault(err):
		s.refused, s.when = explain(err), time.Now()
		return s.refused
	}
	return err
}

// beneath is the client without this session in front of it.
func (s *session) beneath() *vim25.Client {
	c := *s.client
	c.RoundTripper = s.next
	return &c
}

func (s *session) logout(ctx context.Context) error {
	leave, err := s.entry.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	err = vim.NewManager(s.beneath()).Logout(ctx)
	s.client.CloseIdleConnections()
	if notAuthenticated(err) {
		return nil
	}
	return err
}

func (s *session) touch(ctx context.Context) {
	if _, err := methods.GetCurrentTime(ctx, s); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "session could not be kept alive", "error", err)
	}
}

// callName is a call's name on the wire.
func callName(req soap.HasFault) string {
	return strings.TrimSuffix(reflect.TypeOf(req).Elem().Name(), "Body")
}

func loggingIn(req soap.HasFault) bool {
	n := callName(req)
	return strings.HasPrefix(n, "Login") || n == "Logout"
}

// reads tells whether a call changes nothing that outlives its answer.
func reads(req soap.HasFault) bool {
	n := callName(req)
	for _, p := range []string{"Retrieve", "Continue", "Query", "Find", "Current", "HttpNfcLeaseProgress", "ListProcesses", "ListFiles", "InitiateFileTransfer"} {
		if strings.HasPrefix(n, p) {
			return true
		}
	}
	return false
}

// lost tells whether an error is of the way, not of the server.
func lost(err error) bool {
	return err != nil && !soap.IsSoapFault(err) && !soap.IsVimFault(err) && !soap.IsCertificateUntrusted(err) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

func notAuthenticated(err error) bool {
	if err == nil || !soap.IsSoapFault(err) {
		return false
	}
	_, ok := soap.ToSoapFault(err).VimFault().(types.NotAuthenticated)
	return ok
}

// reset empties an answer that holds a fault.
func reset(res soap.HasFault) { reflect.ValueOf(res).Elem().SetZero() }

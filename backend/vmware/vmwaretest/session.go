package vmwaretest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// session is a login that lasts.
type session struct {
	user string
	used time.Time
}

// idleTimeout is the option by which vcsim would watch each session in a
// goroutine that outlives the simulator.
const idleTimeout = "config.vmacore.soap.sessionTimeout"

// ownSessions takes expiry and logins over from vcsim.
func (s *Simulator) ownSessions() {
	options := s.model.Map().OptionManager()
	var kept []types.BaseOptionValue
	for _, o := range options.Setting {
		if o.GetOptionValue().Key != idleTimeout {
			kept = append(kept, o)
		}
	}
	options.Setting = kept
	s.model.Map().SessionManager().ValidLogin = func(req *types.Login) bool {
		return s.password(req.UserName, req.Password)
	}
}

func (s *Simulator) password(user, password string) bool {
	return user == s.options.User && password == s.options.Password ||
		s.options.Reader != "" && user == s.options.Reader && password == s.options.Password
}

// ExpireSessions ends every session, as 30 idle minutes do: calls are answered
// NotAuthenticated, those that wait for updates at once, and /folder 401, until
// the client logs in again. Leases live on. It returns how many sessions there
// were.
func (s *Simulator) ExpireSessions() int {
	s.mu.Lock()
	keys := make([]string, 0, len(s.sessions))
	for key := range s.sessions {
		keys = append(keys, key)
	}
	s.mu.Unlock()
	for _, key := range keys {
		s.endSession(key)
	}
	return len(keys)
}

func (s *Simulator) endSession(key string) {
	s.forgetSession(key)
	s.model.Map().SessionManager().TerminateSession(s.context(), &types.TerminateSession{SessionId: []string{key}})
}

// forgetSession ends the calls that wait in a session, which vcsim finds only
// as long as it has the session, and lets no new one begin.
func (s *Simulator) forgetSession(key string) {
	s.mu.Lock()
	delete(s.sessions, key)
	var waits []*wait
	for w := range s.waits {
		if w.session == key {
			waits = append(waits, w)
		}
	}
	s.mu.Unlock()
	for _, w := range waits {
		w.cancel()
		<-w.over
	}
}

// Sessions is the number of sessions that are logged in.
func (s *Simulator) Sessions() int {
	s.endIdle()
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// endIdle ends the sessions that were not used for Options.SessionIdle.
func (s *Simulator) endIdle() {
	now := time.Now()
	var idle []string
	s.mu.Lock()
	busy := map[string]bool{}
	for w := range s.waits {
		busy[w.session] = true
	}
	for key, session := range s.sessions {
		if !busy[key] && now.Sub(session.used) > s.options.SessionIdle {
			idle = append(idle, key)
		}
	}
	s.mu.Unlock()
	for _, key := range idle {
		s.endSession(key)
	}
}

func cookie(r *http.Request) string {
	c, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return ""
	}
	return c.Value
}

// authenticated tells whether a request has a session, and keeps that alive.
func (s *Simulator) authenticated(r *http.Request) bool {
	s.endIdle()
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.sessions[cookie(r)]
	if session == nil {
		return false
	}
	session.used = time.Now()
	return true
}

// user is who makes a request of /folder: by a session, or by the password each
// time. "" is nobody.
func (s *Simulator) user(r *http.Request) string {
	if user, password, ok := r.BasicAuth(); ok && s.password(user, password) {
		return user
	}
	if !s.authenticated(r) {
		return ""
	}
	return s.sessionUser(cookie(r))
}

func (s *Simulator) sessionUser(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session := s.sessions[key]; session != nil {
		return session.user
	}
	return ""
}

// precede is what a call that vcsim will answer does to the sessions first.
func (s *Simulator) precede(m *simulator.Method, r *http.Request) {
	switch req := m.Body.(type) {
	case *types.Logout:
		s.forgetSession(cookie(r))
	case *types.TerminateSession:
		for _, key := range req.SessionId {
			if key != cookie(r) { // which is refused
				s.forgetSession(key)
			}
		}
	}
}

// follow notes the session that a call which vcsim has answered began.
func (s *Simulator) follow(m *simulator.Method, rec *httptest.ResponseRecorder) {
	user := s.options.User
	switch req := m.Body.(type) {
	case *types.Login:
		user = req.UserName
	case *types.ImpersonateUser:
		user = req.UserName
	case *types.LoginByToken, *types.LoginExtensionByCertificate, *types.CloneSession:
	default:
		return
	}
	if rec.Code != http.StatusOK {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range rec.Result().Cookies() {
		if c.Name == soap.SessionCookieName {
			s.sessions[c.Value] = &session{user: user, used: time.Now()}
		}
	}
}

// wait is a call that waits for updates in vcsim, which neither notices that
// its client has left nor that the session is gone.
type wait struct {
	session string
	cancel  context.CancelFunc
	over    chan struct{}
}

// waiting makes a call that waits, and cancels it when the client leaves, the
// session expires, or the simulator closes.
func (s *Simulator) waiting(r *http.Request, collector types.ManagedObjectReference, call func()) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	w := &wait{session: cookie(r), cancel: cancel, over: make(chan struct{})}
	s.mu.Lock()
	begun := s.sessions[w.session]
	if begun != nil {
		s.waits[w] = true
	}
	s.mu.Unlock()
	if begun == nil {
		return // it has just expired
	}
	defer func() {
		s.mu.Lock()
		begun.used = time.Now()
		delete(s.waits, w)
		s.mu.Unlock()
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-w.over:
			return
		case <-ctx.Done():
		}
		for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
			s.cancelWait(r, collector) // in vain as long as the wait has not begun
			select {
			case <-w.over:
				return
			case <-time.After(pause):
			}
		}
	}()
	call()
	close(w.over)
	<-watched
}

func (s *Simulator) cancelWait(r *http.Request, collector types.ManagedObjectReference) {
	body := fmt.Sprintf(`<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body><CancelWaitForUpdates xmlns="urn:vim25">`+
		`<_this type=%q>%s</_this></CancelWaitForUpdates></Body></Envelope>`, collector.Type, collector.Value)
	cancel := httptest.NewRequest(http.MethodPost, r.URL.Path, strings.NewReader(body))
	for _, c := range r.Cookies() {
		cancel.AddCookie(c)
	}
	s.model.Service.ServeSDK(httptest.NewRecorder(), cancel)
}

package vmwaretest

import (
	"net/http"
	"net/http/httptest"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ExpireSessions ends every session, as 30 idle minutes do: calls are answered
// NotAuthenticated, and /folder 401, until the client logs in again. Leases
// live on. It returns how many sessions there were.
func (s *Simulator) ExpireSessions() int {
	s.mu.Lock()
	keys := make([]string, 0, len(s.sessions))
	for key := range s.sessions {
		keys = append(keys, key)
	}
	clear(s.sessions)
	s.mu.Unlock()
	for _, key := range keys {
		s.model.Map().SessionManager().TerminateSession(s.context(), &types.TerminateSession{SessionId: []string{key}})
	}
	return len(keys)
}

// Sessions is the number of sessions that are logged in.
func (s *Simulator) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func (s *Simulator) authenticated(r *http.Request) bool {
	c, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[c.Value]
}

// authorized is what /folder asks for: a session, or the password each time.
func (s *Simulator) authorized(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && user == s.options.User && password == s.options.Password || s.authenticated(r)
}

// follow notes what a call that vcsim answered did to the sessions.
func (s *Simulator) follow(m *simulator.Method, r *http.Request, rec *httptest.ResponseRecorder) {
	if rec.Code != http.StatusOK {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.Name {
	case "Login", "LoginByToken", "LoginExtensionByCertificate", "CloneSession", "ImpersonateUser":
		for _, c := range rec.Result().Cookies() {
			if c.Name == soap.SessionCookieName {
				s.sessions[c.Value] = true
			}
		}
	case "Logout":
		if c, err := r.Cookie(soap.SessionCookieName); err == nil {
			delete(s.sessions, c.Value)
		}
	case "TerminateSession":
		for _, key := range m.Body.(*types.TerminateSession).SessionId {
			delete(s.sessions, key)
		}
	}
}

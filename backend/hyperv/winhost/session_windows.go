package winhost

import (
	"errors"
	"fmt"
	"strings"

	ole "github.com/go-ole/go-ole"
	cim "github.com/microsoft/wmi/pkg/wmiinstance"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// session is one connection's COM objects. All of it belongs to one thread.
type session struct {
	o       Options
	manager *cim.WmiSessionManager
	wmi     *cim.WmiSession
	died    bool
	// names, where not empty, are the only properties that are asked for. A test
	// sets it: Wine 8 can't list them, nor tell an object's path.
	names []string
}

// locale makes WMI's messages English, as the library asks for them.
const locale = "MS_409"

// open connects. On an error nothing is left open.
func (s *session) open() (err error) {
	const op = "connect"
	defer func() {
		if r := recover(); r != nil { // the manager panics when COM doesn't start
			err = fmt.Errorf("%s: %v", op, r)
		}
		if err != nil {
			s.close()
		}
	}()
	if s.manager == nil {
		s.manager = cim.NewWmiSessionManager()
	}
	server, domain, dotted := strings.Cut(s.o.Host, ".")
	namespace := s.o.Namespace
	if namespace == "" {
		namespace = host.Namespace
	}
	// What the library calls a domain is no user's domain, but the rest of the
	// server's name behind a dot; a user's domain comes with the name.
	s.wmi, err = s.manager.GetSession(namespace, server, domain, s.o.User, s.o.Password)
	if err != nil {
		return failed(op, err)
	}
	if s.o.Host == "" || dotted {
		ok, err := s.wmi.Connect()
		if err == nil && !ok {
			err = errors.New("no session")
		}
		return failed(op, err)
	}
	return failed(op, s.connect(namespace))
}

// connect is the library's Connect for a host's name without a dot, to which it
// would append one.
func (s *session) connect(namespace string) error {
	v, err := object(s.wmi.CimwmiService, "ConnectServer", ole.DISPATCH_METHOD,
		s.o.Host, namespace, s.o.User, s.o.Password, locale)
	if err != nil {
		return err
	}
	s.wmi.RawSession, s.wmi.Session = v, v.ToIDispatch()
	security, err := object(s.wmi.Session, "Security_", ole.DISPATCH_PROPERTYGET)
	if err != nil {
		return err
	}
	defer security.Clear()
	const impersonate, privacy = int32(3), int32(6) // wbemdisp.idl
	if err := put(security.ToIDispatch(), "ImpersonationLevel", impersonate); err != nil {
		return err
	}
	return put(security.ToIDispatch(), "AuthenticationLevel", privacy)
}

// hangUp lets go of the server, but not of COM.
func (s *session) hangUp() {
	defer func() { _ = recover() }() // a proxy of a server that is gone
	if s.wmi != nil && s.wmi.RawSession != nil {
		s.wmi.Close()
	}
	s.wmi = nil
}

// close lets go of everything, COM included.
func (s *session) close() {
	defer func() { _ = recover() }()
	s.hangUp()
	if s.manager != nil {
		m := s.manager
		s.manager = nil
		m.Close()
	}
}

// redial connects anew. A host that still doesn't answer leaves the session
// dead, to be tried again by the next call.
func (s *session) redial() error {
	s.hangUp()
	err := s.open()
	s.died = err != nil
	if s.o.Log != nil {
		s.o.Log.Info("connection to WMI was lost and is made anew", "host", s.o.Host, "error", err)
	}
	return err
}

// attempt runs a call. A connection that died before is dialled first; one that
// dies under a call is dialled again, and the call repeated, only if the call
// reads: what else it did may have been done.
func attempt[T any](s *session, op string, reads bool, f func(*session) (T, error)) (T, error) {
	var none T
	fresh := false
	if s.died {
		if err := s.redial(); err != nil {
			return none, err
		}
		fresh = true
	}
	v, err := guarded(s, op, f)
	if err == nil {
		return v, nil
	}
	if diedUnder(err) {
		s.died = true
		if reads && !fresh && s.redial() == nil {
			v, err = guarded(s, op, f)
			s.died = s.died || diedUnder(err)
		}
	}
	if err != nil {
		return none, err
	}
	return v, nil
}

// guarded makes an error of a panic, of which the libraries have some; who
// knows what it left behind, so the connection counts as dead.
func guarded[T any](s *session, op string, f func(*session) (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.died = true
			err = fmt.Errorf("%s: the WMI library panicked: %v", op, r)
		}
		err = failed(op, err)
	}()
	return f(s)
}

package bucket

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Headers that the two ends share.
const (
	headVersion = "Lifeboat-Version" // of a head; absent if there is none
	headEOF     = "Lifeboat-Eof"     // of a read: the object ends here
)

// keepAlive is how often an open session shows that it lives, and thrice this
// is how soon its end is noticed by a client that hears nothing.
const keepAlive = 2 * time.Second

// Handler serves a bucket:
//
//	PUT    /object?name=          the body becomes the object; 409 if there is one
//	GET    /object?name=&off=&len=
//	DELETE /object?name=
//	GET    /list?prefix=          one JSON object a line
//	GET    /head?name=
//	PUT    /head?name=&old=       412 if another has swapped it
//	GET    /session               an ID; locks last as long as this answer
//	POST   /lock?name=&exclusive=&session=   an ID; 423 if it is held
//	DELETE /lock?id=&session=
//
// It is safe for concurrent use. Locks are those of the bucket; one that is no
// vault.Locker answers 501.
func Handler(b vault.Bucket) http.Handler {
	s := &server{b: b, sessions: map[string]map[string]io.Closer{}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /object", s.putObject)
	mux.HandleFunc("GET /object", s.getObject)
	mux.HandleFunc("DELETE /object", s.deleteObject)
	mux.HandleFunc("GET /list", s.list)
	mux.HandleFunc("GET /head", s.getHead)
	mux.HandleFunc("PUT /head", s.putHead)
	mux.HandleFunc("GET /session", s.session)
	mux.HandleFunc("POST /lock", s.lock)
	mux.HandleFunc("DELETE /lock", s.unlock)
	return mux
}

type server struct {
	b vault.Bucket

	mu       sync.Mutex
	sessions map[string]map[string]io.Closer // locks by ID
}

// statuses are what errors travel as. Others travel as 500, and are no
// sentinel at the far end.
var statuses = []struct {
	err    error
	status int
}{
	{dr.ErrExists, http.StatusConflict},
	{dr.ErrNotFound, http.StatusNotFound},
	{dr.ErrConflict, http.StatusPreconditionFailed},
	{dr.ErrBusy, http.StatusLocked},
	{dr.ErrInvalid, http.StatusBadRequest},
	{dr.ErrUnsupported, http.StatusNotImplemented},
	{dr.ErrFenced, http.StatusGone},
}

func fail(w http.ResponseWriter, err error) {
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			http.Error(w, err.Error(), s.status)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func (s *server) putObject(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largest))
	if err != nil {
		fail(w, fmt.Errorf("%w: %v", dr.ErrInvalid, err))
		return
	}
	o, err := s.b.Create(r.Context(), r.FormValue("name"))
	if err == nil {
		defer o.Abort()
		_, err = o.WriteAt(data, 0)
	}
	if err == nil {
		err = o.Commit(r.Context())
	}
	if err != nil {
		fail(w, err)
	}
}

func (s *server) getObject(w http.ResponseWriter, r *http.Request) {
	off, err1 := strconv.ParseInt(r.FormValue("off"), 10, 64)
	n, err2 := strconv.ParseInt(r.FormValue("len"), 10, 64)
	if err1 != nil || err2 != nil || n < 0 || n > largest {
		fail(w, fmt.Errorf("%w: off and len", dr.ErrInvalid))
		return
	}
	// What is asked for may be far more than there is: memory follows the bytes.
	var data []byte
	var err error
	for int64(len(data)) < n && err == nil {
		part := make([]byte, min(n-int64(len(data)), 1<<20))
		var got int
		got, err = s.b.ReadAt(r.Context(), r.FormValue("name"), part, off+int64(len(data)))
		data = append(data, part[:got]...)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fail(w, err)
		return
	}
	if err != nil {
		w.Header().Set(headEOF, "1")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data) // whoever asked has gone
}

func (s *server) deleteObject(w http.ResponseWriter, r *http.Request) {
	if err := s.b.Delete(r.Context(), r.FormValue("name")); err != nil {
		fail(w, err)
	}
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	e := json.NewEncoder(w)
	for o, err := range s.b.List(r.Context(), r.FormValue("prefix")) {
		if err != nil {
			panic(http.ErrAbortHandler) // half a list must not look whole
		}
		if err := e.Encode(o); err != nil {
			return
		}
	}
}

func (s *server) getHead(w http.ResponseWriter, r *http.Request) {
	data, v, err := s.b.ReadHead(r.Context(), r.FormValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	if v != "" {
		w.Header().Set(headVersion, string(v))
	}
	_, _ = w.Write(data)
}

func (s *server) putHead(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largest))
	if err != nil {
		fail(w, fmt.Errorf("%w: %v", dr.ErrInvalid, err))
		return
	}
	v, err := s.b.SwapHead(r.Context(), r.FormValue("name"), vault.Version(r.FormValue("old")), data)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set(headVersion, string(v))
}

// session answers for as long as its client lives, and then gives its locks
// back.
func (s *server) session(w http.ResponseWriter, r *http.Request) {
	id := rand.Text()
	s.mu.Lock()
	s.sessions[id] = map[string]io.Closer{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		held := s.sessions[id]
		delete(s.sessions, id)
		s.mu.Unlock()
		for _, l := range held {
			_ = l.Close() // in memory, or gone with its holder
		}
	}()
	out := http.NewResponseController(w)
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for line := id; ; line = "" {
		_ = out.SetWriteDeadline(time.Now().Add(3 * keepAlive)) // a server that can't has TCP's
		if _, err := fmt.Fprintln(w, line); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (s *server) lock(w http.ResponseWriter, r *http.Request) {
	locker, ok := dr.As[vault.Locker](s.b)
	if !ok {
		fail(w, fmt.Errorf("%w: locks", dr.ErrUnsupported))
		return
	}
	// The lock outlives this request.
	l, err := locker.Lock(context.WithoutCancel(r.Context()), r.FormValue("name"), r.FormValue("exclusive") == "true")
	if err != nil {
		fail(w, err)
		return
	}
	id := rand.Text()
	s.mu.Lock()
	held, ok := s.sessions[r.FormValue("session")]
	if ok {
		held[id] = l
	}
	s.mu.Unlock()
	if !ok {
		_ = l.Close()
		fail(w, fmt.Errorf("%w: the session has ended", dr.ErrFenced))
		return
	}
	_, _ = io.WriteString(w, id)
}

func (s *server) unlock(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	held := s.sessions[r.FormValue("session")]
	l := held[r.FormValue("id")]
	delete(held, r.FormValue("id"))
	s.mu.Unlock()
	if l == nil { // its session has ended, and gave it back
		return
	}
	if err := l.Close(); err != nil {
		fail(w, err)
	}
}

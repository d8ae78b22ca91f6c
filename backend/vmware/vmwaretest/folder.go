package vmwaretest

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// serveFolder is HTTPS access to datastores. Extents of VMDKs are the
// simulator's; every other file is as vcsim has it on this machine's disk.
func (s *Simulator) serveFolder(w http.ResponseWriter, r *http.Request) {
	defer s.traffic.open(Folder)()
	out := &meter{ResponseWriter: w, traffic: &s.traffic, name: Folder, left: -1}
	user := s.user(r)
	if user == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(out, "authentication required", http.StatusUnauthorized)
		return
	}
	privilege := "Datastore.Browse"
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		privilege = "Datastore.FileManagement"
	}
	if !s.granted(user, privilege) {
		http.Error(out, "no permission: "+privilege, http.StatusForbidden)
		return
	}
	r.Body = &counted{r.Body, &s.traffic, Folder}
	if f := s.faults.take(r.Method+" /folder", types.ManagedObjectReference{}); f != nil {
		f.transfer(out, r, func(w http.ResponseWriter) { s.serveFile(w, r) })
		return
	}
	s.serveFile(out, r)
}

func (s *Simulator) serveFile(out http.ResponseWriter, r *http.Request) {
	rest := strings.TrimPrefix(r.URL.Path, "/folder/")
	name := canonical(fmt.Sprintf("[%s] %s", r.URL.Query().Get("dsName"), rest))
	disk, isFlat := ofFlat(name)
	switch {
	case isFlat && s.inUse(name):
		http.Error(out, "the file is locked by a running machine", http.StatusInternalServerError)
	case strings.Contains(rest, ".."):
		http.Error(out, "no such path", http.StatusBadRequest)
	case !isFlat:
		s.plainFile(out, r, name)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		s.getExtent(out, r, disk)
	default:
		s.putExtent(out, r, disk)
	}
}

// plainFile serves a file that is no extent of a VMDK. vcsim's own handler reads
// the datastore while machines change it.
func (s *Simulator) plainFile(w http.ResponseWriter, r *http.Request, name string) {
	file, err := s.hostPath(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		http.ServeFile(w, r, file)
		return
	case http.MethodPost:
		if _, err := os.Stat(file); err == nil {
			w.WriteHeader(http.StatusConflict)
			return
		}
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = os.WriteFile(file, body, 0o600)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (s *Simulator) getExtent(w http.ResponseWriter, r *http.Request, disk string) {
	s.mu.Lock()
	f := s.lookup(disk)
	var c *content
	if f != nil {
		c = f.content.clone()
	}
	s.mu.Unlock()
	if c == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(c, 0, c.Size()))
}

// putExtent replaces an extent whole, as ESXi does: there is no ranged PUT. A
// body that breaks off leaves the file as it was.
func (s *Simulator) putExtent(w http.ResponseWriter, r *http.Request, disk string) {
	file, err := s.hostPath(disk)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	c := newContent(math.MaxInt64)
	n, err := io.Copy(&appender{c: c}, r.Body)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = os.WriteFile(flatOf(file), nil, 0o600)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	c.resize(n)
	s.mu.Lock()
	f := s.file(disk, n)
	c.stamp(f.track.seq)
	f.content = c
	s.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

// appender writes a stream into content.
type appender struct {
	c   *content
	off int64
}

func (a *appender) Write(p []byte) (int, error) {
	if err := a.c.writeAt(p, a.off, 1); err != nil {
		return 0, err
	}
	a.off += int64(len(p))
	return len(p), nil
}

// counted counts a request's body.
type counted struct {
	io.ReadCloser
	traffic *traffic
	name    string
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.traffic.add(c.name, 0, int64(n))
	return n, err
}

package vmwaretest

import (
	"crypto/sha1"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// serveNFC moves the bytes of a lease. The URL is the ticket: there is no
// session.
func (s *Simulator) serveNFC(w http.ResponseWriter, r *http.Request) {
	defer s.traffic.open(NFC)()
	out := &meter{ResponseWriter: w, traffic: &s.traffic, name: NFC, left: -1}
	s.mu.Lock()
	full := s.nfcOpen >= s.options.MaxNFC
	if !full {
		s.nfcOpen++
	}
	s.mu.Unlock()
	if full {
		http.Error(out, "too many NFC connections", http.StatusServiceUnavailable)
		return
	}
	defer func() {
		s.mu.Lock()
		s.nfcOpen--
		s.mu.Unlock()
	}()
	method := r.Method
	if method == http.MethodPost {
		method = http.MethodPut // clients choose by whether the disk is there already
	}
	r.Body = &counted{r.Body, &s.traffic, NFC}
	if f := s.faults.take(method+" /nfc", types.ManagedObjectReference{}); f != nil {
		f.transfer(out, r, func(w http.ResponseWriter) { s.serveLease(w, r) })
		return
	}
	s.serveLease(out, r)
}

func (s *Simulator) serveLease(out http.ResponseWriter, r *http.Request) {
	id, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/nfc/"), "/")
	l, disk := s.leased(id, name)
	if disk == nil {
		http.NotFound(out, r)
		return
	}
	switch {
	case l.export && r.Method == http.MethodGet:
		out.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
		if err := writeStream(&leased{out, s, id}, disk.export, name); err != nil {
			panic(http.ErrAbortHandler) // the client must not take it for whole
		}
	case !l.export && (r.Method == http.MethodPut || r.Method == http.MethodPost):
		s.receive(out, r, disk)
	default:
		http.Error(out, "wrong direction for this lease", http.StatusMethodNotAllowed)
	}
}

// receive writes an uploaded streamOptimized VMDK to the disk.
func (s *Simulator) receive(w http.ResponseWriter, r *http.Request, d *leaseDisk) {
	sum := sha1.New()
	body := &tally{Reader: io.TeeReader(r.Body, sum)}
	s.mu.Lock()
	c, track := d.file.content, d.file.track
	s.mu.Unlock()
	capacity, err := readStream(body, func(off int64, p []byte) error { return s.writeTracked(c, track, p, off) })
	if err == nil {
		_, err = io.Copy(io.Discard, body)
	}
	if err == nil && capacity != c.Size() {
		err = fmt.Errorf("the image has %d bytes, the disk %d", capacity, c.Size())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	d.sum, d.received = sum.Sum(nil), body.n
	s.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

type tally struct {
	io.Reader
	n int64
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.n += int64(n)
	return n, err
}

// leased stops a download when its lease has gone.
type leased struct {
	io.Writer
	s  *Simulator
	id string
}

func (l *leased) Write(p []byte) (int, error) {
	if alive, _ := l.s.alive(l.id); alive == nil {
		return 0, fmt.Errorf("lease %s is over", l.id)
	}
	return l.Writer.Write(p)
}

package vmwaretest

import (
	"maps"
	"net/http"
	"sync"
)

// Transports by which bytes travel, the keys of Traffic.
const (
	Folder = "folder" // HTTPS under /folder/
	NFC    = "nfc"    // HTTPS under /nfc/, in the bytes of the wire: compressed
	NBD    = "nbd"    // ServeNBD
	Guests = "guest"  // files into guests and out of them
)

// Transfer counts one transport, from the simulator's start.
type Transfer struct {
	Requests int64
	Sent     int64 // bytes of bodies from the simulator
	Received int64 // bytes of bodies to the simulator
	Open     int   // requests (NBD: exports) being served
	Peak     int   // the most that were served at once
}

type traffic struct {
	mu        sync.Mutex
	calls     map[string]int
	total     int
	transfers map[string]*Transfer
}

// Calls is how often a method was called, successful or not, by its name on
// the wire; "" is all methods together. Transfers are not among them.
func (s *Simulator) Calls(method string) int {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	if method == "" {
		return s.traffic.total
	}
	return s.traffic.calls[method]
}

// AllCalls is how often each method was called.
func (s *Simulator) AllCalls() map[string]int {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	return maps.Clone(s.traffic.calls)
}

// Traffic is what went over a transport.
func (s *Simulator) Traffic(transport string) Transfer {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	return *s.traffic.transfer(transport)
}

func (t *traffic) call(method string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls == nil {
		t.calls = map[string]int{}
	}
	t.calls[method]++
	t.total++
}

func (t *traffic) transfer(name string) *Transfer {
	if t.transfers == nil {
		t.transfers = map[string]*Transfer{}
	}
	if t.transfers[name] == nil {
		t.transfers[name] = new(Transfer)
	}
	return t.transfers[name]
}

func (t *traffic) open(name string) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.transfer(name)
	x.Requests++
	x.Open++
	x.Peak = max(x.Peak, x.Open)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		x.Open--
	}
}

func (t *traffic) add(name string, sent, received int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.transfer(name)
	x.Sent += sent
	x.Received += received
}

// meter counts a response's body, and drops the connection after a limit.
type meter struct {
	http.ResponseWriter
	traffic *traffic
	name    string
	left    int64 // negative: no limit
}

func (m *meter) Write(p []byte) (int, error) {
	cut := m.left >= 0 && int64(len(p)) > m.left
	if cut {
		p = p[:m.left]
	}
	n, err := m.ResponseWriter.Write(p)
	m.traffic.add(m.name, int64(n), 0)
	if m.left >= 0 {
		m.left -= int64(n)
	}
	if cut {
		if f, ok := m.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	return n, err
}

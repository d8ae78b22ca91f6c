package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// hello is what guests say who call in at 10.0.2.100. QEMU puts every connection
// of the guest through one stream: where one call ends and another begins can't be
// seen.
type hello struct {
	tail   *Tail
	mu     sync.Mutex
	answer io.Writer
}

// answered is sent to a caller that spoke HTTP; others get nothing.
const answered = "HTTP/1.1 204 No Content\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

// callIn listens to the guest's calls, if there is a card for it.
func (m *Machine) callIn(ctx context.Context) error {
	wanted := false
	for _, n := range m.cfg.NICs {
		wanted = wanted || n.Hello != 0
	}
	if !wanted {
		return nil
	}
	conn, err := m.place.dial(ctx, helloSocket)
	if m.found != nil && errors.Is(err, fs.ErrNotExist) {
		return nil // it was started without
	}
	if err != nil {
		return err
	}
	h := &hello{tail: newTail(nil), answer: conn}
	m.hello = h
	m.conns = append(m.conns, conn)
	m.readers.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			n, err := conn.Read(buf)
			_, _ = h.tail.Write(buf[:n])
			// The end of a request's head; a body comes in the same or the next
			// piece, and is taken whatever was answered.
			if bytes.Contains(buf[:n], []byte(" HTTP/1.")) {
				h.mu.Lock()
				_, _ = io.WriteString(h.answer, answered)
				h.mu.Unlock()
			}
			if err != nil {
				return
			}
		}
	})
	return nil
}

// Hello is the guest's call at 10.0.2.100, at the port that its card's NIC.Hello
// names: an agent that reports, a script with wget. What it sends must match; who
// speaks HTTP is answered with 204.
type Hello struct {
	Port int
	Want *regexp.Regexp // nil: any byte
}

func (h Hello) String() string { return fmt.Sprintf("call in at port %d", h.Port) }

// Ports implements Evidence.
func (h Hello) Ports() ([]int, int) { return nil, h.Port }

// Await implements Evidence.
func (h Hello) Await(ctx context.Context, m *Machine) (backend.Evidence, error) {
	if m.hello == nil {
		return backend.Evidence{}, errors.New("the machine has no card that it could call in with")
	}
	for {
		text, more := m.hello.tail.Text()
		at := text
		if h.Want != nil {
			at = h.Want.FindString(text)
		}
		if at != "" {
			return backend.Evidence{Kind: "hello", What: fmt.Sprintf("the guest called in: %q", clip(at))}, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return backend.Evidence{}, context.Cause(ctx)
		}
	}
}

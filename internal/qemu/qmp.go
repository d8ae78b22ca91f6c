package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxMessage bounds one message of QEMU; the longest that we ask for, the
// statistics of a machine's disks, has a few KiB for each disk.
const maxMessage = 4 << 20

// Event is something that QEMU tells by itself.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// RefusedError is QEMU's answer to a command that it didn't carry out.
type RefusedError struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("QEMU refuses %s: %s", e.Command, clip(e.Desc))
}

// monitor is a client of the QEMU Machine Protocol
// (https://www.qemu.org/docs/master/interop/qmp-spec.html). Its methods are safe
// for concurrent use.
type monitor struct {
	conn net.Conn
	on   func(Event) // called in order, from one goroutine

	mu      sync.Mutex
	n       uint64
	waiting map[string]chan answer
	err     error // why nothing is answered any more

	ended chan struct{} // closed when nothing is read any more
}

type answer struct {
	value json.RawMessage
	err   error
}

// message is any of the protocol's messages from QEMU.
type message struct {
	QMP    json.RawMessage `json:"QMP"`
	ID     string          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *RefusedError   `json:"error"`
	Event
}

// newMonitor greets QEMU on conn, which it owns from then on. Only one client at a
// time is greeted: ctx bounds the wait.
func newMonitor(ctx context.Context, conn net.Conn, on func(Event)) (*monitor, error) {
	q := &monitor{conn: conn, on: on, waiting: map[string]chan answer{}, ended: make(chan struct{})}
	greeted := make(chan struct{})
	go q.read(greeted)
	var err error
	select {
	case <-greeted:
		_, err = q.Do(ctx, "qmp_capabilities", nil)
	case <-q.ended:
		err = q.why()
	case <-ctx.Done():
		err = fmt.Errorf("QEMU doesn't greet, as when another process controls the machine: %w", context.Cause(ctx))
	}
	if err != nil {
		conn.Close()
		<-q.ended
		return nil, err
	}
	return q, nil
}

// read takes messages until the connection ends.
func (q *monitor) read(greeted chan struct{}) {
	defer close(q.ended)
	err := messages(q.conn, func(m message) error {
		switch {
		case m.QMP != nil:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case m.Name != "":
			if q.on != nil {
				q.on(m.Event)
			}
		case m.ID != "":
			q.mu.Lock()
			c := q.waiting[m.ID]
			delete(q.waiting, m.ID)
			q.mu.Unlock()
			if c == nil {
				return nil // its caller went away
			}
			if m.Error != nil {
				c <- answer{err: m.Error}
			} else {
				c <- answer{value: m.Return}
			}
		}
		return nil
	})
	q.mu.Lock()
	q.err = fmt.Errorf("%w: its control connection: %w", ErrEnded, err)
	for id, c := range q.waiting {
		c <- answer{err: q.err}
		delete(q.waiting, id)
	}
	q.mu.Unlock()
}

// messages reads a line each, which is how QEMU sends them. It returns why it
// ended, io.EOF at the end.
func messages(r io.Reader, each func(message) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxMessage)
	for s.Scan() {
		var m message
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			return fmt.Errorf("not the control protocol: %w", err)
		}
		if err := each(m); err != nil {
			return err
		}
	}
	return errors.Join(s.Err(), io.EOF)
}

func (q *monitor) why() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// Do runs a command and returns what it returned. When ctx ends the command goes
// on, and its answer is dropped.
func (q *monitor) Do(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	c := make(chan answer, 1)
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return nil, q.err
	}
	q.n++
	id := fmt.Sprint(q.n)
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        string `json:"id"`
	}{command, arguments, id})
	if err == nil {
		// Short, and QEMU reads at once: it is never waited for here.
		_, err = q.conn.Write(append(b, '\n'))
	}
	if err != nil {
		q.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	q.waiting[id] = c
	q.mu.Unlock()
	select {
	case a := <-c:
		var refused *RefusedError
		if errors.As(a.err, &refused) {
			refused.Command = command
		}
		return a.value, a.err
	case <-ctx.Done():
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", command, context.Cause(ctx))
	}
}

func (q *monitor) close() {
	q.conn.Close()
	<-q.ended
}

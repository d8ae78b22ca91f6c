package qemu

import (
	"io"
	"strings"
	"sync"
)

// tailSize is how much of a serial port is kept: a boot of a verbose system.
const tailSize = 256 << 10

// Tail keeps the last 256 KiB that were written to it. It is safe for
// concurrent use.
type Tail struct {
	mu    sync.Mutex
	buf   []byte
	total int64
	grown chan struct{} // closed and replaced when something was written
	line  []byte
	lines func(string) // called with each line; nil: nobody listens
}

func newTail(lines func(string)) *Tail {
	return &Tail{grown: make(chan struct{}), lines: lines}
}

// longestLine is how much of a line is looked at.
const longestLine = 4 << 10

// Write implements io.Writer; it never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.total += int64(len(p))
	t.buf = append(t.buf, p[max(0, len(p)-tailSize):]...)
	if over := len(t.buf) - tailSize; over > tailSize/2 { // now and then, not every time
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	var whole []string
	if t.lines != nil {
		for _, c := range p {
			if c == '\n' || c == '\r' || len(t.line) >= longestLine {
				if len(t.line) > 0 {
					whole = append(whole, string(t.line))
				}
				t.line = t.line[:0]
			}
			if c != '\n' && c != '\r' {
				t.line = append(t.line, c)
			}
		}
	}
	close(t.grown)
	t.grown = make(chan struct{})
	t.mu.Unlock()
	for _, l := range whole {
		t.lines(l)
	}
	return len(p), nil
}

// Text is what is kept, and what is closed when there is more. Bytes that are no
// text are replaced, and so are the controls of a terminal: it is shown to people.
func (t *Tail) Text() (string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return printable(t.buf[max(0, len(t.buf)-tailSize):]), t.grown
}

// Total is how many bytes were written.
func (t *Tail) Total() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// printable leaves out a terminal's escape sequences and controls: a guest's
// text must not move the cursor of who reads a report.
func printable(b []byte) string {
	var s strings.Builder
	s.Grow(len(b))
	for _, r := range escapes.ReplaceAllString(strings.ToValidUTF8(string(b), "�"), "") {
		switch {
		case r == '\n' || r == '\t':
			s.WriteRune(r)
		case r < ' ' || r >= 0x7f && r < 0xa0:
		default:
			s.WriteRune(r)
		}
	}
	return s.String()
}

var _ io.Writer = (*Tail)(nil)

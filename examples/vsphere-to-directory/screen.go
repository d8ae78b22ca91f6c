package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// screen shows how far copies are: on a terminal a line for each that is under
// way, written over and over; elsewhere a line now and then. What else is to be
// said goes through its Write, whole lines at a time.
type screen struct {
	mu    sync.Mutex
	w     *os.File
	live  bool
	drawn int // lines of progress at the cursor's back
	at    time.Time
	all   []*copying
}

const (
	redraw = 200 * time.Millisecond
	remind = 30 * time.Second
)

func newScreen(w *os.File) *screen {
	info, err := w.Stat()
	return &screen{w: w, live: err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"}
}

// Write writes above the lines of progress.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(p), s.draw(p)
}

// draw replaces the lines of progress, with text above.
func (s *screen) draw(text []byte) error {
	var b bytes.Buffer
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", s.drawn)
	}
	b.Write(text)
	s.drawn = 0
	if s.live {
		for _, c := range s.all {
			b.WriteString(c.line() + "\n")
			s.drawn++
		}
	}
	s.at = time.Now()
	_, err := s.w.Write(b.Bytes())
	return err
}

// copying is a machine that is being copied.
type copying struct {
	s       *screen
	machine dr.Machine
	total   int64
	done    map[dr.DiskID]int64
	rate    map[dr.DiskID]float64
	said    time.Time
}

func (s *screen) begin(m dr.Machine) *copying {
	c := &copying{s: s, machine: m, total: total(m.Disks), done: map[dr.DiskID]int64{}, rate: map[dr.DiskID]float64{}, said: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, c)
	return c
}

func (c *copying) show(p dr.Progress) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.done[p.Disk], c.rate[p.Disk] = p.Done, p.Rate
	switch now := time.Now(); {
	case c.s.live && now.Sub(c.s.at) >= redraw:
		_ = c.s.draw(nil)
	case !c.s.live && now.Sub(c.said) >= remind:
		c.said = now
		_ = c.s.draw([]byte(c.line() + "\n"))
	}
}

// line fits into 80 columns, so that it is one.
func (c *copying) line() string {
	var done int64
	var rate float64
	for id := range c.done {
		done += c.done[id]
		rate += c.rate[id]
	}
	if len(c.done) == 0 {
		return fmt.Sprintf("%-24.24s  waiting for vSphere", c.machine.Name)
	}
	percent := 100.0
	if c.total > 0 {
		percent = 100 * float64(done) / float64(c.total)
	}
	return fmt.Sprintf("%-24.24s %5.1f %%  %s of %s  %s/s", c.machine.Name, percent, size(done), size(c.total), size(int64(rate)))
}

// end tells what became of it.
func (c *copying) end(o outcome) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(x *copying) bool { return x == c })
	_ = s.draw([]byte(o.line() + "\n"))
}

// size writes bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

package replication

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// counts are a Report's numbers while they grow.
type counts struct {
	changed, read, written, zeroed, equal, resumed atomic.Int64
}

func (c *counts) into(r *Report) {
	r.Changed, r.Read, r.Written = c.changed.Load(), c.read.Load(), c.written.Load()
	r.Zeroed, r.Equal, r.Resumed = c.zeroed.Load(), c.equal.Load(), c.resumed.Load()
}

// meterEvery is how often a disk's progress is told: ten times a second is
// smooth for an eye, and nothing for a journal.
const meterEvery = 100 * time.Millisecond

// meter tells progress, by one goroutine at a time.
type meter struct {
	report func(dr.Progress)
	mu     sync.Mutex
	what   string
}

// gauge is what the meter remembers of a disk.
type gauge struct {
	at    time.Time
	moved int64
	rate  float64
}

func (m *meter) begin(pass int) {
	m.what = "copying"
	if pass > 1 {
		m.what = fmt.Sprintf("copying, pass %d", pass)
	}
}

// tick tells a disk's progress if it is time and nobody else is telling.
func (m *meter) tick(d *disk) {
	if m.report == nil || !m.mu.TryLock() {
		return
	}
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(d.gauge.at) >= meterEvery {
		m.tell(d, now)
	}
}

// finish tells the end of a disk's pass.
func (m *meter) finish(d *disk) {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell(d, time.Now())
}

func (m *meter) tell(d *disk, now time.Time) {
	g, moved := &d.gauge, d.moved.Load()
	if passed := now.Sub(g.at).Seconds(); !g.at.IsZero() && passed > 0 {
		lately := float64(moved-g.moved) / passed
		if g.rate == 0 {
			g.rate = lately
		} else {
			g.rate += (lately - g.rate) / 4
		}
	}
	g.at, g.moved = now, moved
	m.report(dr.Progress{What: m.what, Disk: d.ID, Done: d.done.Load(), Total: d.Size, Rate: g.rate})
}

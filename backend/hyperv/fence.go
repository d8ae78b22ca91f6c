package hyperv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Fences are remembered in the machine's record. No method of Hyper-V takes a
// condition, so whoever raises an epoch begins a generation of the record, under
// a name of its own: of several the highest counts. What a worker that stood
// still writes into its own generation nobody reads. Everything else is asked
// for only shortly after the record was looked at.

// freshFor is how long a look at the record counts. A worker that stood still
// for longer looks again before it asks the host for anything; if it comes to be this
// late looksInARow times, it can't tell, and the call is refused for now.
const (
	freshFor    = 5 * time.Second
	looksInARow = 3
)

var errSlow = &explained{fmt.Errorf("%w: whether the claim still counts could not be told soon enough", dr.ErrBusy), "it is tried again; the host is slow to answer, or this program rarely gets to run"}

// generation is how often an epoch was raised in a record, and the name of the
// item that it begins with.
func generationOf(kept map[string]string) (n int, name string) {
	name = recordName
	for item := range kept {
		text, ok := strings.CutPrefix(item, recordName+"@")
		if g, err := strconv.Atoi(text); ok && err == nil && g > n && generationName(g) == item {
			n, name = g, item
		}
	}
	return n, name
}

func generationName(n int) string {
	if n == 0 {
		return recordName
	}
	return recordName + "@" + strconv.Itoa(n)
}

// guard is under which fences a machine is changed. nil: nobody's claim.
type guard struct {
	v        *HyperV
	id       dr.MachineID
	node     *node // without guard
	settings host.Ref
	asked    map[string]uint64

	mu     sync.Mutex
	owed   bool      // they aren't in the host's record yet
	looked time.Time // when the record was asked for that last admitted them
}

// heeding is changing under the fences of ctx, which the machine remembers
// before f is called.
func (v *HyperV) heeding(ctx context.Context, id dr.MachineID, f func(*machine) error) error {
	return v.changing(ctx, id, func(m *machine) error {
		if err := v.admit(ctx, m); err != nil {
			return err
		}
		if err := v.remember(ctx, m); err != nil {
			return err
		}
		return f(m)
	})
}

// admit refuses a change that is fenced. The epochs that are to be remembered
// are in m's record then, and written with what is saved next. From now on all
// that is asked of the machine's host is guarded.
func (v *HyperV) admit(ctx context.Context, m *machine) error {
	asked := dr.Fences(ctx)
	if asked == nil || m.unread != nil { // what needs the record refuses it
		return nil
	}
	next, raised, err := m.record.Fences.Admit(ctx)
	if err != nil {
		return fenced(err)
	}
	m.guard = &guard{v: v, id: m.id, node: m.node, settings: m.settings.Path, asked: asked, owed: raised, looked: m.seen}
	m.node = m.node.under(m.guard)
	m.record.Fences = next
	return nil
}

// remember writes the epochs under which m is changed, unless they are written.
func (v *HyperV) remember(ctx context.Context, m *machine) error {
	if !m.guard.raising() {
		return nil
	}
	return v.save(ctx, m, m.record)
}

// rememberLocked is remember for who doesn't hold the machine's lock: what
// another writes meanwhile is dr.ErrConflict.
func (v *HyperV) rememberLocked(ctx context.Context, m *machine) error {
	unlock, err := v.locks.Lock(ctx, string(m.id))
	if err != nil {
		return err
	}
	defer unlock()
	return v.remember(ctx, m)
}

// fenced says what to do about it.
func fenced(err error) error {
	if !errors.Is(err, dr.ErrFenced) {
		return err
	}
	return &explained{err, "leave it to the other worker, which goes on with the run, unless there is none"}
}

// raising tells whether the record's next change begins a generation.
func (g *guard) raising() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.owed
}

// wrote says that the record was written as it is now, having been looked at then.
func (g *guard) wrote(r record, at time.Time) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.owed {
		g.v.raised.Store(g.id, r.Fences)
	}
	g.owed, g.looked = false, at
}

// passed looks whether another has raised an epoch in what the machine kept at the
// given time.
func (g *guard) passed(kept map[string]string, at time.Time) error {
	if g == nil {
		return nil
	}
	text, err := recordText(kept)
	if err != nil {
		return damaged(g.id, err)
	}
	r, err := parseRecord(text, g.id)
	if err != nil {
		return err
	}
	if err := r.Fences.Passed(g.asked); err != nil {
		return fenced(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.looked = at
	return nil
}

// still makes sure that nobody has passed the epochs, unless that was looked at a
// moment ago, by the clock that stands still while the system sleeps or by the
// one that is set.
func (g *guard) still(ctx context.Context) error {
	if g == nil {
		return nil
	}
	// Who has passed us through this very process is known without a look: an
	// agent serves old and new owners alike.
	if f, ok := g.v.raised.Load(g.id); ok {
		if err := f.(backend.Fences).Passed(g.asked); err != nil {
			return fenced(err)
		}
	}
	for looks := 0; ; looks++ {
		now := time.Now()
		g.mu.Lock()
		looked, node, settings := g.looked, g.node, g.settings
		g.mu.Unlock()
		switch {
		case now.Sub(looked) <= g.v.fresh && now.Round(0).Sub(looked.Round(0)).Abs() <= g.v.fresh:
			return nil
		case looks == looksInARow:
			return errSlow
		}
		kept, err := g.v.kept(ctx, node, settings)
		if err != nil {
			return fmt.Errorf("look whether the claim still counts: %w", err)
		}
		if err := g.passed(kept, now); err != nil {
			return err
		}
	}
}

// moved says where the machine is now.
func (g *guard) moved(m *machine) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.node, g.settings = m.node, m.settings.Path
}

// under is the node as one asks it under a guard.
func (n *node) under(g *guard) *node {
	c := *n
	c.conn, c.disks = guardedConn{n.conn, g}, guardedDisks{n.disks, g}
	return &c
}

// guardedConn and guardedDisks look before each call that changes something.
type guardedConn struct {
	host.Conn
	g *guard
}

func (c guardedConn) Invoke(ctx context.Context, path host.Ref, method string, in host.Props) (host.Result, error) {
	if err := c.g.still(ctx); err != nil {
		return host.Result{}, err
	}
	return c.Conn.Invoke(ctx, path, method, in)
}

type guardedDisks struct {
	host.Disks
	g *guard
}

func (d guardedDisks) Create(ctx context.Context, path string, spec host.DiskSpec) error {
	if err := d.g.still(ctx); err != nil {
		return err
	}
	return d.Disks.Create(ctx, path, spec)
}

func (d guardedDisks) Open(ctx context.Context, path string, write bool) (host.Disk, error) {
	if write {
		if err := d.g.still(ctx); err != nil {
			return nil, err
		}
	}
	return d.Disks.Open(ctx, path, write)
}

func (d guardedDisks) Grow(ctx context.Context, path string, size int64) error {
	if err := d.g.still(ctx); err != nil {
		return err
	}
	return d.Disks.Grow(ctx, path, size)
}

func (d guardedDisks) Rename(ctx context.Context, from, to string) error {
	if err := d.g.still(ctx); err != nil {
		return err
	}
	return d.Disks.Rename(ctx, from, to)
}

func (d guardedDisks) Remove(ctx context.Context, path string) error {
	if err := d.g.still(ctx); err != nil {
		return err
	}
	return d.Disks.Remove(ctx, path)
}

func (d guardedDisks) MakeFolder(ctx context.Context, path string) error {
	if err := d.g.still(ctx); err != nil {
		return err
	}
	return d.Disks.MakeFolder(ctx, path)
}

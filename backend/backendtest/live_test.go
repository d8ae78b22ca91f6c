package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// live gives machines of package memory images that settle: bytes are read
// from the disks as they are, and captures under other names tell one pass
// from the next. Its fields are the lies that it can tell.
type live struct {
	*memory.Backend
	frozen sync.Map // what Release has to thaw, by held

	neverFreezes   bool // for the last pass
	keepsFrozen    bool // when an image is closed half way
	forgets        bool // a change of every pass
	forgetsOld     bool // all marks, when an image is closed half way
	movesPoint     bool // after the last pass
	readsOn        bool // after the last pass
	ignoresContext bool
}

type held struct {
	machine dr.MachineID
	point   dr.PointID
}

func (l *live) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	if m, err := l.Machine(ctx, id); err != nil || m.Power != dr.On {
		return nil, errors.Join(err, dr.ErrUnsupported)
	}
	i := &passes{l: l, id: id, name: name}
	for pass := range 9 { // of an earlier capture under the name
		if err := l.Backend.Release(ctx, id, i.mark(pass)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(l.Backend.Release(ctx, id, name), i.cut(ctx, i.mark(0))); err != nil {
		return nil, err
	}
	return i, nil
}

func (l *live) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	if thaw, ok := l.frozen.LoadAndDelete(held{id, name}); ok && !l.keepsFrozen {
		_ = thaw.(func(context.Context) error)(ctx)
	}
	return l.Backend.Release(ctx, id, name)
}

type passes struct {
	l    *live
	id   dr.MachineID
	name dr.PointID

	mu   sync.Mutex
	cuts []dr.Image // one for each pass
	thaw func(context.Context) error
	done bool
}

func (i *passes) mark(pass int) dr.PointID { return i.name + dr.PointID(fmt.Sprintf(".pass-%d", pass)) }

func (i *passes) cut(ctx context.Context, name dr.PointID) error {
	img, err := i.l.Backend.Capture(ctx, i.id, name, dr.CrashConsistent)
	i.cuts = append(i.cuts, img)
	return err
}

func (i *passes) Point() dr.Point {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done && i.l.movesPoint {
		_ = i.l.Backend.Release(context.Background(), i.id, i.name)
		_ = i.cut(context.Background(), i.name)
	}
	p := i.cuts[len(i.cuts)-1].Point()
	p.ID = i.name
	p.Machine.Power = dr.On
	return p
}

func (i *passes) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	i.mu.Lock()
	done := i.done
	i.mu.Unlock()
	if done && !i.l.readsOn {
		return 0, dr.ErrNotConsistent
	}
	d, err := i.l.Disk(i.id, disk)
	if err != nil {
		return 0, err
	}
	n, err := d.ReadAt(p, off)
	if n == len(p) && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (i *passes) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	i.mu.Lock()
	now := i.cuts[len(i.cuts)-1]
	later := len(i.cuts) > 1
	if later {
		since = i.cuts[len(i.cuts)-2].Point()
	}
	i.mu.Unlock()
	t, _ := dr.As[dr.ChangeTracker](now)
	return func(yield func(dr.Extent, error) bool) {
		first := true
		for x, err := range t.Changes(ctx, disk, since) {
			if first && later && i.l.forgets && err == nil {
				first = false
				continue
			}
			x.Zero = false // at the mark it was
			if !yield(x, err) {
				return
			}
		}
	}
}

func (i *passes) Settle(ctx context.Context) (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := ctx.Err(); err != nil && !i.l.ignoresContext {
		return false, err
	}
	ctx = context.WithoutCancel(ctx)
	switch pass := len(i.cuts); {
	case i.done:
		return false, nil
	case pass < 3:
		return true, i.cut(ctx, i.mark(pass))
	case pass == 3:
		if !i.l.neverFreezes {
			q, _ := dr.As[backend.Quiescer](i.l.Backend)
			_, thaw, err := q.Quiesce(ctx, i.id, dr.CrashConsistent)
			if err != nil {
				return false, err
			}
			i.thaw = thaw
			i.l.frozen.Store(held{i.id, i.name}, thaw)
		}
		return true, i.cut(ctx, i.name)
	}
	i.done = true
	return false, i.melt(ctx)
}

func (i *passes) melt(ctx context.Context) error {
	thaw := i.thaw
	i.thaw = nil
	if thaw == nil {
		return nil
	}
	i.l.frozen.Delete(held{i.id, i.name})
	return thaw(ctx)
}

func (i *passes) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.done && i.l.forgetsOld {
		_ = i.l.LoseChanges(i.id)
	}
	if !i.l.keepsFrozen {
		_ = i.melt(context.Background()) // a release may have been first
	}
	return nil
}

// TestSuiteFindsLiesOfLiveImages does for images that settle what
// TestSuiteFindsEveryLie does for the others.
func TestSuiteFindsLiesOfLiveImages(t *testing.T) {
	for name, c := range map[string]struct {
		lie    func(*live)
		breaks []string
	}{
		"honest":                          {func(*live) {}, nil},
		"never freezes":                   {func(l *live) { l.neverFreezes = true }, []string{"converges to one moment while the guest writes", "copies of changes are of one moment each"}},
		"keeps the guest frozen":          {func(l *live) { l.keepsFrozen = true }, []string{"close lets the guest write, after any pass", "release lets the guest write, after any pass"}},
		"forgets a change of each pass":   {func(l *live) { l.forgets = true }, []string{"converges to one moment while the guest writes", "changes of a pass are what was written since the one before"}},
		"loses its marks when given up":   {func(l *live) { l.forgetsOld = true }, []string{"abandoned captures lose no change"}},
		"moves the point after the end":   {func(l *live) { l.movesPoint = true }, []string{"point is final after the last pass"}},
		"reads on after the end":          {func(l *live) { l.readsOn = true }, []string{"bytes of a later moment are never read"}},
		"settles though the context ends": {func(l *live) { l.ignoresContext = true }, []string{"context is honoured"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &live{}
			c.lie(l)
			o := memory.Options{QuiesceLimit: time.Minute} // a busy machine is no liar
			if l.keepsFrozen {
				o.QuiesceLimit = time.Second
			}
			b := memory.New(o)
			l.Backend = b
			h := Simulated(l, b)
			h.Seed, h.Granularity = 1, 64<<10
			if l.keepsFrozen {
				h.patience = 200 * time.Millisecond
			}
			found := record(h, "Settle")
			if c.breaks == nil {
				require.Empty(t, found)
			}
			for _, want := range c.breaks {
				require.Contains(t, found, "Settle/"+want, "found instead: %q", slices.Sorted(maps.Keys(found)))
			}
		})
	}
}

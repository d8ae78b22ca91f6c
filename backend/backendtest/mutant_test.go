package backendtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

type mutant struct {
	name   string
	lie    func(l *liar, b *memory.Backend, h *Harness)
	breaks []string
}

// Each mutant tells one lie, and the promises that it breaks have to notice:
// all of those that are named here.
var mutants = []mutant{
	{"forgets a write", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.drafts(func(d *lyingDraft, _ dr.Point) {
			var mu sync.Mutex
			n := 0
			d.writeAt = func(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
				mu.Lock()
				n++
				forget := n%5 == 0
				mu.Unlock()
				if forget {
					return len(p), nil
				}
				return d.Draft.WriteAt(ctx, disk, p, off)
			}
		})
	}, []string{"Draft/writes what it is given, where it is told", "Draft/zeroes ranges"}},

	{"takes from an original what the point lacks", func(l *liar, b *memory.Backend, _ *Harness) {
		l.draft = func(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
			m, err := b.Machine(ctx, id)
			if err != nil {
				return nil, err
			}
			d, err := b.Draft(ctx, id, p)
			for _, has := range m.Disks {
				if _, wanted := p.Machine.Disk(has.ID); err == nil && !wanted {
					_, err = d.WriteAt(ctx, has.ID, make([]byte, has.Size), 0)
				}
			}
			return d, err
		}
	}, []string{"Draft/an original keeps the disks that the point lacks"}},

	{"keeps the caller's buffer when writing", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.drafts(func(d *lyingDraft, _ dr.Point) {
			var mu sync.Mutex
			var late []func(context.Context) error
			d.writeAt = func(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
				if n, err := d.Draft.WriteAt(ctx, disk, p, off); err != nil {
					return n, err
				}
				mu.Lock()
				defer mu.Unlock()
				late = append(late, func(ctx context.Context) error {
					_, err := d.Draft.WriteAt(ctx, disk, p, off)
					return err
				})
				return len(p), nil
			}
			d.commit = func(ctx context.Context, p dr.Point) error {
				for _, write := range late {
					if err := write(ctx); err != nil {
						return err
					}
				}
				late = nil
				return d.Draft.Commit(ctx, p)
			}
		})
	}, []string{"Draft/keeps no buffer"}},

	{"keeps the caller's buffer when reading", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.images(func(i *lyingImage) {
			var mu sync.Mutex
			cache := map[string][]byte{}
			i.readAt = func(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
				mu.Lock()
				defer mu.Unlock()
				key := fmt.Sprint(disk, off, len(p))
				if kept, ok := cache[key]; ok {
					return copy(p, kept), nil
				}
				n, err := i.Image.ReadAt(ctx, disk, p, off)
				if err == nil && len(p) == 8192 {
					cache[key] = p
				}
				return n, err
			}
		})
	}, []string{"Image/keeps no buffer"}},

	{"says that it holds what has run since", func(l *liar, _ *memory.Backend, _ *Harness) {
		var mu sync.Mutex
		held := map[dr.MachineID]dr.PointID{}
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			r, err := l.Backend.Prepare(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			if r.Holds != "" {
				held[r.ID] = r.Holds
			} else if err == nil && !r.Torn {
				r.Holds = held[r.ID]
			}
			return r, err
		}
	}, []string{"Holds/nothing after a person started it"}},

	{"passes cards over", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			p.Cards = nil
			return l.Backend.Prepare(ctx, p)
		}
	}, []string{"Prepare/cards are honoured or refused", "Prepare/cards that make no sense are ErrInvalid"}},

	{"forgets that it ran", func(l *liar, b *memory.Backend, _ *Harness) {
		var mu sync.Mutex
		committed := map[dr.MachineID]dr.PointID{}
		l.draft = func(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
			d, err := b.Draft(ctx, id, p)
			mu.Lock()
			defer mu.Unlock()
			committed[id] = p.ID
			return d, err
		}
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			r, err := b.Prepare(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && !r.Torn {
				r.Holds = committed[r.ID]
			}
			return r, err
		}
	}, []string{"Holds/nothing after a start", "Holds/nothing after a start, in another process"}},

	{"holds what was captured while running", func(l *liar, b *memory.Backend, _ *Harness) {
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			r, err := b.Prepare(ctx, p)
			if names, _ := b.Captures(r.ID); err == nil && r.Holds == "" && len(names) > 0 {
				r.Holds = names[len(names)-1]
			}
			return r, err
		}
	}, []string{"Holds/nothing that was captured while running"}},

	{"starts a torn replica", func(l *liar, b *memory.Backend, _ *Harness) {
		l.start = func(ctx context.Context, id dr.MachineID) error {
			err := b.Start(ctx, id)
			if err == nil {
				return nil
			}
			// It powers on whatever lies there.
			d, draftErr := b.Draft(ctx, id, dr.Point{ID: "lie"})
			if draftErr != nil {
				return err
			}
			if err := d.Commit(ctx, dr.Point{}); err != nil {
				return err
			}
			return b.Start(ctx, id)
		}
	}, []string{"Torn/machine holds nothing and is not started", "Torn/mark outlives the process", "Torn/close does not publish"}},

	{"close publishes", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.drafts(func(d *lyingDraft, p dr.Point) {
			d.close = func() error {
				_ = d.Draft.Commit(context.Background(), p)
				return d.Draft.Close()
			}
		})
	}, []string{"Torn/close does not publish", "Torn/original is marked too"}},

	{"forgets the torn mark with the process", func(l *liar, b *memory.Backend, h *Harness) {
		var mu sync.Mutex
		open := map[dr.Draft]dr.Point{}
		l.drafts(func(d *lyingDraft, p dr.Point) {
			mu.Lock()
			defer mu.Unlock()
			open[d.Draft] = p
		})
		reopen := h.Reopen
		h.Reopen = func() (backend.Backend, error) {
			mu.Lock()
			defer mu.Unlock()
			for d, p := range open {
				_ = d.Commit(context.Background(), p)
			}
			clear(open)
			return reopen()
		}
	}, []string{"Torn/mark outlives the process"}},

	{"second commit fails", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.drafts(func(d *lyingDraft, _ dr.Point) {
			done := false
			d.commit = func(ctx context.Context, p dr.Point) error {
				if done {
					return dr.ErrExists
				}
				err := d.Draft.Commit(ctx, p)
				done = err == nil
				return err
			}
		})
	}, []string{"Draft/second commit is a no-op"}},

	{"failed commit can't be repeated", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.drafts(func(d *lyingDraft, _ dr.Point) {
			var failed error
			d.commit = func(ctx context.Context, p dr.Point) error {
				if failed == nil {
					failed = d.Draft.Commit(ctx, p)
				}
				return failed
			}
		})
	}, []string{"Draft/failed commit may be repeated"}},

	{"writes what fits of a write past the end", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.drafts(func(d *lyingDraft, p dr.Point) {
			d.writeAt = func(ctx context.Context, disk dr.DiskID, b []byte, off int64) (int, error) {
				on, ok := p.Machine.Disk(disk)
				if ok && off < on.Size && int64(len(b)) > on.Size-off {
					if n, err := d.Draft.WriteAt(ctx, disk, b[:on.Size-off], off); err != nil {
						return n, err
					}
				}
				return d.Draft.WriteAt(ctx, disk, b, off)
			}
		})
	}, []string{"Draft/past the end is ErrOutOfRange and writes nothing"}},

	{"opens a running machine's disks for writing", func(l *liar, b *memory.Backend, _ *Harness) {
		l.draft = func(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
			_ = b.Stop(ctx, id)
			return b.Draft(ctx, id, p)
		}
	}, []string{"Draft/running machine is ErrRunning"}},

	{"remove leaves a disk", func(l *liar, b *memory.Backend, h *Harness) {
		var mu sync.Mutex
		var left []string
		l.remove = func(ctx context.Context, id dr.MachineID) error {
			m, err := b.Machine(ctx, id)
			if err == nil && len(m.Disks) > 0 {
				mu.Lock()
				left = append(left, string(id)+"/"+string(m.Disks[0].ID))
				mu.Unlock()
			}
			return b.Remove(ctx, id)
		}
		listed := h.Inventory
		h.Inventory = func() ([]string, error) {
			names, err := listed()
			mu.Lock()
			defer mu.Unlock()
			return append(names, left...), err
		}
	}, []string{"Remove/leaves nothing"}},

	{"remove leaves the machine when it runs", func(l *liar, b *memory.Backend, _ *Harness) {
		l.remove = func(ctx context.Context, id dr.MachineID) error {
			if m, err := b.Machine(ctx, id); err == nil && m.Power == dr.On {
				return nil
			}
			return b.Remove(ctx, id)
		}
	}, []string{"Remove/leaves nothing"}},

	{"remove takes the original", func(l *liar, b *memory.Backend, _ *Harness) {
		l.remove = func(ctx context.Context, id dr.MachineID) error {
			_ = b.Destroy(id)
			return nil
		}
	}, []string{"Remove/leaves what Prepare found as original", "Remove/leaves what this library didn't make"}},

	{"capture under the same name makes a second one", func(l *liar, b *memory.Backend, _ *Harness) {
		l.capture = func(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
			_ = b.Release(ctx, id, name)
			return b.Capture(ctx, id, name, want)
		}
	}, []string{"Capture/same name finds what was frozen", "Capture/same name in another process finds it"}},

	{"release does nothing", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.release = func(context.Context, dr.MachineID, dr.PointID) error { return nil }
	}, []string{"Capture/release lets go"}},

	{"release takes every capture", func(l *liar, b *memory.Backend, _ *Harness) {
		l.release = func(ctx context.Context, id dr.MachineID, name dr.PointID) error {
			names, _ := b.Captures(id)
			for _, name := range names {
				_ = b.Release(ctx, id, name)
			}
			return nil
		}
	}, []string{"Capture/two names are two moments"}},

	{"release forgets the base", func(l *liar, b *memory.Backend, _ *Harness) {
		l.release = func(ctx context.Context, id dr.MachineID, name dr.PointID) error {
			names, _ := b.Captures(id)
			if slices.Contains(names, name) {
				_ = b.LoseChanges(id)
			}
			return b.Release(ctx, id, name)
		}
	}, []string{"Changes/since a released point"}},

	{"image is not frozen", func(l *liar, b *memory.Backend, _ *Harness) {
		l.images(func(i *lyingImage) {
			i.readAt = func(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
				n, err := i.Image.ReadAt(ctx, disk, p, off)
				if live, liveErr := b.Disk(i.Point().Machine.ID, disk); liveErr == nil && n > 0 {
					_, _ = live.ReadAt(p[:n], off)
				}
				return n, err
			}
		})
	}, []string{"Capture/image is frozen while the guest writes", "Capture/of a stopped machine"}},

	{"short read without an error", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.images(func(i *lyingImage) {
			i.readAt = func(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
				n, err := i.Image.ReadAt(ctx, disk, p, off)
				if n > 0 {
					return n, nil
				}
				return n, err
			}
		})
	}, []string{"Image/reads like io.ReaderAt"}},

	{"boasts of its consistency", func(l *liar, b *memory.Backend, _ *Harness) {
		l.capture = func(ctx context.Context, id dr.MachineID, name dr.PointID, _ dr.Consistency) (dr.Image, error) {
			return b.Capture(ctx, id, name, dr.ApplicationConsistent)
		}
	}, []string{"Capture/describes its moment"}},

	{"prepare makes a second machine", func(l *liar, b *memory.Backend, _ *Harness) {
		n := 0
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			if p.Original == "" && ctx.Err() == nil {
				n++
				p.Key = fmt.Sprint(p.Key, n)
			}
			return b.Prepare(ctx, p)
		}
	}, []string{"Prepare/finds by key what it made", "Prepare/finds it in another process"}},

	{"prepare picks one of two", func(l *liar, b *memory.Backend, _ *Harness) {
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			r, err := b.Prepare(ctx, p)
			if errors.Is(err, dr.ErrAmbiguous) {
				return backend.Replica{ID: "replica-1"}, nil
			}
			return r, err
		}
	}, []string{"Prepare/two candidates are ErrAmbiguous"}},

	{"prepare stops a running original", func(l *liar, b *memory.Backend, _ *Harness) {
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			if p.Original != "" {
				_ = b.Stop(ctx, p.Original)
			}
			return b.Prepare(ctx, p)
		}
	}, []string{"Prepare/running original is ErrRunning"}},

	{"prepare makes what it should find", func(l *liar, b *memory.Backend, _ *Harness) {
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			if _, err := b.Machine(ctx, p.Original); p.Original != "" && err != nil {
				p.Original = ""
			}
			return b.Prepare(ctx, p)
		}
	}, []string{"Prepare/missing original is ErrNotFound"}},

	{"stop loses the last write", func(l *liar, b *memory.Backend, h *Harness) {
		var mu sync.Mutex
		type last struct {
			disk dr.DiskID
			off  int64
			n    int
		}
		writes := map[dr.MachineID]last{}
		h.Write = func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
			mu.Lock()
			writes[id] = last{disk, off, len(p)}
			mu.Unlock()
			return b.Write(id, disk, p, off)
		}
		l.stop = func(ctx context.Context, id dr.MachineID) error {
			mu.Lock()
			w, ok := writes[id]
			mu.Unlock()
			if ok {
				_ = b.Write(id, w.disk, make([]byte, w.n), w.off)
			}
			return b.Stop(ctx, id)
		}
	}, []string{"Power/what the guest wrote stays"}},

	{"ignores contexts", func(l *liar, b *memory.Backend, _ *Harness) {
		l.capture = func(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
			return b.Capture(context.WithoutCancel(ctx), id, name, want)
		}
	}, []string{"Capture/context is honoured"}},
}

// The suite finds out every lie, by the promise that it breaks, and finds
// nothing where nobody lies.
func TestSuiteFindsEveryLie(t *testing.T) {
	require.GreaterOrEqual(t, len(mutants)+len(trackerMutants), 10)
	t.Run("honest", func(t *testing.T) {
		require.Empty(t, record(lying(nil)))
	})
	for _, m := range slices.Concat(mutants, trackerMutants, fencesMutants) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			var groups []string
			for _, promise := range m.breaks {
				group, _, _ := strings.Cut(promise, "/")
				groups = append(groups, group)
			}
			found := record(lying(m.lie), groups...)
			for _, want := range m.breaks {
				require.Contains(t, found, want, "found instead: %q", slices.Sorted(maps.Keys(found)))
			}
			t.Logf("found by %d promises", len(found))
		})
	}
}

func lying(lie func(l *liar, b *memory.Backend, h *Harness)) Harness {
	b := memory.New(memory.Options{})
	l := &liar{Backend: b}
	h := Simulated(l, b)
	h.Granularity = 64 << 10
	h.Histories = 3
	h.Seed = 1
	if lie != nil {
		lie(l, b, &h)
	}
	return h
}

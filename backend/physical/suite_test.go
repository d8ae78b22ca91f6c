package physical

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// guests are running machines whose writes pass through this process, and that
// can be frozen.
type guests struct {
	tracker *BitmapTracker

	mu     sync.Mutex
	gates  map[dr.MachineID]*sync.RWMutex // writers share, a freeze excludes
	frozen map[dr.MachineID]bool
}

func newGuests() *guests {
	return &guests{tracker: NewBitmapTracker(0), gates: map[dr.MachineID]*sync.RWMutex{}, frozen: map[dr.MachineID]bool{}}
}

func (g *guests) gate(id dr.MachineID) *sync.RWMutex {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gates[id] == nil {
		g.gates[id] = &sync.RWMutex{}
	}
	return g.gates[id]
}

func (g *guests) hooks() Hooks {
	return Hooks{
		Freeze: func(_ context.Context, e Event) error {
			g.gate(e.Machine.ID).Lock()
			g.mu.Lock()
			defer g.mu.Unlock()
			g.frozen[e.Machine.ID] = true
			return nil
		},
		Thaw: func(_ context.Context, e Event) error {
			g.mu.Lock()
			frozen := g.frozen[e.Machine.ID]
			delete(g.frozen, e.Machine.ID)
			g.mu.Unlock()
			if frozen { // a freeze that failed is thawed too
				g.gate(e.Machine.ID).Unlock()
			}
			return nil
		},
	}
}

// write is a guest's write to one of the host's disks.
func (g *guests) write(h *Host, id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	gate := g.gate(id)
	gate.RLock()
	defer gate.RUnlock()
	g.tracker.Mark(id, disk, off, int64(len(p)))
	defer g.tracker.Mark(id, disk, off, int64(len(p)))
	f, err := os.OpenFile(diskPath(h, id, disk), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, off)
	return errors.Join(err, f.Close())
}

func diskPath(h *Host, id dr.MachineID, disk dr.DiskID) string {
	h.mu.Lock()
	m := h.machines[id]
	h.mu.Unlock()
	for _, d := range m.record().Disks {
		if d.ID == disk {
			return m.path(d)
		}
	}
	return ""
}

// settled is a host whose captures are copied at once, pass by pass, as a
// replication would: the suite wants images that outlast what the machine does
// next, which a disk without snapshots doesn't give.
type settled struct{ *Host }

func (s settled) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	img, err := s.Host.Capture(ctx, id, name, want)
	if err != nil {
		return nil, err
	}
	if kept, ok := img.(*snapshotImage); ok {
		return kept, nil
	}
	c := &copied{Image: img, disks: map[dr.DiskID][]byte{}}
	for _, d := range img.Point().Machine.Disks {
		c.disks[d.ID] = make([]byte, d.Size)
	}
	if err := copyPasses(ctx, img, c.disks, nil); err != nil {
		img.Close()
		return nil, err
	}
	return c, nil
}

// copyPasses reads an image as a copy does; between is called after each pass.
func copyPasses(ctx context.Context, img dr.Image, disks map[dr.DiskID][]byte, between func(pass int)) error {
	for pass := 1; ; pass++ {
		for id, b := range disks {
			whole := func(yield func(dr.Extent, error) bool) { yield(dr.Extent{Len: int64(len(b))}, nil) }
			changes := iter.Seq2[dr.Extent, error](whole)
			if pass > 1 {
				changes = img.(dr.ChangeTracker).Changes(ctx, id, dr.Point{})
			}
			for e, err := range changes {
				if errors.Is(err, dr.ErrChangesLost) {
					e, err = dr.Extent{Len: int64(len(b))}, nil
				}
				if err == nil {
					_, err = img.ReadAt(ctx, id, b[e.Off:e.End()], e.Off)
				}
				if err != nil {
					return err
				}
			}
		}
		if between != nil {
			between(pass)
		}
		s, ok := dr.As[dr.Settler](img)
		if !ok {
			return nil
		}
		if more, err := s.Settle(ctx); err != nil || !more {
			return err
		}
	}
}

type copied struct {
	dr.Image
	disks map[dr.DiskID][]byte
}

func (c *copied) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	b, ok := c.disks[disk]
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !ok {
		return 0, dr.ErrNotFound
	}
	if off < 0 {
		return 0, dr.ErrInvalid
	}
	return bytes.NewReader(b).ReadAt(p, off)
}

func (c *copied) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return c.Image.(dr.ChangeTracker).Changes(ctx, disk, since)
}

func harness(t *testing.T, snapshots Snapshotter) backendtest.Harness {
	root, originals := t.TempDir(), t.TempDir()
	g := newGuests()
	hooks := g.hooks()
	hooks.Probe = func(ctx context.Context, e Event) error {
		for e.Machine.Power != dr.On {
			<-ctx.Done()
			return ctx.Err()
		}
		_, err := io.WriteString(e.Out, "it answers")
		return err
	}
	cfg := Config{Root: root, Hooks: hooks, Tracker: g.tracker, LastPass: 128 << 10, Snapshots: snapshots}
	h, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	var mu sync.Mutex
	var made atomic.Int64
	return backendtest.Harness{

		Backend:  settled{h},
		Volatile: true,
		Live:     func() backend.Backend { return h },
		Machine: func(t backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
			m := Machine{ID: dr.MachineID(fmt.Sprintf("original-%d", made.Add(1))), Power: dr.Off}
			for _, d := range disks {
				path := filepath.Join(originals, string(m.ID)+"-"+string(d.ID))
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					return "", err
				}
				if err := os.Truncate(path, d.Size); err != nil {
					return "", err
				}
				m.Disks = append(m.Disks, Disk{ID: d.ID, Path: path, Boot: d.Boot})
			}
			mu.Lock()
			defer mu.Unlock()
			cfg.Machines = append(cfg.Machines, m)
			return m.ID, h.Add(m)
		},
		Power: func(id dr.MachineID, p dr.Power) error {
			if p == dr.On {
				return h.Start(context.Background(), id)
			}
			return h.Stop(context.Background(), id)
		},
		Write: func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error { return g.write(h, id, disk, p, off) },
		Read: func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
			f, err := os.Open(diskPath(h, id, disk))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.ReadFull(io.NewSectionReader(f, off, int64(len(p))), p)
			return err
		},
		Reopen: func() (backend.Backend, error) {
			if err := h.Close(); err != nil {
				return nil, err
			}
			next, err := Open(cfg)
			if err != nil {
				return nil, err
			}
			h = next
			return settled{h}, nil
		},
		Grow: func(id dr.MachineID, disk dr.DiskID, size int64) error {
			return os.Truncate(diskPath(h, id, disk), size)
		},
		LoseChanges: func(id dr.MachineID) error { return g.tracker.Keep(context.Background(), id, nil) },
		Duplicate: func(t backendtest.T, id dr.MachineID) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			twin := h.add(id + "-twin")
			next := h.machines[id].record().clone()
			next.Machine.ID = twin.id
			t.Cleanup(func() { _ = twin.erase() })
			return twin.save(next)
		},
		Inventory: func() ([]string, error) {
			var names []string
			err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
				names = append(names, path)
				return err
			})
			return names, err
		},
	}
}

func TestContract(t *testing.T) { backendtest.Run(t, harness(t, nil)) }

func TestContractWithSnapshots(t *testing.T) {
	backendtest.Run(t, harness(t, copier{fs: fsys.OS(), calls: new(atomic.Int32)}))
}

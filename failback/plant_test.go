package failback_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// plant is both sites with everything that is durable: image files and vaults
// on a disk that can lose power, the journal in a file. A plant that has
// crashed is opened again from what the disk kept.
type plant struct {
	t       *testing.T
	fs      *crashfs.FS
	hosts   map[string]*physical.Host
	vaults  map[string]*vault.Store
	track   map[string]*physical.BitmapTracker
	engine  *embedded.Engine
	env     *replication.Env
	actions dr.Actions
	moments *moments

	cut     atomic.Bool  // power is lost: nothing is journaled any more
	journal atomic.Int64 // writes to the journal, before and after counted
	acts    atomic.Int64 // actions that have returned
	// The cut comes at this journal write or behind this action; 0: never.
	cutJournal, cutAct int64
}

// plantDisks are the sizes of the machine's disks; one ends within a block.
var plantDisks = []dr.Disk{{ID: "a", Size: 256 << 10}, {ID: "b", Size: 64<<10 + 5*512}}

// moments are the contents that the machine's disks had when a point was
// taken of them or it was off: only from one of these may a machine start.
type moments struct {
	mu   sync.Mutex
	seen map[[32]byte]bool
}

func (m *moments) add(disks [][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[momentSum(disks)] = true
}

func (m *moments) has(disks [][]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[momentSum(disks)]
}

func momentSum(disks [][]byte) [32]byte {
	h := sha256.New()
	for _, d := range disks {
		fmt.Fprintf(h, "%d:", len(d))
		h.Write(d)
	}
	return [32]byte(h.Sum(nil))
}

var errPower = errors.New("power is lost")

// openPlant opens everything there is on the disk and in the journal file.
func openPlant(t *testing.T, fs *crashfs.FS, journal string, m *moments) *plant {
	t.Helper()
	p := &plant{t: t, fs: fs, hosts: map[string]*physical.Host{}, vaults: map[string]*vault.Store{}, track: map[string]*physical.BitmapTracker{}, moments: m}
	sites := replication.Sites{}
	for _, site := range []string{hq, away} {
		p.track[site] = physical.NewBitmapTracker(0)
		cfg := physical.Config{Root: "/" + site + "/machines", FS: fs, Tracker: p.track[site], Hooks: physical.Hooks{
			Start:    p.bootHook,
			Stop:     func(context.Context, physical.Event) error { return nil },
			Shutdown: func(context.Context, physical.Event) error { return nil },
			Freeze:   func(context.Context, physical.Event) error { return nil },
			Thaw:     func(context.Context, physical.Event) error { return nil },
		}}
		if site == hq {
			cfg.Machines = []physical.Machine{{ID: vm, Power: dr.On, Disks: []physical.Disk{{ID: "a", Path: "/app/a.img"}, {ID: "b", Path: "/app/b.img"}}}}
		}
		var err error
		p.hosts[site], err = physical.Open(cfg)
		require.NoError(t, err)
		p.vaults[site], err = vault.Open(t.Context(), vault.NewDir(fs, "/"+site+"/vault"), vault.Options{})
		require.NoError(t, err)
		sites[site] = replication.Site{Backend: p.hosts[site], Points: p.vaults[site]}
	}
	var err error
	p.engine, err = embedded.Open(journal, embedded.Options{BackoffFirst: 1, BackoffMost: 1, Intercept: p.intercept})
	require.NoError(t, err)
	p.env = &replication.Env{Records: p.engine, Sites: sites}
	all, err := dr.Merge(replication.Actions(p.env), failover.Actions(p.env), failback.Actions(p.env), dr.Actions{"test.cycle@1": p.cycleAction})
	require.NoError(t, err)
	p.actions = dr.Actions{}
	for name, act := range all {
		p.actions[name] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			res, err := act(ctx, c)
			if p.acts.Add(1) == p.cutAct {
				p.powerOff()
			}
			if p.dead() {
				return nil, errPower
			}
			return res, err
		}
	}
	return p
}

func (p *plant) dead() bool { return p.cut.Load() || p.fs.Fired() > 0 }

func (p *plant) powerOff() {
	p.cut.Store(true)
	p.fs.Cut()
}

// intercept makes the journal lose power together with the disks.
func (p *plant) intercept(embedded.Write) error {
	if p.journal.Add(1) == p.cutJournal {
		p.powerOff()
	}
	if p.dead() {
		return errPower
	}
	return nil
}

// bootHook is the last line: it looks at what a machine is started from.
func (p *plant) bootHook(_ context.Context, e physical.Event) error {
	var disks [][]byte
	for _, path := range e.Paths {
		b, err := readAll(p.fs, path)
		if err != nil {
			return err
		}
		disks = append(disks, b)
	}
	if !p.moments.has(disks) {
		err := fmt.Errorf("machine %s was started from disks that no point and no machine ever had", e.Machine.ID)
		p.t.Error(err)
		return err
	}
	return nil
}

func (p *plant) cycleAction(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	rec, err := p.env.Records.Load(ctx, pid)
	if err != nil {
		return nil, err
	}
	rep, err := p.env.ReplicateAs(ctx, rec, replication.PointName(c.Key), dr.CrashConsistent, c.Beat)
	if err != nil {
		return nil, err
	}
	_, err = p.env.Update(ctx, c, pid, func(r *dr.Protection) error { r.Last = rep.Point; return nil })
	return nil, err
}

// run brings a stage to its end, or returns errPower if there was a cut.
func (p *plant) run(s crashStage) error {
	ctx, stop := context.WithCancelCause(p.t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		stop(p.engine.Serve(ctx, p.actions))
	}()
	defer func() { stop(nil); <-served }()
	err := p.drive(ctx, s)
	if p.dead() {
		return errPower
	}
	return err
}

func (p *plant) drive(ctx context.Context, s crashStage) error {
	_, err := p.engine.Status(ctx, s.run)
	if errors.Is(err, dr.ErrNotFound) {
		rec, err := p.engine.Load(ctx, pid)
		if err != nil {
			return err
		}
		plan, err := s.plan(rec)
		if err != nil {
			return err
		}
		if err := p.engine.Start(ctx, s.run, plan); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	st, err := dr.Wait(ctx, p.engine, s.run, func(st dr.Status) {
		for _, step := range st.Steps {
			if step.State == dr.StepWaiting {
				_ = p.engine.Decide(ctx, s.run, step.ID, dr.Decision{Verdict: dr.Approve, By: "the test"})
			}
		}
	})
	if err != nil {
		return err
	}
	if st.State != dr.RunDone {
		return fmt.Errorf("%w: %+v", st.Err(), st.Steps)
	}
	return nil
}

func (p *plant) close() {
	_ = p.engine.Close()
	for site := range p.hosts {
		_ = p.vaults[site].Close() // the disk may be dead
		_ = p.hosts[site].Close()
	}
}

func (p *plant) record() dr.Protection {
	p.t.Helper()
	r, err := p.engine.Load(p.t.Context(), pid)
	require.NoError(p.t, err)
	return r
}

// disks reads the files of a machine's disks.
func (p *plant) disks(at dr.Place) [][]byte {
	p.t.Helper()
	paths, err := p.hosts[at.Site].Paths(at.Machine)
	require.NoError(p.t, err)
	var all [][]byte
	for _, path := range paths {
		b, err := readAll(p.fs, path)
		require.NoError(p.t, err)
		all = append(all, b)
	}
	return all
}

// guest writes to the machine that runs, as its guest would, durably, and
// remembers what it then has.
func (p *plant) guest(rnd *rand.Rand) [][]byte {
	p.t.Helper()
	at := p.record().Active
	paths, err := p.hosts[at.Site].Paths(at.Machine)
	require.NoError(p.t, err)
	for i, path := range paths {
		f, err := p.fs.OpenFile(path, os.O_RDWR, 0)
		require.NoError(p.t, err)
		for range 2 {
			b := bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, 512*(1+rnd.IntN(20)))
			off := rnd.Int64N((plantDisks[i].Size-int64(len(b)))/512) * 512
			p.track[at.Site].Mark(at.Machine, plantDisks[i].ID, off, int64(len(b)))
			_, err := f.WriteAt(b, off)
			require.NoError(p.t, err)
			p.track[at.Site].Mark(at.Machine, plantDisks[i].ID, off, int64(len(b)))
		}
		require.NoError(p.t, f.Sync())
		require.NoError(p.t, f.Close())
	}
	disks := p.disks(at)
	p.moments.add(disks)
	return disks
}

func readAll(fs *crashfs.FS, path string) ([]byte, error) {
	f, err := fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b := make([]byte, size)
	_, err = io.ReadFull(io.NewSectionReader(f, 0, size), b)
	return b, errors.Join(err, f.Close())
}

// newDisk makes a disk with the machine's image files on it.
func newDisk(t *testing.T, seed uint64) *crashfs.FS {
	fs := crashfs.New(seed)
	require.NoError(t, fs.MkdirAll("/app", 0o700))
	for _, d := range plantDisks {
		f, err := fs.OpenFile("/app/"+string(d.ID)+".img", os.O_CREATE|os.O_RDWR, 0o600)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(d.Size))
		require.NoError(t, f.Sync())
		require.NoError(t, f.Close())
	}
	require.NoError(t, fs.SyncDir("/app"))
	require.NoError(t, fs.SyncDir("/"))
	return fs
}

// journalDir is a folder for journals, in memory where there is such a thing:
// what a power cut does to the journal is told by the engine's own tests.
func journalDir(t *testing.T) string {
	if dir, err := os.MkdirTemp("/dev/shm", "lifeboat-test-"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

func journalPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%d.db", n)) }

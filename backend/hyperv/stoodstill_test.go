package hyperv

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var everyStop = flag.Bool("every-stop", false, "let the old worker stand still at every call, not at a sample of them")

// stops are how many calls of each kind are tried of those that a flow makes.
const stops = 25

// still is where a worker on the host stands still: with its n-th call decided
// and not made, or with the answer there and nothing done about it.
type still struct {
	n      int
	after  bool
	at     chan struct{} // closed when it does
	wake   chan struct{} // closed when it may go on
	mu     sync.Mutex
	called int
}

// call is made around each call to the host.
func (s *still) call() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called++
	if s.called != s.n {
		return func() {}
	}
	stand := func() { close(s.at); <-s.wake }
	if s.after {
		return stand
	}
	s.mu.Unlock()
	stand()
	s.mu.Lock()
	return func() {}
}

func (s *still) now() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.called
}

// stillConn and stillDisks are the host as the worker that stands still has it.
type stillConn struct {
	host.Conn
	s *still
}

func (c stillConn) Query(ctx context.Context, q string) ([]host.Object, error) {
	defer c.s.call()()
	return c.Conn.Query(ctx, q)
}

func (c stillConn) Get(ctx context.Context, path host.Ref) (host.Object, error) {
	defer c.s.call()()
	return c.Conn.Get(ctx, path)
}

func (c stillConn) Associators(ctx context.Context, path host.Ref, assoc, result string) ([]host.Object, error) {
	defer c.s.call()()
	return c.Conn.Associators(ctx, path, assoc, result)
}

func (c stillConn) Invoke(ctx context.Context, path host.Ref, method string, in host.Props) (host.Result, error) {
	defer c.s.call()()
	return c.Conn.Invoke(ctx, path, method, in)
}

type stillDisks struct {
	host.Disks
	s *still
}

func (d stillDisks) Create(ctx context.Context, path string, spec host.DiskSpec) error {
	defer d.s.call()()
	return d.Disks.Create(ctx, path, spec)
}

func (d stillDisks) Stat(ctx context.Context, path string) (host.DiskInfo, error) {
	defer d.s.call()()
	return d.Disks.Stat(ctx, path)
}

func (d stillDisks) Open(ctx context.Context, path string, write bool) (host.Disk, error) {
	defer d.s.call()()
	f, err := d.Disks.Open(ctx, path, write)
	if err != nil {
		return nil, err
	}
	return stillDisk{f, d.s}, nil
}

func (d stillDisks) Rename(ctx context.Context, from, to string) error {
	defer d.s.call()()
	return d.Disks.Rename(ctx, from, to)
}

func (d stillDisks) Remove(ctx context.Context, path string) error {
	defer d.s.call()()
	return d.Disks.Remove(ctx, path)
}

func (d stillDisks) MakeFolder(ctx context.Context, path string) error {
	defer d.s.call()()
	return d.Disks.MakeFolder(ctx, path)
}

type stillDisk struct {
	host.Disk
	s *still
}

func (d stillDisk) WriteAt(p []byte, off int64) (int, error) {
	defer d.s.call()()
	return d.Disk.WriteAt(p, off)
}

// oldFlow is what the old worker does, whatever happens to each step.
var oldFlow = []struct {
	name string
	do   func(context.Context, backend.Backend, backend.Placement, dr.MachineID) error
}{
	{"fill", func(ctx context.Context, b backend.Backend, p backend.Placement, id dr.MachineID) error {
		return fillDisk(ctx, b, p, id, "first", 1)
	}},
	{"start", func(ctx context.Context, b backend.Backend, _ backend.Placement, id dr.MachineID) error {
		return b.Start(ctx, id)
	}},
	{"stop", func(ctx context.Context, b backend.Backend, _ backend.Placement, id dr.MachineID) error {
		return b.Stop(ctx, id)
	}},
	{"prepare", func(ctx context.Context, b backend.Backend, p backend.Placement, _ dr.MachineID) error {
		_, err := b.Prepare(ctx, p)
		return err
	}},
	{"fill again", func(ctx context.Context, b backend.Backend, p backend.Placement, id dr.MachineID) error {
		return fillDisk(ctx, b, p, id, "second", 2)
	}},
	{"start again", func(ctx context.Context, b backend.Backend, _ backend.Placement, id dr.MachineID) error {
		return b.Start(ctx, id)
	}},
	{"shut down", func(ctx context.Context, b backend.Backend, _ backend.Placement, id dr.MachineID) error {
		s, ok := dr.As[backend.Shutdowner](b)
		if !ok {
			return dr.ErrUnsupported
		}
		return s.Shutdown(ctx, id)
	}},
	{"start once more", func(ctx context.Context, b backend.Backend, _ backend.Placement, id dr.MachineID) error {
		return b.Start(ctx, id)
	}},
	{"remove", func(ctx context.Context, b backend.Backend, _ backend.Placement, id dr.MachineID) error {
		return b.Remove(ctx, id)
	}},
}

const diskSize = 1 << 20

func placed(key string) backend.Placement {
	return backend.Placement{Key: key, Name: key, Machine: dr.Machine{ID: "m", Name: "web", Disks: []dr.Disk{{ID: "disk", Size: diskSize}}}}
}

func fillDisk(ctx context.Context, b backend.Backend, p backend.Placement, id dr.MachineID, point dr.PointID, with byte) error {
	at := dr.Point{ID: point, Time: time.Unix(1, 0), Machine: p.Machine}
	d, err := b.Draft(ctx, id, at)
	if err != nil {
		return err
	}
	const part = diskSize / 4
	for off := int64(0); off < diskSize && err == nil; off += part {
		_, err = d.WriteAt(ctx, "disk", bytes.Repeat([]byte{with}, part), off)
	}
	if err == nil {
		err = d.Commit(ctx, at)
	}
	return errors.Join(err, d.Close())
}

func claimed(epoch uint64) context.Context {
	return dr.WithFences(context.Background(), map[string]uint64{"protection": epoch})
}

// newOwner fills the replica in the place of another, and leaves it stopped.
func newOwner(b backend.Backend, p backend.Placement) (dr.MachineID, error) {
	ctx := claimed(2)
	r, err := b.Prepare(ctx, p)
	if err != nil {
		return "", err
	}
	return r.ID, fillDisk(ctx, b, p, r.ID, "theirs", 0xee)
}

// effects are the calls of a trace that change something.
func effects(calls map[string]int) map[string]int {
	maps.DeleteFunc(calls, func(name string, n int) bool {
		reads := strings.HasPrefix(name, "Query ") || strings.HasPrefix(name, "Get ") || strings.HasPrefix(name, "Associators ") ||
			strings.HasPrefix(name, "Text") || slices.Contains([]string{"Disks.Stat", "Disks.Open", "Disks.Exists", "Disks.Free", "Disk.ReadAt", "Disk.Flush", "Disk.Close", "Disk.Changes", "Disk.Allocated"}, name)
		return reads || n == 0
	})
	return calls
}

func since(h *hypervtest.Host, before map[string]int) map[string]int {
	now := h.Calls()
	for name, n := range before {
		now[name] -= n
	}
	return effects(now)
}

// A worker on the host stands still at a call of its flow, another takes its claim
// over and fills the replica otherwise, and then it wakes and goes on. If it had
// asked for nothing then, nothing happens any more; else that one thing.
func TestTheOldWorkerStoodStill(t *testing.T) {
	late := map[string]int{}
	for _, after := range []bool{true, false} {
		name := map[bool]string{true: "between two calls", false: "with a call decided"}[after]
		t.Run(name, func(t *testing.T) {
			calls := stoodStill(t, 0, after, nil)
			at := rand.New(rand.NewPCG(*seed, 2)).Perm(calls)
			if !*everyStop {
				at = at[:stops]
			}
			t.Logf("seed %d: of %d calls it stands still at %d", *seed, calls, len(at))
			for _, n := range at {
				stoodStill(t, n+1, after, late)
			}
		})
	}
	t.Logf("happened after the takeover: %v", late)
}

// stoodStill lets the old worker stand still at the n-th call of its flow, never
// for 0, and returns how many there were.
func stoodStill(t *testing.T, n int, after bool, late map[string]int) int {
	t.Helper()
	say := fmt.Sprintf("after %v, call %d", after, n)
	s := newSite(t, hypervtest.Options{})
	h, p := s.nodes[0], placed("replica")
	theirs := s.connect()
	o := s.options()
	stand := &still{n: n, after: after, at: make(chan struct{}), wake: make(chan struct{})}
	o.Nodes[0].Conn, o.Nodes[0].Disks = stillConn{o.Nodes[0].Conn, &still{}}, stillDisks{o.Nodes[0].Disks, &still{}}
	old, err := Open(context.Background(), o)
	require.NoError(t, err)
	r, err := old.Prepare(claimed(1), p)
	require.NoError(t, err)
	vm, err := s.vm(r.ID)
	require.NoError(t, err)
	vm.SetGuest(func(g *hypervtest.Guest) { *g = linux })
	old.nodes[0].conn, old.nodes[0].disks = stillConn{h.Conn(), stand}, stillDisks{o.Nodes[0].Disks, stand}

	errs := map[string]error{}
	begun := map[string]int{}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for _, step := range oldFlow {
			begun[step.name] = stand.now()
			errs[step.name] = step.do(claimed(1), old, p, r.ID)
		}
	}()
	select {
	case <-over:
		for step, err := range errs {
			require.NoError(t, err, "%s: %s", say, step)
		}
		return stand.now()
	case <-stand.at:
	}
	_, err = newOwner(theirs, p)
	if errors.Is(err, dr.ErrRunning) {
		require.NoError(t, theirs.Stop(claimed(2), r.ID), say)
		_, err = newOwner(theirs, p)
	}
	if err != nil && !errors.Is(err, host.ErrInUse) { // the old one had begun to remove it
		require.NoError(t, theirs.Remove(claimed(2), r.ID), say)
		_, err = newOwner(theirs, p)
	}
	locked := err != nil
	if locked { // the old one has the disk open
		require.ErrorIs(t, err, host.ErrInUse, say)
	}
	m, found := theirs.find(context.Background(), r.ID)
	old.fresh = time.Millisecond // for longer than this it has stood still
	time.Sleep(2 * old.fresh)
	before := h.Calls()
	close(stand.wake)
	<-over
	happened := since(h, before)
	for step, at := range begun {
		if at >= n && found == nil {
			require.True(t, errors.Is(errs[step], dr.ErrFenced) || happened["DestroySystem"] > 0, "%s: %s after it woke: %v", say, step, errs[step])
		}
	}
	total := 0
	for name, n := range happened {
		late[name] += n
		total += n
	}
	if after {
		require.Empty(t, happened, "%s: %v", say, errs)
	}
	require.LessOrEqual(t, total, 1, "%s: %v", say, happened)
	if happened["Disk.WriteAt"] > 0 {
		require.True(t, locked, "%s: nobody else had the disk", say)
	}
	if found == nil && happened["DestroySystem"] == 0 { // whatever it wrote to its record, nobody reads it
		now, err := theirs.findAny(context.Background(), r.ID)
		require.NoError(t, err, say)
		require.Equal(t, m.record, now.record, say)
	}

	// Whoever owns the machine goes on, at worst with a new one.
	id, err := newOwner(theirs, p)
	if errors.Is(err, dr.ErrRunning) {
		require.Positive(t, happened["RequestStateChange"], say)
		require.NoError(t, theirs.Stop(claimed(2), r.ID), say)
		id, err = newOwner(theirs, p)
	}
	if err != nil {
		require.Positive(t, total, "%s: %v", say, err)
		require.NoError(t, theirs.Remove(claimed(2), r.ID), say)
		id, err = newOwner(theirs, p)
		late["and the replica was made anew"]++
	}
	require.NoError(t, err, "%s: %v", say, happened)
	replica, err := theirs.Prepare(claimed(2), p)
	require.NoError(t, err, say)
	require.EqualValues(t, "theirs", replica.Holds, say)
	vm, uuid, err := s.disk(id, "disk")
	require.NoError(t, err)
	got := make([]byte, diskSize)
	require.NoError(t, vm.Read(uuid, got, 0))
	require.True(t, bytes.Equal(bytes.Repeat([]byte{0xee}, diskSize), got), say)
	return 0
}

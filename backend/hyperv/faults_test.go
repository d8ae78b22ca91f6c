package hyperv

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var everyFault = flag.Bool("faults", false, "fail every call of the host in every way, not a sample of them")

var faultSample = flag.Int("faultsample", 150, "how many of the faults are drawn unless -faults is given")

// way is how a call fails, and what fails with it.
type way struct {
	name    string
	after   bool // it has had its effect
	invokes bool // of methods only
	code    uint32
	dies    bool // the process does
	lost    bool // no later call gets through until the step has ended
	cancels bool // the step's context ends
	job     bool // its job ends in an exception
	denied  bool // the method is refused
}

const (
	codeFailed      = 0x80041001 // WBEM_E_FAILED
	codeUnreachable = 0x800706BA // RPC_S_SERVER_UNAVAILABLE
)

var ways = []way{
	{name: "fails before its effect", code: codeFailed},
	{name: "fails after its effect", code: codeFailed, after: true},
	{name: "connection lost before", code: codeUnreachable, lost: true},
	{name: "connection lost after", code: codeUnreachable, lost: true, after: true},
	{name: "dies before", dies: true},
	{name: "dies after", dies: true, after: true},
	{name: "cancelled before", cancels: true},
	{name: "cancelled after", cancels: true, after: true},
	{name: "job ends in an exception", invokes: true, job: true},
	{name: "method refused", invokes: true, denied: true},
}

var errDead = errors.New("the process is dead")

// fault is one call that fails: the n-th of a step.
type fault struct {
	h   *hypervtest.Host
	way way
	n   int

	mu      sync.Mutex
	inside  bool // a step is under way: calls are the backend's
	seen    int
	invoked int
	chosen  int // the call's number
	struck  bool
	dead    bool
	what    string // the call
	cancel  func()
	kill    func()
	allow   func()
}

func (f *fault) hook(c hypervtest.Call) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.inside {
		return nil
	}
	if f.dead {
		return errDead
	}
	if !c.After {
		f.seen++
		at := f.seen
		if c.Op == "Invoke" {
			f.invoked++
		}
		if f.way.invokes {
			if at = f.invoked; c.Op != "Invoke" {
				at = 0
			}
		}
		if at > 0 && at == f.n {
			f.chosen, f.what = c.N, c.Name()
		}
	}
	if c.N != f.chosen || f.chosen == 0 {
		return nil
	}
	switch {
	case f.way.job && !c.After:
		f.struck = true
		f.h.FailJob(c.Method, 32768, "General failure")
		return nil
	case f.way.denied && !c.After:
		f.struck = true
		f.allow = f.h.Deny(c.Method)
		return nil
	case f.way.denied:
		f.allow()
		return nil
	case f.way.job || c.After != f.way.after:
		return nil
	}
	f.struck = true
	switch {
	case f.way.dies:
		f.dead = true
		f.kill()
		return errDead
	case f.way.cancels:
		f.cancel()
		return context.Canceled
	}
	f.dead = f.way.lost
	return &host.Error{Op: c.Op, Code: f.way.code}
}

// world is a host on which an errand is run.
type world struct {
	ran   bool // a person has started the machine
	t     *testing.T
	s     *site
	h     *hypervtest.Host
	v     *HyperV
	f     *fault
	what  string
	tries int // of the step

	disks []dr.Disk
	id    dr.MachineID // somebody's machine
	vm    *hypervtest.VM
	now   content      // what its disks hold
	far   dr.MachineID // the machine that is written or made, if there is one
	// whole are contents that a machine which can be started may have.
	whole  []content
	points map[dr.PointID]point
	alone  []string // the inventory before everything
}

// content is that of a machine's disks, in their order.
type content [][]byte

func (c content) equal(d content) bool { return slices.EqualFunc(c, d, bytes.Equal) }

// grown is c on disks of other sizes.
func (c content) grown(disks []dr.Disk) content {
	var out content
	for i, d := range disks {
		b := make([]byte, d.Size)
		if i < len(c) {
			copy(b, c[i])
		}
		out = append(out, b)
	}
	return out
}

// point is one with its bytes.
type point struct {
	dr.Point
	bytes content
}

// errand is something that is asked of the backend.
type errand struct {
	name string
	// stage makes what it begins with.
	stage func(w *world)
	// do asks, and is repeated when it fails.
	do func(ctx context.Context, w *world) error
	// check looks at what has come of it.
	check func(w *world)
}

// outcome is what an undisturbed run comes to.
type outcome struct {
	calls, invokes int
	inventory      []string
}

var (
	guids = regexp.MustCompile(`(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	parts = regexp.MustCompile(`lifeboat\.[0-9a-f]+\.`)
)

// inventory is what there is on the host, without names that are drawn.
func (w *world) inventory() []string {
	all := w.h.Inventory()
	for i, s := range all {
		all[i] = parts.ReplaceAllString(guids.ReplaceAllString(s, "*"), "lifeboat.*.")
	}
	// How many of a record's parts there are is by its length, and how many files
	// are to be merged yet by the calls since.
	all = slices.DeleteFunc(all, func(s string) bool {
		return strings.HasPrefix(s, "reference point ") || strings.Contains(s, "lifeboat.*.") || strings.Contains(s, ".avhdx")
	})
	slices.Sort(all)
	return all
}

func newWorld(t *testing.T, e errand, x way, n int) *world {
	w := &world{t: t, s: newSite(t, hypervtest.Options{}), points: map[dr.PointID]point{}}
	w.h = w.s.nodes[0]
	w.what = e.name
	w.disks = []dr.Disk{{ID: "os", Size: 256 << 10, Boot: true}, {ID: "data", Size: 128 << 10}}
	id, err := w.s.add(hypervtest.VMSpec{Name: "web", Switches: []string{"production"}, Guest: linux}, w.disks, nil)
	require.NoError(t, err)
	w.id = id
	w.vm, err = w.s.vm(id)
	require.NoError(t, err)
	w.now = content{}.grown(w.disks)
	w.v = w.s.connect()
	w.f = &fault{h: w.h, kill: w.s.kill}
	e.stage(w)
	w.f.way, w.f.n = x, n
	w.alone = w.inventory()
	t.Cleanup(w.h.Fail(w.f.hook))
	return w
}

// step does one, as often as it takes; after each failure seen is asked.
func (w *world) step(e errand, most int, seen func(error)) {
	w.t.Helper()
	for w.tries = 1; ; w.tries++ {
		ctx, cancel := context.WithCancel(context.Background())
		w.f.mu.Lock()
		w.f.inside, w.f.cancel = true, cancel
		w.f.mu.Unlock()
		err := e.do(ctx, w)
		cancel()
		w.f.mu.Lock()
		w.f.inside = false
		died := w.f.dead && w.f.way.dies
		w.f.dead = false
		w.f.mu.Unlock()
		if died { // even if nobody noticed
			w.v = w.s.connect()
		}
		if err == nil {
			return
		}
		if w.f.what != "" && !strings.Contains(w.what, w.f.what) {
			w.what += " (" + w.f.what + ")"
		}
		require.True(w.t, w.f.struck, "%s: without a fault: %v", w.what, err)
		require.Less(w.t, w.tries, most, "%s: %v", w.what, err)
		if seen != nil {
			seen(err)
		}
	}
}

// contentOf reads all disks that a machine has, in their order.
func contentOf(t *testing.T, vm *hypervtest.VM) content {
	var c content
	for _, d := range vm.Disks() {
		b := make([]byte, d.Size)
		require.NoError(t, vm.Read(d.VirtualDiskID, b, 0))
		c = append(c, b)
	}
	return c
}

// person is somebody who starts the machine by hand after a failure, and lets it
// write: it can't be started, or it has a whole point.
func (w *world) person() (started bool) {
	w.t.Helper()
	if w.far == "" {
		return false
	}
	vm, err := w.s.vm(w.far)
	if err != nil || vm.Running() {
		return false
	}
	if err := vm.Start(); err != nil {
		require.Error(w.t, w.v.Start(context.Background(), w.far), "%s: the machine can't be started by hand (%v), and could be", w.what, err)
		require.False(w.t, vm.Running(), w.what)
		return false
	}
	got := contentOf(w.t, vm)
	require.True(w.t, slices.ContainsFunc(w.whole, func(c content) bool {
		if len(got) < len(c) { // it is still being made
			c = c[:len(got)]
		}
		return c.equal(got)
	}), "%s: a machine could be started that is none of what was whole", w.what)
	for _, d := range vm.Disks() {
		require.NoError(w.t, vm.Write(d.VirtualDiskID, []byte("person"), d.Size/2), w.what)
	}
	vm.PowerOff()
	if w.far == w.id {
		w.now = contentOf(w.t, vm)
	}
	if len(vm.Disks()) > 0 { // else there was nothing to write to
		w.whole = append(w.whole, contentOf(w.t, vm))
	}
	w.ran = true
	return true
}

// orphans are reference points that no record knows: nothing would ever destroy
// them, and they hold merges up.
func (w *world) orphans() (ids []string) {
	for _, vm := range []dr.MachineID{w.id, w.far} {
		m, err := w.v.findAny(context.Background(), vm)
		if err != nil {
			continue
		}
		x, err := w.s.vm(vm)
		require.NoError(w.t, err)
		for _, id := range x.ReferencePoints() {
			if !slices.ContainsFunc(m.record.Epochs, func(e epoch) bool { return strings.EqualFold(e.Reference, id) }) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// ending is what happens after a failure, before the errand is asked for again.
type ending int

const (
	again   ending = iota // nothing
	started               // a person starts the machine
	endings
)

// run is an errand with a fault.
func (e errand) run(t *testing.T, x way, n int, how ending, like outcome) (struck, byHand bool) {
	t.Helper()
	t.Run("", func(t *testing.T) {
		w := newWorld(t, e, x, n)
		w.what = fmt.Sprintf("%s: call %d %s", e.name, n, x.name)
		w.step(e, 4, func(error) {
			if how == started && !byHand {
				byHand = w.person()
			}
		})
		struck = w.f.struck
		if e.check != nil {
			e.check(w)
		}
		if !byHand {
			require.Equal(t, like.inventory, w.inventory(), w.what)
		}
		require.Empty(t, w.orphans(), "%s: reference points that are forgotten", w.what)
	})
	return struck, byHand
}

// undisturbed runs an errand without a fault.
func (e errand) undisturbed(t *testing.T) outcome {
	w := newWorld(t, e, way{}, -1)
	w.step(e, 1, nil)
	o := outcome{calls: w.f.seen, invokes: w.f.invoked}
	if e.check != nil {
		e.check(w)
	}
	o.inventory = w.inventory()
	require.Empty(t, w.orphans(), e.name)
	return o
}

// Every call of the host fails, one after the other: the errand that is asked for
// again comes to its end, does what it does once, and nothing torn is started
// meanwhile, by whomever.
func TestEveryCallFails(t *testing.T) {
	seed := *seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	type failure struct {
		e   errand
		x   way
		n   int
		how ending
	}
	var all []failure
	like := map[string]outcome{}
	for _, e := range errands {
		o := e.undisturbed(t)
		like[e.name] = o
		for _, x := range ways {
			most := o.calls
			if x.invokes {
				most = o.invokes
			}
			for n := 1; n <= most; n++ {
				for how := range endings {
					all = append(all, failure{e, x, n, how})
				}
			}
		}
		t.Logf("%s: %d calls, %d of them methods", e.name, o.calls, o.invokes)
	}
	total := len(all)
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if !*everyFault {
		n := *faultSample
		if testing.Short() {
			n /= 3
		}
		all = all[:min(n, len(all))]
	}
	struck, byHand := 0, 0
	for _, f := range all {
		a, b := f.e.run(t, f.x, f.n, f.how, like[f.e.name])
		if a {
			struck++
		}
		if b {
			byHand++
		}
	}
	t.Logf("seed %d: %d of %d failures, %d struck; after %d of them a person could start the machine", seed, len(all), total, struck, byHand)
	require.Greater(t, struck, len(all)*9/10)
}

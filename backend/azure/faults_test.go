package azure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var everyFault = flag.Bool("faults", false, "fail every call to Azure in every way, not a sample of them")

var faultSample = flag.Int("faultsample", 60, "how many of the faults are drawn unless -faults is given")

// way is how a call fails: faults are what happens to it and to its repetitions.
// One that dies takes the process with it.
type way struct {
	name   string
	faults []azuretest.Fault
	dies   bool
}

func ways() []way {
	// As often as the SDK's clients try a call.
	times := func(f azuretest.Fault) []azuretest.Fault { return []azuretest.Fault{f, f, f, f} }
	lost, after := azuretest.Fault{Lost: true}, azuretest.Fault{Lost: true, Effect: true}
	return []way{
		{name: "unavailable", faults: times(azuretest.Fault{Status: http.StatusServiceUnavailable, Code: "ServerBusy"})},
		{name: "internal error", faults: times(azuretest.Fault{Status: http.StatusInternalServerError, Code: "InternalServerError"})},
		{name: "cut off before", faults: times(lost)},
		{name: "answer lost once", faults: []azuretest.Fault{after}},
		{name: "answer lost, and cut off", faults: []azuretest.Fault{after, lost, lost, lost}},
		{name: "throttled", faults: []azuretest.Fault{{Status: http.StatusTooManyRequests, Code: "TooManyRequests"}}},
		// Longer than these clients wait: it is for the caller to try again.
		{name: "throttled for long", faults: []azuretest.Fault{{Status: http.StatusTooManyRequests, Code: "TooManyRequests", RetryAfter: time.Second}}},
		{name: "dies before", faults: []azuretest.Fault{lost}, dies: true},
		{name: "dies after", faults: []azuretest.Fault{after}, dies: true},
	}
}

// life is one process: when it is dead no call of it reaches Azure.
type life struct {
	http *http.Client
	dead atomic.Bool
}

func (l *life) Do(r *http.Request) (*http.Response, error) {
	if l.dead.Load() {
		return nil, errors.New("the process is dead")
	}
	return l.http.Do(r)
}

// errand is what machines go through, step by step, each tried again by another
// process when it fails, as an engine does.
type errand struct {
	t     *testing.T
	r     *rig
	what  string
	life  *life
	a     *azure.Azure
	http  *http.Client
	logs  *logs
	tries int // of the step
	most  int // tries of any step

	failed func(step string, err error) // if set, called with what fails

	mu     sync.Mutex
	inside bool // a step is under way: calls are the backend's, not the test's
	calls  int  // made in steps

	id    dr.MachineID
	disks []dr.Disk
	want  map[dr.DiskID][]byte
	like  dr.Machine
}

// logs collects what is logged, in all lives.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newErrand(t *testing.T, what string) *errand {
	return newErrandOf(t, what, azuretest.Options{})
}

func newErrandOf(t *testing.T, what string, o azuretest.Options) *errand {
	e := &errand{t: t, r: newRig(t, o), what: what, logs: &logs{}, want: map[dr.DiskID][]byte{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	t.Cleanup(e.http.CloseIdleConnections)
	e.disks = []dr.Disk{{ID: "os", Size: 2 << 20, Boot: true}, {ID: "data", Size: 1 << 20}}
	for i, d := range e.disks {
		e.want[d.ID] = bytes.Repeat([]byte{byte(i + 1)}, int(d.Size))
		clear(e.want[d.ID][64<<10 : 512<<10]) // room that is free
	}
	e.like = dr.Machine{ID: "original", Name: "web", Disks: e.disks, Firmware: dr.BIOS, CPUs: 2, Memory: 4 << 30, OS: "linux"}
	e.begin()
	e.strike(0, way{})
	return e
}

// begin starts a process.
func (e *errand) begin() {
	e.life = &life{http: e.http}
	o := e.r.opts
	o.ARM = e.r.cloud.ClientOptions()
	o.ARM.Transport = e.life
	url, key := e.r.cloud.Blobs().Account("staging")
	cred, err := azblob.NewSharedKeyCredential("staging", key)
	require.NoError(e.t, err)
	o.Staging, err = container.NewClientWithSharedKeyCredential(url+"/lifeboat", cred, &container.ClientOptions{ClientOptions: policy.ClientOptions{
		InsecureAllowCredentialWithHTTP: true, Transport: e.life, Retry: policy.RetryOptions{RetryDelay: time.Millisecond, MaxRetryDelay: 8 * time.Millisecond}}})
	require.NoError(e.t, err)
	o.Log = slog.New(slog.NewTextHandler(e.logs, nil))
	e.a, err = azure.Open(o)
	require.NoError(e.t, err)
}

// step does one, as often as it takes: but what fails for a fault must succeed
// when there is none, at once or when Azure is done with what it was at.
func (e *errand) step(name string, f func(ctx context.Context) error) {
	e.t.Helper()
	for e.tries = 1; ; e.tries++ {
		e.within(true)
		err := f(e.t.Context())
		e.within(false)
		if err == nil {
			break
		}
		require.NotContains(e.t, fmt.Sprintf("%v", err), "sig=", e.what)
		if e.failed != nil {
			e.failed(name, err)
		}
		require.Less(e.t, e.tries, 4, "%s: %s: %v", e.what, name, err)
		e.life.dead.Store(true) // whatever it has left to do
		e.begin()
	}
	e.most = max(e.most, e.tries)
}

func (e *errand) within(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inside = on
}

func (e *errand) placement() backend.Placement {
	return backend.Placement{Key: "errand", Machine: e.like}
}

func (e *errand) prepare(want dr.PointID) func(context.Context) error {
	return func(ctx context.Context) error {
		r, err := e.a.Prepare(ctx, e.placement())
		if err != nil {
			return err
		}
		e.id = r.ID
		require.Equal(e.t, want, r.Holds, e.what)
		return nil
	}
}

// fill makes a draft of a point: what changed, or all if that was tried before.
func (e *errand) fill(p dr.PointID, delta map[dr.DiskID][]dr.Extent) func(context.Context) error {
	return func(ctx context.Context) error {
		d, err := e.a.Draft(ctx, e.id, dr.Point{ID: p, Machine: e.like})
		if err != nil {
			return err
		}
		defer func() {
			if err := d.Close(); err != nil {
				require.NotContains(e.t, err.Error(), "sig=", e.what)
			}
		}()
		for _, x := range e.disks {
			parts := delta[x.ID]
			if delta == nil || e.tries > 1 {
				parts = []dr.Extent{{Len: x.Size}}
			}
			for _, part := range parts {
				if _, err := d.WriteAt(ctx, x.ID, e.want[x.ID][part.Off:part.End()], part.Off); err != nil {
					return err
				}
			}
		}
		return d.Commit(ctx, dr.Point{ID: p, Machine: e.like})
	}
}

// same compares what the disks hold with what they should.
func (e *errand) same() {
	e.t.Helper()
	for _, d := range e.disks {
		b := make([]byte, d.Size)
		require.NoError(e.t, e.r.read(e.id, d.ID, b, 0), e.what)
		require.True(e.t, bytes.Equal(e.want[d.ID], b), "%s: disk %s differs", e.what, d.ID)
	}
}

// scribble is the guest, writing what a step drew once.
func (e *errand) scribble(b byte) {
	e.t.Helper()
	for _, d := range e.disks {
		p := bytes.Repeat([]byte{b}, 4096)
		off := int64(b) * 4096
		require.NoError(e.t, e.r.write(e.id, d.ID, p, off), e.what)
		copy(e.want[d.ID][off:], p)
	}
}

// capture reads a point whole, or over what was known of since.
func (e *errand) capture(name dr.PointID, want dr.Consistency, since *dr.Point, known map[dr.DiskID][]byte, p *dr.Point) func(context.Context) error {
	return func(ctx context.Context) error {
		img, err := e.a.Capture(ctx, e.id, name, want)
		if err != nil {
			return err
		}
		defer img.Close()
		for _, d := range e.disks {
			b := slices.Clone(known[d.ID])
			parts := []dr.Extent{{Len: d.Size}}
			if b == nil {
				b = make([]byte, d.Size)
			} else {
				parts = nil
				for x, err := range img.(dr.ChangeTracker).Changes(ctx, d.ID, *since) {
					if errors.Is(err, dr.ErrChangesLost) {
						e.t.Errorf("%s: the changes since %s are lost: %v", e.what, since.ID, err)
					}
					if err != nil {
						return err
					}
					parts = append(parts, x)
				}
			}
			for _, x := range parts {
				if _, err := img.ReadAt(ctx, d.ID, b[x.Off:x.End()], x.Off); err != nil && err != io.EOF {
					return err
				}
			}
			require.True(e.t, bytes.Equal(e.want[d.ID], b), "%s: point %s, disk %s differs", e.what, name, d.ID)
		}
		if p != nil {
			*p = img.Point()
		}
		return nil
	}
}

// known is the content that is wanted now.
func (e *errand) known() map[dr.DiskID][]byte {
	m := map[dr.DiskID][]byte{}
	for id, b := range e.want {
		m[id] = slices.Clone(b)
	}
	return m
}

// single refuses two machines, cards or disks of one role, of those that this
// library made.
func (e *errand) single() {
	e.t.Helper()
	ctx := context.Background()
	f := e.compute()
	seen := map[string]string{}
	note := func(kind, name string, tags map[string]*string) {
		if tags["lifeboat-machine"] == nil {
			return
		}
		role := kind + " " + *tags["lifeboat-machine"]
		if d := tags["lifeboat-disk"]; d != nil {
			role += " " + *d
		}
		require.Empty(e.t, seen[role], "%s: %s is doubled by %s", e.what, role, name)
		seen[role] = name
	}
	for pages := f.NewVirtualMachinesClient().NewListAllPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		require.NoError(e.t, err)
		for _, v := range page.Value {
			note("machine", *v.Name, v.Tags)
		}
	}
	for pages := f.NewDisksClient().NewListPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		require.NoError(e.t, err)
		for _, d := range page.Value {
			note("disk", *d.Name, d.Tags)
		}
	}
}

// ungranted refuses addresses that something can still be read by.
func (e *errand) ungranted() {
	e.t.Helper()
	ctx := context.Background()
	f := e.compute()
	for pages := f.NewSnapshotsClient().NewListPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		require.NoError(e.t, err)
		for _, s := range page.Value {
			require.NotEqual(e.t, armcompute.DiskStateActiveSAS, *s.Properties.DiskState, "%s: snapshot %s can still be read", e.what, *s.Name)
		}
	}
}

func (e *errand) compute() *armcompute.ClientFactory {
	f, err := armcompute.NewClientFactory(e.r.cloud.Subscription(), e.r.cloud.Credential(), e.r.cloud.ClientOptions())
	require.NoError(e.t, err)
	return f
}

// secretless scans what was logged and recorded.
func (e *errand) secretless() {
	e.t.Helper()
	require.NotContains(e.t, e.logs.String(), "sig=", e.what)
	ctx := context.Background()
	for pages := e.r.container.NewListBlobsFlatPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		require.NoError(e.t, err)
		for _, b := range page.Segment.BlobItems {
			if strings.HasPrefix(*b.Name, "disks/") {
				continue
			}
			resp, err := e.r.container.NewBlobClient(*b.Name).DownloadStream(ctx, nil)
			require.NoError(e.t, err)
			raw, err := io.ReadAll(resp.Body)
			require.NoError(e.t, errors.Join(err, resp.Body.Close()))
			require.NotContains(e.t, string(raw), "sig=", e.what)
			if strings.HasPrefix(*b.Name, "machines/") {
				require.True(e.t, json.Valid(raw), e.what)
			}
		}
	}
}

func (e *errand) left() []string {
	all, err := e.r.inventory(e.t)
	require.NoError(e.t, err, e.what)
	return all
}

// grown is what there is more, and less, than before.
func (e *errand) grown(before []string) (more, less []string) {
	after := e.left()
	for _, x := range after {
		if !slices.Contains(before, x) {
			more = append(more, x)
		}
	}
	for _, x := range before {
		if !slices.Contains(after, x) {
			less = append(less, x)
		}
	}
	return more, less
}

// failover goes out, and reads back.
func (e *errand) failover() {
	before := e.left()
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	e.step("prepare again", e.prepare("p1"))
	e.same()
	e.step("start", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
	e.single()
	p1, known := dr.Point{ID: "p1"}, e.known()
	e.scribble(20)
	e.step("capture", e.capture("c1", dr.CrashConsistent, &p1, known, nil))
	e.step("release", func(ctx context.Context) error { return e.a.Release(ctx, e.id, "c1") })
	e.ungranted()
	e.step("stop", func(ctx context.Context) error { return e.a.Stop(ctx, e.id) })
	e.same()
	for _, d := range e.disks[:1] {
		copy(e.want[d.ID][1<<20+1000:], bytes.Repeat([]byte{9}, 5000))
	}
	e.step("fill what changed", e.fill("p2", map[dr.DiskID][]dr.Extent{"os": {{Off: 1<<20 + 1000, Len: 5000}}}))
	e.same()
	e.step("start again", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
	e.single()
	e.same()
	e.step("capture consistently", e.capture("c2", dr.ApplicationConsistent, nil, nil, nil))
	e.secretless()
	e.step("remove", func(ctx context.Context) error { return e.a.Remove(ctx, e.id) })
	more, less := e.grown(before)
	require.Empty(e.t, more, "%s: left behind", e.what)
	require.Empty(e.t, less, e.what)
	for _, id := range e.r.cloud.Resources() {
		require.NotContains(e.t, id, "snapshot", e.what)
		require.NotContains(e.t, id, "restorepoint", e.what)
	}
	require.NotContains(e.t, e.logs.String(), "sig=", e.what)
}

// failback reads a machine that this library didn't make, and writes it twice.
func (e *errand) failback() {
	var err error
	e.id, err = e.r.add(e.disks)
	require.NoError(e.t, err)
	require.NoError(e.t, e.r.power(e.id, dr.On))
	for _, d := range e.disks {
		require.NoError(e.t, e.r.write(e.id, d.ID, e.want[d.ID], 0))
	}
	before := e.left()
	var c1 dr.Point
	e.step("capture", e.capture("c1", dr.CrashConsistent, nil, nil, &c1))
	known := e.known()
	e.scribble(20)
	e.step("capture changes", e.capture("c2", dr.CrashConsistent, &c1, known, nil))
	e.step("release", func(ctx context.Context) error { return e.a.Release(ctx, e.id, "c1") })
	e.step("release", func(ctx context.Context) error { return e.a.Release(ctx, e.id, "c2") })
	e.ungranted()
	e.step("stop", func(ctx context.Context) error { return e.a.Stop(ctx, e.id) })
	for i, p := range []dr.PointID{"p1", "p2"} {
		e.step("prepare", func(ctx context.Context) error {
			_, err := e.a.Prepare(ctx, backend.Placement{Original: e.id, Machine: dr.Machine{Disks: e.disks}})
			return err
		})
		delta := map[dr.DiskID][]dr.Extent{}
		for _, d := range e.disks {
			off := int64(1<<19 + 4096*i)
			copy(e.want[d.ID][off:], bytes.Repeat([]byte{byte(9 + i)}, 512))
			delta[d.ID] = []dr.Extent{{Off: off, Len: 512}}
		}
		e.step("fill", e.fill(p, delta))
		e.same()
		e.step("start", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
		e.same()
		e.single()
		e.step("stop", func(ctx context.Context) error { return e.a.Stop(ctx, e.id) })
	}
	e.step("sweep", func(ctx context.Context) error {
		_, err := e.a.Sweep(ctx, e.id, func(dr.PointID) bool { return false })
		return err
	})
	e.secretless()
	e.ungranted()
	// Each disk was replaced by one of this library's; the customer's own stay.
	more, less := e.grown(before)
	require.Len(e.t, more, len(e.disks), "%s: %v", e.what, more)
	for _, x := range more {
		require.Contains(e.t, x, "/disks/", e.what)
	}
	require.Empty(e.t, less, e.what)
}

// enlarged has disks that grow, as page blobs and as managed disks.
func (e *errand) enlarged() {
	before := e.left()
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	grow := func() {
		for i := range e.disks {
			d := &e.disks[i]
			d.Size += 1<<20 + 512
			e.want[d.ID] = append(e.want[d.ID], make([]byte, 1<<20+512)...)
		}
		e.like.Disks = slices.Clone(e.disks)
	}
	grow()
	e.step("prepare larger", e.prepare(""))
	e.same()
	e.step("start", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
	e.single()
	e.scribble(20)
	e.step("stop", func(ctx context.Context) error { return e.a.Stop(ctx, e.id) })
	grow()
	e.step("prepare larger yet", e.prepare(""))
	e.same()
	e.step("capture", e.capture("c1", dr.CrashConsistent, nil, nil, nil))
	e.step("start again", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
	e.single()
	e.same()
	e.step("remove", func(ctx context.Context) error { return e.a.Remove(ctx, e.id) })
	more, less := e.grown(before)
	require.Empty(e.t, more, "%s: left behind", e.what)
	require.Empty(e.t, less, e.what)
}

// strike makes the n-th call of steps fail, and tells whether it did; 0: none.
func (e *errand) strike(n int, w way) (struck func() bool) {
	at, left := "", slices.Clone(w.faults)
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.inside {
			return nil
		}
		e.calls++
		if e.calls == n {
			at = c.Method + " " + c.Path
		}
		if at == "" || c.Method+" "+c.Path != at || len(left) == 0 {
			return nil
		}
		f := left[0]
		left = left[1:]
		if w.dies {
			e.life.dead.Store(true)
		}
		return &f
	})
	return func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return at != ""
	}
}

// Each call to Azure fails, one after the other: what is tried again comes to
// its end, holds the right bytes, leaves nothing behind and doubles nothing.
func TestEveryCallFails(t *testing.T) {
	seed := *seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	errands := map[string]func(*errand){"failover": (*errand).failover, "failback": (*errand).failback, "enlarged": (*errand).enlarged}
	type failure struct {
		errand string
		n      int
		way    way
	}
	var all []failure
	total := 0
	for _, name := range []string{"failover", "failback", "enlarged"} {
		e := newErrand(t, name+" without a fault")
		errands[name](e)
		calls := e.calls
		total += calls
		require.Equal(t, 1, e.most)
		for n := range calls {
			for _, w := range ways() {
				all = append(all, failure{name, n + 1, w})
			}
		}
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	switch {
	case testing.Short():
		all = all[:12]
	case !*everyFault:
		all = all[:*faultSample]
	}
	hits, most := 0, 0
	for _, x := range all {
		what := fmt.Sprintf("%s, call %d: %s (seed %d)", x.errand, x.n, x.way.name, seed)
		t.Run(strings.ReplaceAll(fmt.Sprintf("%s %d %s", x.errand, x.n, x.way.name), " ", "-"), func(t *testing.T) {
			e := newErrand(t, what)
			struck := e.strike(x.n, x.way)
			errands[x.errand](e)
			if struck() {
				hits++
			}
			most = max(most, e.most)
		})
	}
	t.Logf("seed %d: %d errands, %d with a call that failed, of %d calls; a step took %d tries at most", seed, len(all), hits, total, most)
	require.Greater(t, hits, len(all)/2)
}

// Each long operation that Azure accepts ends as Failed, of which some are drawn
// unless all are asked for: it is an error that says what to do, and the next
// attempt succeeds.
func TestEveryLongOperationFails(t *testing.T) {
	codes := []string{"AllocationFailed", "QuotaExceeded", "InternalServerError"}
	every, hits := 4, 0
	switch {
	case *everyFault:
		every = 1
	case testing.Short():
		every = 12
	}
	for name, run := range map[string]func(*errand){"failover": (*errand).failover, "failback": (*errand).failback} {
		for n := 1 + int(*seed%uint64(every)); ; n += every {
			code := codes[n/every%len(codes)]
			struck := false
			t.Run(fmt.Sprintf("%s-%d-%s", name, n, code), func(t *testing.T) {
				e := newErrand(t, fmt.Sprintf("%s, long operation %d: %s", name, n, code))
				at := 0
				e.r.cloud.FailLRO(func(azuretest.Call) string {
					e.mu.Lock()
					defer e.mu.Unlock()
					if !e.inside {
						return ""
					}
					if at++; at != n {
						return ""
					}
					struck = true
					return code
				})
				e.failed = func(step string, err error) {
					var typed *dr.Error
					require.ErrorAs(t, err, &typed, e.what)
					require.ErrorContains(t, err, code, e.what)
					require.NotEmpty(t, typed.Remedy, "%s: %s: %v", e.what, step, err)
				}
				run(e)
			})
			if !struck || t.Failed() {
				break
			}
			hits++
		}
	}
	t.Logf("seed %d: %d errands, in each a long operation that failed", *seed, hits)
	require.Greater(t, hits, 100/every)
}

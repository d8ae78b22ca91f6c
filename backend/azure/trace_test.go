package azure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

var update = flag.Bool("update", false, "write the traces in testdata anew")

// asked is a request as Azure got it.
type asked struct {
	azuretest.Call
	header http.Header
	body   string
}

// at tells whether the request is of this method, and of a path that has this
// in it.
func (x asked) at(method, part string) bool {
	return x.Method == method && strings.Contains(x.Path, part)
}

// traced records what an errand asks of Azure, one call after the other.
type traced struct {
	*errand
	mu  sync.Mutex
	all []asked
}

func newTraced(t *testing.T) *traced {
	tr := &traced{errand: newErrand(t, t.Name())}
	tr.a.Serially()
	tr.r.cloud.OnRequest(func(c azuretest.Call, h http.Header, body []byte) {
		tr.errand.mu.Lock()
		inside := tr.inside
		tr.errand.mu.Unlock()
		if !inside {
			return
		}
		x := asked{Call: c, header: h.Clone()}
		if c.Service == azuretest.ServiceARM {
			x.body = string(body)
		}
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.all = append(tr.all, x)
	})
	return tr
}

// say puts a line into the trace.
func (tr *traced) say(what string) {
	tr.all = append(tr.all, asked{Call: azuretest.Call{Method: "#", Path: what}})
}

func (tr *traced) do(what string, f func(context.Context) error) {
	tr.t.Helper()
	tr.say(what)
	tr.step(what, f)
}

// failover is the errand of which the traces are: out, and removed again.
func (tr *traced) failover(fill func(context.Context) error) {
	tr.do("prepare", tr.prepare(""))
	tr.do("fill", fill)
	tr.do("start", func(ctx context.Context) error { return tr.a.Start(ctx, tr.id) })
	tr.same()
	tr.do("probe", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := tr.a.Probe(ctx, tr.id)
		return err
	})
	tr.do("stop", func(ctx context.Context) error { return tr.a.Stop(ctx, tr.id) })
	tr.do("remove", func(ctx context.Context) error { return tr.a.Remove(ctx, tr.id) })
}

// failback reads a customer's machine that runs, and writes it.
func (tr *traced) failback() {
	tr.customer()
	require.NoError(tr.t, tr.r.power(tr.id, dr.On))
	tr.do("capture and read", tr.capture("c1", dr.CrashConsistent, nil, nil, nil))
	tr.do("release", func(ctx context.Context) error { return tr.a.Release(ctx, tr.id, "c1") })
	tr.do("stop", func(ctx context.Context) error { return tr.a.Stop(ctx, tr.id) })
	copy(tr.want["data"], "changed")
	tr.do("fill", tr.fill("p1", map[dr.DiskID][]dr.Extent{"data": {{Len: 512}}}))
	tr.do("start", func(ctx context.Context) error { return tr.a.Start(ctx, tr.id) })
	tr.same()
}

// pointOfBlobs is an image whose disks are snapshots of page blobs in the
// container, as those of a store beside the replicas are.
type pointOfBlobs struct {
	dr.Image
	point dr.Point
	urls  map[dr.DiskID]string
}

func (p *pointOfBlobs) Point() dr.Point { return p.point }
func (p *pointOfBlobs) Close() error    { return nil }

func (p *pointOfBlobs) Blob(disk dr.DiskID) (string, int64, bool) {
	for _, d := range p.point.Machine.Disks {
		if d.ID == disk {
			return p.urls[disk], vhd.Padded(d.Size), true
		}
	}
	return "", 0, false
}

// blobsOf makes the point that an errand's replica is to hold.
func blobsOf(t testing.TB, r *rig, m dr.Machine, write func(put func(disk dr.DiskID, p []byte, off int64))) *pointOfBlobs {
	t.Helper()
	ctx := context.Background()
	p := &pointOfBlobs{point: dr.Point{ID: "p1", Machine: m}, urls: map[dr.DiskID]string{}}
	put := func(disk dr.DiskID, b []byte, off int64) {
		c := r.container.NewPageBlobClient("store/" + string(disk) + ".vhd")
		_, err := c.UploadPages(ctx, streaming.NopCloser(bytes.NewReader(b)), blob.HTTPRange{Offset: off, Count: int64(len(b))}, nil)
		require.NoError(t, err)
	}
	for _, d := range m.Disks {
		size := vhd.Padded(d.Size)
		_, err := r.container.NewPageBlobClient("store/"+string(d.ID)+".vhd").Create(ctx, size+vhd.FooterSize, nil)
		require.NoError(t, err)
		put(d.ID, vhd.Footer{Size: size, ID: uuid.New(), Time: time.Now()}.Bytes(), size)
	}
	write(put)
	for _, d := range m.Disks {
		c := r.container.NewPageBlobClient("store/" + string(d.ID) + ".vhd")
		s, err := c.CreateSnapshot(ctx, nil)
		require.NoError(t, err)
		snap, err := c.WithSnapshot(*s.Snapshot)
		require.NoError(t, err)
		p.urls[d.ID] = snap.URL()
	}
	return p
}

// adopt makes a draft that the storage service fills.
func (e *errand) adopt(img dr.Image) func(context.Context) error {
	return func(ctx context.Context) error {
		d, err := e.a.Draft(ctx, e.id, img.Point())
		if err != nil {
			return err
		}
		defer d.Close()
		ok, err := d.(dr.Adopter).Adopt(ctx, img)
		if err != nil {
			return err
		}
		require.True(e.t, ok)
		return d.Commit(ctx, img.Point())
	}
}

func traceAdopted(t *testing.T) *traced {
	tr := newTraced(t)
	img := blobsOf(t, tr.r, tr.like, func(put func(dr.DiskID, []byte, int64)) {
		for id, b := range tr.want {
			put(id, b, 0)
		}
	})
	tr.failover(tr.adopt(img))
	return tr
}

func traceWritten(t *testing.T) *traced {
	tr := newTraced(t)
	for _, b := range tr.want { // little, for a trace that can be read
		clear(b[4096:])
	}
	tr.failover(tr.fill("p1", map[dr.DiskID][]dr.Extent{"os": {{Len: 4096}}, "data": {{Len: 4096}}}))
	return tr
}

func traceFailback(t *testing.T) *traced {
	tr := newTraced(t)
	tr.failback()
	return tr
}

// names that differ from run to run, or that only a computer can tell apart.
var volatile = []struct {
	kind string
	is   *regexp.Regexp
}{
	{"address", regexp.MustCompile(`http://127\.0\.0\.1:\d+`)},
	{"query", regexp.MustCompile(`\?(snapshot|se|sig)=[^"\s]*`)},
	{"id", regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)},
	{"name", regexp.MustCompile(`[0-9a-f]{20}`)},
	{"grant", regexp.MustCompile(`/md/[0-9a-f]+/[a-z]+`)},
	{"attempt", regexp.MustCompile(`\bp[A-Z2-7]{12}\b`)},
	{"content", regexp.MustCompile(`-(os|data\d+)-[0-9a-f]{8}\b`)},
}

// text is the trace as people read it: a line each request, without those that
// ask whether a long operation has ended; the body of what is made or changed.
func (tr *traced) text() string {
	var b strings.Builder
	for _, x := range tr.all {
		if x.Method == "#" {
			fmt.Fprintf(&b, "\n# %s\n", x.Path)
			continue
		}
		if strings.Contains(x.Path, "/operations/") || strings.Contains(x.Path, "/operationResults/") {
			continue
		}
		path := strings.Replace(x.Path, "/subscriptions/"+tr.r.cloud.Subscription(), "", 1)
		fmt.Fprintf(&b, "%-6s %s", x.Method, strings.ReplaceAll(path, "/providers/Microsoft.", "/"))
		var q []string
		for _, part := range strings.Split(x.Query, "&") {
			if k, _, _ := strings.Cut(part, "="); slices.Contains([]string{"comp", "forceDeletion", "skipShutdown"}, k) {
				q = append(q, part)
			}
		}
		if len(q) > 0 {
			b.WriteString("?" + strings.Join(q, "&"))
		}
		b.WriteByte('\n')
		for _, h := range []string{"If-Match", "If-None-Match", "X-Ms-Copy-Source", "X-Ms-Lease-Action", "X-Ms-Page-Write", "X-Ms-Range"} {
			if v := x.header.Get(h); v != "" {
				switch {
				case h == "If-Match" && x.Service == azuretest.ServiceARM:
					v = "the machine as it was read"
				case h == "If-Match":
					v = "the record as it was read"
				}
				fmt.Fprintf(&b, "       %s: %s\n", strings.ToLower(h), v)
			}
		}
		if x.body != "" && x.Method != http.MethodGet {
			var v any
			require.NoError(tr.t, json.Unmarshal([]byte(x.body), &v))
			pretty, err := json.MarshalIndent(v, "       ", "  ")
			require.NoError(tr.t, err)
			fmt.Fprintf(&b, "       %s\n", bytes.ReplaceAll(pretty, []byte(tr.r.cloud.Subscription()), []byte("SUBSCRIPTION")))
		}
	}
	text := b.String()
	for _, v := range volatile {
		seen := map[string]string{}
		text = v.is.ReplaceAllStringFunc(text, func(s string) string {
			if v.kind == "query" {
				return "?..."
			}
			if seen[s] == "" {
				seen[s] = fmt.Sprintf("{%s %d}", v.kind, len(seen)+1)
			}
			if v.kind == "content" {
				return s[:len(s)-8] + seen[s]
			}
			return seen[s]
		})
	}
	return strings.TrimLeft(text, "\n")
}

// What a failover asks of Azure, and in which order, is what the files in
// testdata tell. One that changes is read by a person, then -update writes it.
func TestTraces(t *testing.T) {
	for name, run := range map[string]func(*testing.T) *traced{"adopted": traceAdopted, "written": traceWritten, "failback": traceFailback} {
		t.Run(name, func(t *testing.T) {
			got := run(t).text()
			file := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err, "run with -update once")
			require.Equal(t, string(want), got)
		})
	}
}

// each runs a rule over all traces.
func each(t *testing.T, rule func(t *testing.T, tr *traced)) {
	for name, run := range map[string]func(*testing.T) *traced{"adopted": traceAdopted, "written": traceWritten, "failback": traceFailback} {
		t.Run(name, func(t *testing.T) { rule(t, run(t)) })
	}
}

func (x asked) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(x.body), &v), x.Call)
	return v
}

// dig follows keys into decoded JSON.
func dig(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func TestGrantsAreRevokedBeforeDisksAreAttached(t *testing.T) {
	grants := 0
	each(t, func(t *testing.T, tr *traced) {
		open := map[string]bool{}
		for _, x := range tr.all {
			owner, action := x.Path[:max(0, strings.LastIndexByte(x.Path, '/'))], x.Path[strings.LastIndexByte(x.Path, '/')+1:]
			switch {
			case action == "beginGetAccess":
				grants++
				open[owner] = true
			case action == "endGetAccess":
				delete(open, owner)
			case x.Method == http.MethodDelete && strings.Contains(x.Path, "/snapshots/"):
				require.NotContains(t, open, x.Path, "it can still be read")
			case (x.Method == http.MethodPut || x.Method == http.MethodPatch) && strings.Contains(x.Path, "/virtualMachines/"), action == "start":
				require.Empty(t, slices.Collect(maps.Keys(open)))
			}
		}
		require.Empty(t, open)
	})
	require.Positive(t, grants)
}

func TestDisksAreCopiedFromSnapshots(t *testing.T) {
	tr := traceFailback(t)
	frozen, granted, copied := false, false, 0
	for _, x := range tr.all {
		switch {
		case x.Method == "#":
			frozen, granted = false, false
		case x.at(http.MethodPut, "/snapshots/"):
			b := x.json(t)
			require.Equal(t, true, dig(b, "properties", "incremental"))
			require.Equal(t, "Copy", dig(b, "properties", "creationData", "createOption"))
			frozen = true
		case x.at(http.MethodPost, "/beginGetAccess"):
			require.Contains(t, x.Path, "/snapshots/", "of a disk itself nothing is granted")
			granted = frozen
		case x.header.Get("X-Ms-Copy-Source") != "":
			require.True(t, granted)
			copied++
		}
	}
	require.Equal(t, 1, copied)
}

func TestGuestsAreNeverProvisioned(t *testing.T) {
	each(t, func(t *testing.T, tr *traced) {
		for _, x := range tr.all {
			require.NotContains(t, strings.ToLower(x.body), "osprofile")
		}
	})
}

func TestWhatBelongsToAMachineIsDeletedWithIt(t *testing.T) {
	for _, run := range []func(*testing.T) *traced{traceAdopted, traceWritten} {
		machines := 0
		for _, x := range run(t).all {
			if !x.at(http.MethodPut, "/virtualMachines/") {
				continue
			}
			machines++
			b := x.json(t)
			storage := dig(b, "properties", "storageProfile")
			require.Equal(t, "Delete", dig(storage, "osDisk", "deleteOption"))
			require.Equal(t, "Attach", dig(storage, "osDisk", "createOption"))
			data := dig(storage, "dataDisks").([]any)
			require.Len(t, data, 1)
			for _, d := range data {
				require.Equal(t, "Delete", dig(d, "deleteOption"))
				require.Equal(t, "Attach", dig(d, "createOption"))
			}
			cards := dig(b, "properties", "networkProfile", "networkInterfaces").([]any)
			require.Len(t, cards, 1)
			for _, c := range cards {
				require.Equal(t, "Delete", dig(c, "properties", "deleteOption"))
			}
			require.Equal(t, "*", x.header.Get("If-None-Match"), "one of the name may be anybody's")
		}
		require.Equal(t, 1, machines)
	}
}

func TestImportsNameTheirStorageAccount(t *testing.T) {
	each(t, func(t *testing.T, tr *traced) {
		imports := 0
		for _, x := range tr.all {
			if !x.at(http.MethodPut, "Microsoft.Compute/disks/") {
				continue
			}
			imports++
			from := dig(x.json(t), "properties", "creationData")
			require.Equal(t, "Import", dig(from, "createOption"))
			require.Equal(t, tr.r.opts.StorageAccount, dig(from, "storageAccountId"))
			require.NotContains(t, dig(from, "sourceUri"), "?", "neither a snapshot nor a signature")
		}
		require.Positive(t, imports)
	})
}

func TestWhatIsMadeIsTagged(t *testing.T) {
	each(t, func(t *testing.T, tr *traced) {
		made := 0
		for _, x := range tr.all {
			if x.Method != http.MethodPut || x.Service != azuretest.ServiceARM {
				continue
			}
			made++
			require.Equal(t, string(tr.id), dig(x.json(t), "tags", "lifeboat-machine"), x.Call)
		}
		require.Positive(t, made)
	})
}

func TestNoSignatureIsToldOrKept(t *testing.T) {
	tr := newTraced(t)
	e := tr.errand
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	e.step("start", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
	e.step("capture", e.capture("c1", dr.CrashConsistent, nil, nil, nil))
	e.secretless()
	for _, x := range tr.all {
		require.NotContains(t, x.body, "sig=", x.Call)
	}
	m, err := e.a.Machine(t.Context(), e.id)
	require.NoError(t, err)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "sig=")
}

var _ azure.PageBlobs = (*pointOfBlobs)(nil)

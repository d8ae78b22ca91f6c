package azure_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// meter counts what passes through this process.
type meter struct {
	http         *http.Client
	calls, bytes atomic.Int64
}

func (m *meter) Do(r *http.Request) (*http.Response, error) {
	m.calls.Add(1)
	if r.Body != nil {
		r.Body = &metered{r.Body, &m.bytes}
	}
	resp, err := m.http.Do(r)
	if err == nil {
		resp.Body = &metered{resp.Body, &m.bytes}
	}
	return resp, err
}

type metered struct {
	io.ReadCloser
	n *atomic.Int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.n.Add(int64(n))
	return n, err
}

// measured is a backend all of whose calls are counted.
func measured(t testing.TB) (*rig, *azure.Azure, *meter) {
	t.Helper()
	r := newRig(t, azuretest.Options{})
	m := &meter{http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	t.Cleanup(m.http.CloseIdleConnections)
	o := r.opts
	o.ARM = r.cloud.ClientOptions()
	o.ARM.Transport = m
	url, key := r.cloud.Blobs().Account("staging")
	cred, err := azblob.NewSharedKeyCredential("staging", key)
	require.NoError(t, err)
	o.Staging, err = container.NewClientWithSharedKeyCredential(url+"/lifeboat", cred,
		&container.ClientOptions{ClientOptions: policy.ClientOptions{InsecureAllowCredentialWithHTTP: true, Transport: m}})
	require.NoError(t, err)
	a, err := azure.Open(o)
	require.NoError(t, err)
	a.Serially()
	return r, a, m
}

// A failover of a point that is kept as page blobs takes the same calls, and
// moves the same few KiB through this process, however large the disks are.
func TestFailoverDoesNotGrowWithTheDisk(t *testing.T) {
	type cost struct{ calls, bytes int64 }
	failover := func(t *testing.T, size int64) cost {
		r, a, m := measured(t)
		ctx := t.Context()
		disks := []dr.Disk{{ID: "os", Size: size, Boot: true}, {ID: "data", Size: size}}
		like := dr.Machine{ID: "original", Name: "web", Disks: disks, Firmware: dr.BIOS, CPUs: 2, Memory: 4 << 30, OS: "linux"}
		mark := []byte("the end of the disk, " + fmt.Sprintf("%0491d", size))
		img := blobsOf(t, r, like, func(put func(dr.DiskID, []byte, int64)) {
			for _, d := range disks {
				put(d.ID, mark, 0)
				put(d.ID, mark, size-512)
			}
		})
		replica, err := a.Prepare(ctx, backend.Placement{Key: "size", Machine: like})
		require.NoError(t, err)
		d, err := a.Draft(ctx, replica.ID, img.Point())
		require.NoError(t, err)
		adopted, err := d.(dr.Adopter).Adopt(ctx, img)
		require.NoError(t, err)
		require.True(t, adopted)
		require.NoError(t, d.Commit(ctx, img.Point()))
		require.NoError(t, d.Close())
		require.NoError(t, a.Start(ctx, replica.ID))
		got := cost{m.calls.Load(), m.bytes.Load()}
		for _, disk := range disks {
			b := make([]byte, 512)
			require.NoError(t, r.read(replica.ID, disk.ID, b, size-512))
			require.Equal(t, mark, b)
		}
		return got
	}
	small, large := failover(t, 1<<30), failover(t, 1<<40)
	t.Logf("1 GiB: %d calls, %d bytes; 1 TiB: %d calls, %d bytes", small.calls, small.bytes, large.calls, large.bytes)
	require.Equal(t, small.calls, large.calls)
	require.InDelta(t, small.bytes, large.bytes, 1024) // sizes have more digits
	require.Less(t, large.bytes, int64(128<<10))
}

func BenchmarkDraftWrite(b *testing.B) {
	_, a, _ := measured(b)
	ctx := b.Context()
	const size = 256 << 20
	like := dr.Machine{ID: "original", Name: "web", Disks: []dr.Disk{{ID: "os", Size: size, Boot: true}}, Firmware: dr.BIOS, CPUs: 2, Memory: 4 << 30, OS: "linux"}
	replica, err := a.Prepare(ctx, backend.Placement{Key: "bench", Machine: like})
	require.NoError(b, err)
	d, err := a.Draft(ctx, replica.ID, dr.Point{ID: "p1", Machine: like})
	require.NoError(b, err)
	defer d.Close()
	p := make([]byte, 4<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(p)
	_, err = d.WriteAt(ctx, "os", p[:512], 0) // the blob is made
	require.NoError(b, err)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		if _, err := d.WriteAt(ctx, "os", p, off); err != nil {
			b.Fatal(err)
		}
		off = (off + int64(len(p))) % size
	}
}

func BenchmarkImageRead(b *testing.B) {
	r, a, _ := measured(b)
	ctx := b.Context()
	const size = 64 << 20
	id, err := r.add([]dr.Disk{{ID: "os", Size: size}})
	require.NoError(b, err)
	require.NoError(b, r.power(id, dr.On))
	p := make([]byte, 4<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	for off := int64(0); off < size; off += int64(len(p)) {
		_, _ = rnd.Read(p)
		require.NoError(b, r.cloud.Write(sources, "vm1", -1, p, off))
	}
	img, err := a.Capture(ctx, id, "c1", dr.CrashConsistent)
	require.NoError(b, err)
	defer img.Close()
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		if _, err := img.ReadAt(ctx, "os", p, off); err != nil {
			b.Fatal(err)
		}
		off = (off + int64(len(p))) % size
	}
}

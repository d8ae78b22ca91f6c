package pageblob

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// vhdOf downloads the snapshot that a disk's address names, through a client
// that has rights of its own.
func vhdOf(t testing.TB, c *container.Client, img dr.Image, id dr.DiskID) []byte {
	t.Helper()
	at, size, ok := img.(BlobImage).Blob(id)
	require.True(t, ok)
	parts, err := blob.ParseURL(at)
	require.NoError(t, err)
	require.NotEmpty(t, parts.Snapshot)
	name := strings.TrimPrefix(at[:strings.IndexByte(at, '?')], c.URL()+"/")
	b, err := c.NewBlobClient(name).WithSnapshot(parts.Snapshot)
	require.NoError(t, err)
	r, err := b.DownloadStream(t.Context(), nil)
	require.NoError(t, err)
	defer r.Body.Close()
	all, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.EqualValues(t, size+vhd.FooterSize, len(all))
	return all
}

// Sizes that cross the VHD's, both ways and back: each point's snapshot is a
// VHD of its own size, whose disk is the point's with zeros behind it.
func TestSnapshotsAreVHDs(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil && os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatal(err)
	}
	onBoth(t, func(t *testing.T, client func(policy.Transporter) *container.Client) {
		c := client(nil)
		s := tuned(c)
		const mib = 1 << 20
		disk := sketch{size: 300_032}.with(0, noise(1, 300_032))
		points := []planned{plan("p0", planned{}, map[dr.DiskID]sketch{"a": disk})}
		for i, size := range []int64{21*mib + 512, 25 * mib, 20*mib + 1024, 22 * mib, 1024, 24*mib + 512} {
			disk = disk.resized(size).with(size-600, noise(10+i, 600))
			points = append(points, plan(dr.PointID("p"+string(rune('1'+i))), points[i], map[dr.DiskID]sketch{"a": disk}))
		}
		for i, p := range points {
			require.NoError(t, put(t.Context(), s, p))
			if i%2 == 1 {
				require.NoError(t, s.Process(t.Context(), "m"))
			}
		}
		require.NoError(t, s.Process(t.Context(), "m"))
		ids := map[string]bool{}
		for _, p := range points {
			img, err := s.Open(t.Context(), "m", p.ID)
			require.NoError(t, err)
			all := vhdOf(t, c, img, "a")
			want := p.disks["a"]
			padded := vhd.Padded(want.size)
			f, err := vhd.Parse(all[padded:])
			require.NoError(t, err)
			require.Equal(t, padded, f.Size)
			ids[f.ID.String()] = true
			require.True(t, bytes.Equal(want.resized(padded).read(0, want.size), all[:want.size]), "%s", p.ID)
			require.True(t, bytes.Equal(make([]byte, padded-want.size), all[want.size:padded]), "%s: zeros behind the disk", p.ID)
			if qemu != "" {
				name := filepath.Join(t.TempDir(), "disk.vhd")
				require.NoError(t, os.WriteFile(name, all, 0o600))
				out, err := exec.Command(qemu, "info", "-f", "vpc", "--output=json", name).Output()
				require.NoError(t, err)
				var info struct {
					Size int64 `json:"virtual-size"`
				}
				require.NoError(t, json.Unmarshal(out, &info))
				require.Equal(t, padded, info.Size)
			}
			require.NoError(t, img.Close())
		}
		require.Len(t, ids, 1, "the disk's VHD keeps its identity")
	})
}

// Addresses and errors have no signature in them, whatever the client has.
func TestSignaturesStayInTheClient(t *testing.T) {
	b := azuretest.NewBlobs(azuretest.BlobOptions{})
	defer b.Close()
	keyed, err := b.Container(t.Context(), "account", "points")
	require.NoError(t, err)
	signed, err := keyed.GetSASURL(sas.ContainerPermissions{Read: true, Write: true, Delete: true, List: true, Add: true, Create: true}, time.Now().Add(time.Hour), nil)
	require.NoError(t, err)
	u, err := url.Parse(signed)
	require.NoError(t, err)
	secret := url.QueryEscape(u.Query().Get("sig"))
	require.NotEmpty(t, secret)
	var o container.ClientOptions
	once(nil)(&o)
	c, err := container.NewClientWithNoCredential(signed, &o)
	require.NoError(t, err)
	s := New(c, plainOptions)
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 4096}.with(0, noise(1, 4096))})
	require.NoError(t, put(t.Context(), s, p))
	require.NoError(t, s.Process(t.Context(), "m"))
	img, err := s.Open(t.Context(), "m", "p")
	require.NoError(t, err)
	reads(t, img, p)
	at, _, _ := img.(BlobImage).Blob("a")
	require.NotContains(t, at, "sig=")
	vhdOf(t, keyed, img, "a")
	_, _, ok := img.(BlobImage).Blob("b")
	require.False(t, ok)
	b.Close()
	for _, err := range []error{
		s.Process(t.Context(), "m"), s.Delete(t.Context(), "m", "p"), put(t.Context(), s, p),
		func() error { _, err := img.ReadAt(t.Context(), "a", make([]byte, 10), 0); return err }(),
		func() error { _, err := s.Prune(t.Context()); return err }(),
	} {
		require.Error(t, err)
		require.NotContains(t, err.Error(), secret)
		require.NotContains(t, err.Error(), "sig=")
		var e *dr.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, dr.StoreSide, e.Side)
	}
}

// A change that the records forget is found by those of the service.
func TestCrossCheckFindsWhatTheRecordsForget(t *testing.T) {
	client := simulated.start(t)
	s := tuned(client(nil))
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 1 << 20}.with(0, noise(1, 1<<20))})
	q := plan("q", p, map[dr.DiskID]sketch{"a": p.disks["a"].with(70_000, noise(2, 5000))})
	for _, x := range []planned{p, q} {
		require.NoError(t, put(t.Context(), s, x))
		require.NoError(t, s.Process(t.Context(), "m"))
	}
	covers(t, s, q, p)
	_, err := s.changeHead(t.Context(), "m", func(h *head) (bool, error) {
		e := h.find("q")
		mf, err := s.readManifest(t.Context(), "m", *e)
		require.NoError(t, err)
		mf.delta[0] = nil
		e.Manifest = pointDir + "q." + newNonce()
		return true, s.put(t.Context(), "m/m/"+e.Manifest, mf.bytes())
	})
	require.NoError(t, err)
	img, err := s.Open(t.Context(), "m", "q")
	require.NoError(t, err)
	defer img.Close()
	for _, err := range img.(dr.ChangeTracker).Changes(t.Context(), "a", p.Point) {
		require.ErrorIs(t, err, dr.ErrCorrupt)
	}
	silent := New(client(nil), plainOptions)
	img, err = silent.Open(t.Context(), "m", "q")
	require.NoError(t, err)
	defer img.Close()
	for range img.(dr.ChangeTracker).Changes(t.Context(), "a", p.Point) {
		require.Fail(t, "the record was to be empty")
	}
}

// An image whose snapshots another process took says so, and reads nothing else.
func TestAnImageWhosePointAnotherProcessDeleted(t *testing.T) {
	client := simulated.start(t)
	s, other := tuned(client(nil)), tuned(client(nil))
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 4096}.with(0, noise(1, 4096))})
	require.NoError(t, put(t.Context(), s, p))
	require.NoError(t, s.Process(t.Context(), "m"))
	img, err := s.Open(t.Context(), "m", "p")
	require.NoError(t, err)
	defer img.Close()
	require.NoError(t, other.Delete(t.Context(), "m", "p"))
	_, err = img.ReadAt(t.Context(), "a", make([]byte, 10), 0)
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// What lies in the container is damaged, one object at a time: each is found
// by its name, and none passes for what it was.
func TestDamageIsNamed(t *testing.T) {
	client := simulated.start(t)
	c := client(nil)
	s := tuned(c)
	s.segment = 1 << 20
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 200_000}.with(0, noise(1, 200_000))})
	q := plan("q", p, map[dr.DiskID]sketch{"a": p.disks["a"].with(70_000, noise(2, 5000))})
	require.NoError(t, put(t.Context(), s, p))
	require.NoError(t, s.Process(t.Context(), "m"))
	require.NoError(t, put(t.Context(), s, q))
	sound(t, s)
	var names []string
	for o, err := range s.list(t.Context(), root, false) {
		require.NoError(t, err)
		if !o.page {
			names = append(names, o.name)
		}
	}
	require.Len(t, names, 4, "head, manifest, received manifest, segment")
	for _, name := range names {
		whole, _, err := s.get(t.Context(), name)
		require.NoError(t, err)
		for _, at := range []int{0, len(whole) / 3, len(whole) / 2, len(whole) - 1, len(whole) - 40} {
			bad := bytes.Clone(whole)
			bad[at] ^= 0x20
			require.NoError(t, s.put(t.Context(), name, bad))
			fresh := tuned(c)
			var found []string
			for d, err := range fresh.Scrub(t.Context()) {
				require.NoError(t, err)
				require.ErrorIs(t, d.Err, dr.ErrCorrupt)
				found = append(found, d.Object)
			}
			if name == "m/m/"+headName && len(found) == 0 {
				continue // JSON has letters that mean nothing
			}
			require.Equal(t, []string{name}, found, "byte %d", at)
			if strings.Contains(name, "/"+stageDir) {
				err = fresh.Process(t.Context(), "m")
				require.ErrorIs(t, err, dr.ErrCorrupt)
				require.Contains(t, err.Error(), name)
			}
		}
		require.NoError(t, s.remove(t.Context(), name, ""))
		var found []string
		for d, err := range tuned(c).Scrub(t.Context()) {
			require.NoError(t, err)
			found = append(found, d.Object)
		}
		require.Equal(t, []string{name}, found)
		if name == "m/m/"+headName { // nothing is garbage because nobody names it
			_, err = tuned(c).Prune(t.Context())
			require.ErrorIs(t, err, dr.ErrCorrupt)
			require.ErrorIs(t, put(t.Context(), tuned(c), p), dr.ErrCorrupt)
		}
		require.NoError(t, s.put(t.Context(), name, whole))
	}
	sound(t, s)

	mf := func() stored {
		h, _, err := s.readHead(t.Context(), "m")
		require.NoError(t, err)
		mf, err := s.readManifest(t.Context(), "m", *h.find("p"))
		require.NoError(t, err)
		return mf.Disks[0]
	}()
	require.NoError(t, s.remove(t.Context(), "m/m/"+mf.Blob, mf.Snapshot))
	n := 0
	for d, err := range s.Scrub(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, "m/m/"+mf.Blob+"?snapshot="+mf.Snapshot, d.Object)
		require.Equal(t, []dr.PointID{"p"}, d.Points)
		n++
	}
	require.Equal(t, 1, n)
}

// A container that is not there is no store without points.
func TestAMissingContainerIsSaid(t *testing.T) {
	onBoth(t, func(t *testing.T, client func(policy.Transporter) *container.Client) {
		c := client(nil)
		_, err := c.Delete(t.Context(), nil)
		require.NoError(t, err)
		s := tuned(c)
		n := 0
		for _, err := range s.List(t.Context(), "m") {
			require.ErrorIs(t, err, dr.ErrNotFound)
			n++
		}
		require.Equal(t, 1, n)
		require.ErrorIs(t, s.Process(t.Context(), "m"), dr.ErrNotFound)
		_, err = s.Prune(t.Context())
		require.Error(t, err)
	})
}

package pageblob

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// What is being made is never taken for what is left over.
func TestPruneBesideWriters(t *testing.T) {
	client := simulated.start(t)
	n := 60
	if testing.Short() {
		n = 15
	}
	s := tuned(client(nil))
	ctx, stop := context.WithCancel(t.Context())
	pruned := make(chan error, 2)
	for range 2 {
		go func() {
			other := tuned(client(nil))
			for ctx.Err() == nil {
				if _, err := other.Prune(ctx); err != nil && ctx.Err() == nil {
					pruned <- err
					return
				}
			}
			pruned <- nil
		}()
	}
	var parent planned
	var keep []planned
	for i := range n {
		disks := map[dr.DiskID]sketch{}
		for _, id := range []dr.DiskID{"a", "b"} {
			if i%17 == 0 {
				parent = planned{}
				disks[id] = sketch{size: 200_000}
			} else {
				disks[id] = parent.disks[id]
			}
			disks[id] = disks[id].with(int64(i*1000), noise(i, 80_000))
		}
		p := plan(dr.PointID(fmt.Sprint("p", i)), parent, disks)
		require.NoError(t, put(t.Context(), s, p))
		if i%3 > 0 {
			require.NoError(t, s.Process(t.Context(), "m"))
		}
		keep = append(keep, p)
		if len(keep) > 5 {
			gone := i % 5 // of all ages, but for the parent
			require.NoError(t, s.Delete(t.Context(), "m", keep[gone].ID))
			keep = append(keep[:gone:gone], keep[gone+1:]...)
		}
		parent = p
	}
	require.NoError(t, s.Process(t.Context(), "m"))
	stop()
	for range 2 {
		require.NoError(t, <-pruned)
	}
	for _, p := range keep {
		holds(t, s, p)
		covers(t, s, p, keep[0])
		covers(t, s, keep[0], p)
	}
	sound(t, s)
	for range 3 {
		_, err := s.Prune(t.Context())
		require.NoError(t, err)
	}
	onlyNeeded(t, s)
	h, _, err := s.readHead(t.Context(), "m")
	require.NoError(t, err)
	require.LessOrEqual(t, len(h.Points), 2*len(keep), "deleted points are merged away, but for those that lines part at")
	gone(t, s)
}

// A draft goes on reading its parent while that is processed, and its data
// moves.
func TestADraftOverAPointThatIsProcessedMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, client func(policy.Transporter) *container.Client) {
		s, other := tuned(client(nil)), tuned(client(nil))
		p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 1 << 20}.with(0, noise(1, 300_000))})
		q := plan("q", p, map[dr.DiskID]sketch{"a": p.disks["a"].with(100, noise(2, 1000))})
		r := plan("r", q, map[dr.DiskID]sketch{"a": q.disks["a"].with(200_000, noise(3, 1000))})
		require.NoError(t, put(t.Context(), s, p))
		require.NoError(t, put(t.Context(), s, q))
		d, err := s.Create(t.Context(), r.Point)
		require.NoError(t, err)
		check := func(want sketch) {
			t.Helper()
			sums := make([]dr.Sum, 16)
			require.NoError(t, d.(dr.Summer).Sums(t.Context(), "a", 0, sums))
			for i, got := range sums {
				require.Equal(t, blocksum.Sum(want.read(int64(i)<<16, 1<<16)), got, "block %d", i)
			}
		}
		check(q.disks["a"])
		require.NoError(t, other.Process(t.Context(), "m"))
		s.segments = newSegmentCache(s) // as if the data had been read long ago
		check(q.disks["a"])
		require.NoError(t, other.Delete(t.Context(), "m", "p"))
		require.NoError(t, other.Delete(t.Context(), "m", "q"))
		_, err = other.Prune(t.Context())
		require.NoError(t, err)
		require.NoError(t, fill(t.Context(), d, r))
		check(r.disks["a"])
		require.NoError(t, d.Commit(t.Context(), r.Point))
		require.NoError(t, d.Close())
		require.NoError(t, other.Process(t.Context(), "m"))
		holds(t, s, r)
		gone(t, s)
	})
}

// Going back to an older point, where Azure takes its time to copy, and the
// process dies while it does.
func TestACopyOverTheBlobThatTakesTime(t *testing.T) {
	b := azuretest.NewBlobs(azuretest.BlobOptions{CopyPolls: 2})
	defer b.Close()
	c, err := b.Container(t.Context(), "account", "points")
	require.NoError(t, err)
	_, key := b.Account("account")
	cred, err := container.NewSharedKeyCredential("account", key)
	require.NoError(t, err)
	client := func(via policy.Transporter) *Store {
		var o container.ClientOptions
		once(via)(&o)
		c, err := container.NewClientWithSharedKeyCredential(c.URL(), cred, &o)
		require.NoError(t, err)
		s := tuned(c)
		s.promoteFrom = -1 << 60 // always
		return s
	}
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 1 << 20}.with(0, noise(1, 300_000))})
	q := plan("q", p, map[dr.DiskID]sketch{"a": p.disks["a"].with(100, noise(2, 100_000))})
	r := plan("r", p, map[dr.DiskID]sketch{"a": p.disks["a"].with(200_000, noise(3, 1000))})
	copied := 0
	for n := 1; ; n += 2 {
		s := client(nil)
		s.promoteFrom = 1
		for _, x := range []planned{p, q} {
			require.NoError(t, put(t.Context(), s, x))
			require.NoError(t, s.Process(t.Context(), "m"))
		}
		require.NoError(t, put(t.Context(), s, r))
		f := &faulty{n: n, way: n / 2 % 2, through: web}
		first := client(f).Process(t.Context(), "m")
		b.OnCall(func(c azuretest.Call) *azuretest.Fault {
			if c.Method == "PUT" && strings.Contains(c.Query, "comp=copy") {
				copied++
			}
			return nil
		})
		require.NoError(t, s.Process(t.Context(), "m"))
		b.OnCall(nil)
		for _, x := range []planned{p, q, r} {
			holds(t, s, x)
		}
		sound(t, s)
		gone(t, s)
		if first == nil && f.where() == "" {
			break
		}
	}
	require.NotZero(t, copied, "copies that were aborted")
}

// What is only in memory is not durable, and is once its segment is stored.
func TestDurableIsWhatIsStored(t *testing.T) {
	client := simulated.start(t)
	s := tuned(client(nil))
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": {size: 1 << 20}})
	d, err := s.Create(t.Context(), p.Point)
	require.NoError(t, err)
	durable := func(d dr.Draft) (l []dr.Extent) {
		for e, err := range d.(dr.Resumer).Durable(t.Context(), "a") {
			require.NoError(t, err)
			l = append(l, e)
		}
		return l
	}
	_, err = d.WriteAt(t.Context(), "a", noise(1, 1000), 500)
	require.NoError(t, err)
	require.NoError(t, d.(dr.Zeroer).Zero(t.Context(), "a", 1500, 1000))
	require.Empty(t, durable(d))
	require.NoError(t, d.(*draft).flush(t.Context()))
	require.Equal(t, []dr.Extent{{Off: 500, Len: 2000}}, durable(d))
	_, err = d.WriteAt(t.Context(), "a", noise(2, 100), 600)
	require.NoError(t, err)
	require.Equal(t, []dr.Extent{{Off: 500, Len: 100}, {Off: 700, Len: 1800}}, durable(d), "but for what was written over it")

	d, err = tuned(client(nil)).Create(t.Context(), p.Point) // the first one has died
	require.NoError(t, err)
	require.Equal(t, []dr.Extent{{Off: 500, Len: 2000}}, durable(d))
	require.NoError(t, d.Close())
}

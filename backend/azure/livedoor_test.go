package azure_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// livePrefix begins the keys of all replicas that the live tests make. What bears
// it in the resource group is removed before and after.
const livePrefix = "lifeboat-live/"

// livePlan is what a run makes, and what that costs, for a person to agree to.
const livePlan = `This makes, in resource group %s of subscription %s, region %s:
  - at most 2 machines at once, of the smallest size that fits, for some minutes each
    (without a system on their disks: they start from nothing and do nothing);
  - at most 8 managed disks and as many incremental snapshots, of 4 to 8 MiB, which
    are priced as the smallest there are;
  - 2 network cards, 1 public address, 1 network security group;
  - page blobs of 16 MiB together, and records, in container %s.
Together that is well under 1 USD by the list prices of most regions: look at yours.
All of it carries the tag "lifeboat-key" that begins with %q, and is removed at
the end, and by the next run. By hand, after a run that was killed:
  az resource list -g %s --query "[?starts_with(tags.\"lifeboat-key\" || '', '%s')].id" -o tsv
`

// live is a subscription, real or simulated, and nothing that a real one lacks.
type live struct {
	t testing.TB
	o azure.Options
	a *azure.Azure
	r *armresources.Client
}

func newLive(t testing.TB, o azure.Options) *live {
	t.Logf(livePlan, o.ResourceGroup, o.Subscription, o.Location, "Options.Staging", livePrefix, o.ResourceGroup, livePrefix)
	a, err := azure.Open(o)
	require.NoError(t, err)
	r, err := armresources.NewClient(o.Subscription, o.Credential, o.ARM)
	require.NoError(t, err)
	l := &live{t, o, a, r}
	l.clean("left by an earlier run")
	t.Cleanup(func() {
		l.clean("left by this run")
		require.NoError(t, a.Close(context.Background()))
	})
	return l
}

// ours lists the replicas that have anything at Azure, by the key's tag.
func (l *live) ours() map[dr.MachineID][]string {
	found := map[dr.MachineID][]string{}
	for pages := l.r.NewListByResourceGroupPager(l.o.ResourceGroup, &armresources.ClientListByResourceGroupOptions{Filter: to.Ptr("tagName eq 'lifeboat-machine'")}); pages.More(); {
		page, err := pages.NextPage(context.Background())
		require.NoError(l.t, err)
		for _, x := range page.Value {
			key, id := x.Tags["lifeboat-key"], x.Tags["lifeboat-machine"]
			if key != nil && id != nil && strings.HasPrefix(*key, livePrefix) {
				found[dr.MachineID(*id)] = append(found[dr.MachineID(*id)], *x.ID)
			}
		}
	}
	return found
}

func (l *live) clean(why string) {
	for id, what := range l.ours() {
		l.t.Logf("%s, removed now: %s (%q)", why, id, what)
		require.NoError(l.t, l.a.Remove(context.Background(), id))
	}
}

func (l *live) prepare(p backend.Placement) backend.Replica {
	l.t.Helper()
	r, err := l.a.Prepare(context.Background(), p)
	require.NoError(l.t, err)
	return r
}

// fill writes by a draft, and commits it as a point.
func (l *live) fill(id dr.MachineID, p dr.PointID, write func(dr.Draft) error) {
	l.t.Helper()
	ctx := context.Background()
	d, err := l.a.Draft(ctx, id, dr.Point{ID: p})
	require.NoError(l.t, err)
	defer d.Close()
	require.NoError(l.t, write(d))
	require.NoError(l.t, d.Commit(ctx, dr.Point{ID: p}))
}

// trip makes a replica, fills it, starts it, reads it back, fills it anew with
// changes, reads only these back, and removes it. Nobody can write inside a guest
// from outside, so what changes are drafts; the suite's parts that need a guest
// that writes run on the simulator only.
func (l *live) trip(where azure.PlacementOptions, access bool) {
	t, ctx := l.t, context.Background()
	found, err := l.a.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	m := dr.Machine{ID: "live", Name: "live", CPUs: 1, Memory: 1 << 30, OS: "linux", Firmware: dr.BIOS, NICs: []dr.NIC{{ID: "nic0", DHCP: true}},
		Disks: []dr.Disk{{ID: "os", Size: 4<<20 + 512, Boot: true}, {ID: "data", Size: 8 << 20}}}
	p := backend.Placement{Key: livePrefix + rand.Text()[:10], Machine: m, Isolated: true}
	options(where)(&p)
	id := l.prepare(p).ID
	defer func() { require.NoError(t, l.a.Remove(ctx, id)) }()

	want := map[dr.DiskID][]byte{}
	for _, d := range m.Disks {
		want[d.ID] = make([]byte, d.Size)
	}
	put := func(d dr.Draft, disk dr.DiskID, b byte, off, n int64) error {
		copy(want[disk][off:off+n], bytes.Repeat([]byte{b}, int(n)))
		_, err := d.WriteAt(ctx, disk, want[disk][off:off+n], off)
		return err
	}
	l.fill(id, "first", func(d dr.Draft) error {
		for _, disk := range m.Disks {
			if err := put(d, disk.ID, 1, disk.Size/2/512*512-1024, 4096); err != nil {
				return err
			}
		}
		return put(d, "os", 2, m.Disks[0].Size-512, 512)
	})
	require.Equal(t, dr.PointID("first"), l.prepare(p).Holds)

	same := func(name dr.PointID, since dr.PointID) {
		require.NoError(t, l.a.Start(ctx, id))
		if access {
			ev, err := l.a.Probe(ctx, id)
			require.NoError(t, err)
			t.Logf("%s", ev.What)
		}
		require.NoError(t, l.a.Stop(ctx, id))
		require.Empty(t, l.prepare(p).Holds, "it has run since")
		img, err := l.a.Capture(ctx, id, name, dr.CrashConsistent)
		require.NoError(t, err)
		for _, d := range m.Disks {
			got := make([]byte, d.Size)
			_, err := img.ReadAt(ctx, d.ID, got, 0)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want[d.ID], got), "disk %s at %s", d.ID, name)
			var told int64
			for e, err := range img.(dr.ChangeTracker).Changes(ctx, d.ID, dr.Point{ID: since}) {
				require.NoError(t, err)
				told += e.Len
			}
			t.Logf("disk %s: %d bytes of %d told as changed since %s", d.ID, told, d.Size, since)
		}
		require.NoError(t, img.Close())
		require.NoError(t, l.a.Release(ctx, id, name))
		require.Equal(t, name, l.prepare(p).Holds)
	}
	same("second", "first")
	l.fill(id, "third", func(d dr.Draft) error {
		if z, ok := dr.As[dr.Zeroer](d); ok {
			clear(want["data"][:1<<20])
			if err := z.Zero(ctx, "data", 0, 1<<20); err != nil {
				return err
			}
		}
		return put(d, "data", 3, 5<<20, 1<<16)
	})
	same("fourth", "third")
	require.NoError(t, l.a.Remove(ctx, id))
	require.Empty(t, l.ours(), "what is left")
}

// The door through which the trip goes to a real subscription leads to the
// simulator here.
func TestLiveDoor(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	before := r.everything(t)
	newLive(t, r.opts).trip(azure.PlacementOptions{Tags: map[string]string{"purpose": "test"}}, true)
	require.Equal(t, before, r.everything(t))

	// What a run that was killed has left goes with the next.
	id := r.started(t, livePrefix+"killed", web())
	other := r.started(t, "somebody's", web())
	newLive(t, r.opts)
	_, err := r.a.Machine(context.Background(), id)
	require.ErrorIs(t, err, dr.ErrNotFound)
	_, err = r.a.Machine(context.Background(), other)
	require.NoError(t, err, fmt.Sprintf("%s was removed", other))
}

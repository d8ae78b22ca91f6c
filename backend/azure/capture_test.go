package azure_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// hours is a clock that tests advance.
type hours struct{ past atomic.Int64 }

func (h *hours) now() time.Time          { return time.Unix(1_700_000_000+h.past.Load(), 0) }
func (h *hours) advance(d time.Duration) { h.past.Add(int64(d / time.Second)) }

// running is a machine of two disks that runs, and its disks.
func (r *rig) running(t testing.TB) (dr.MachineID, []dr.Disk) {
	t.Helper()
	disks := []dr.Disk{{ID: "a", Size: 1 << 20}, {ID: "b", Size: 1 << 20}}
	id, err := r.add(disks)
	require.NoError(t, err)
	require.NoError(t, r.power(id, dr.On))
	return id, disks
}

func (r *rig) capture(t testing.TB, id dr.MachineID, name dr.PointID, want dr.Consistency) dr.Image {
	t.Helper()
	img, err := r.a.Capture(context.Background(), id, name, want)
	require.NoError(t, err)
	return img
}

func whole(t testing.TB, img dr.Image, d dr.Disk) []byte {
	t.Helper()
	p := make([]byte, d.Size)
	_, err := img.ReadAt(context.Background(), d.ID, p, 0)
	require.NoError(t, err)
	return p
}

// counter writes a growing number to two disks, to the first one first, until it
// is stopped: at no moment is the second disk's the larger one.
func (r *rig) counter(t testing.TB, id dr.MachineID, disks []dr.Disk) (stop func()) {
	g, n, err := r.vm(id)
	require.NoError(t, err)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		p := make([]byte, 512)
		for k := uint64(1); ; k++ {
			select {
			case <-quit:
				return
			default:
			}
			binary.BigEndian.PutUint64(p, k)
			scattered := int64(1+k*2654435761%2000) * 512
			for i := range disks {
				if r.cloud.Write(g, n, i-1, p, scattered) != nil || r.cloud.Write(g, n, i-1, p, 0) != nil {
					return // it is off
				}
			}
		}
	})
	return func() { close(quit); wg.Wait() }
}

// A machine that writes to two disks at once is captured a hundred times: no
// point shows the second disk ahead of the first, and what changed between two
// points is never less than what did.
func TestBusyMachine(t *testing.T) {
	var clock hours
	r := newRig(t, azuretest.Options{Clock: clock.now})
	id, disks := r.running(t)
	stop := r.counter(t, id, disks)
	defer stop()
	times := 100
	if testing.Short() {
		times = 20
	}
	ctx := context.Background()
	copies := map[dr.DiskID][]byte{}
	var last dr.Point
	moved := 0
	for i := range times {
		clock.advance(61 * time.Minute)
		name := dr.PointID(fmt.Sprintf("p%d", i))
		img := r.capture(t, id, name, dr.CrashConsistent)
		require.Equal(t, dr.CrashConsistent, img.Point().Consistency)
		var counts []uint64
		for _, d := range disks {
			full := whole(t, img, d)
			counts = append(counts, binary.BigEndian.Uint64(full))
			if i == 0 {
				copies[d.ID] = full
				continue
			}
			for e, err := range img.(dr.ChangeTracker).Changes(ctx, d.ID, last) {
				require.NoError(t, err)
				if e.Zero {
					clear(copies[d.ID][e.Off:e.End()])
				} else {
					copy(copies[d.ID][e.Off:e.End()], full[e.Off:e.End()])
				}
			}
			require.True(t, bytes.Equal(full, copies[d.ID]), "point %s, disk %s: what changed was not told", name, d.ID)
		}
		require.LessOrEqual(t, counts[1], counts[0], "point %s is of two moments", name)
		require.LessOrEqual(t, counts[0]-counts[1], uint64(1), "point %s is of two moments", name)
		if counts[0] > 0 {
			moved++
		}
		last = img.Point()
		require.NoError(t, img.Close())
		require.NoError(t, r.a.Release(ctx, id, name))
	}
	require.Greater(t, moved, times/2, "the machine was not busy")
	for _, x := range r.cloud.Resources() {
		require.NotContains(t, x, "/restorepoints/", "a restore point is left, and costs")
	}
}

// Where Azure makes no restore point now, a busy machine of two disks can't be
// captured; a quiet one, one that is off, and one of one disk can.
func TestNoRestorePoints(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Method == "PUT" && strings.Contains(c.Path, "/restorePoints/") {
			return &azuretest.Fault{Status: 409, Code: "OperationNotAllowed"}
		}
		return nil
	})
	id, disks := r.running(t)
	quiet := r.capture(t, id, "quiet", dr.CrashConsistent)
	require.Equal(t, dr.CrashConsistent, quiet.Point().Consistency)
	require.NoError(t, quiet.Close())
	frozen := func() (n int) {
		for _, x := range r.cloud.Resources() {
			if strings.Contains(x, "/snapshots/") || strings.Contains(x, "/restorepoints/") {
				n++
			}
		}
		return n
	}
	before := frozen()

	stop := r.counter(t, id, disks)
	var err error
	for i := 0; err == nil && i < 20; i++ { // the guest may pause
		var img dr.Image
		if img, err = r.a.Capture(context.Background(), id, dr.PointID(fmt.Sprintf("busy%d", i)), dr.CrashConsistent); err == nil {
			require.NoError(t, img.Close())
			before = frozen()
		}
	}
	stop()
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.Contains(t, remedy(t, err), "once an hour")
	require.Equal(t, before, frozen(), "what the attempt froze is left")

	one, err := r.add([]dr.Disk{{ID: "x", Size: 1 << 20}})
	require.NoError(t, err)
	require.NoError(t, r.power(one, dr.On))
	require.NoError(t, r.capture(t, one, "one", dr.CrashConsistent).Close())
	require.NoError(t, r.power(id, dr.Off))
	require.NoError(t, r.capture(t, id, "off", dr.CrashConsistent).Close())
}

// Application consistency is had every three hours; between, and where the guest
// doesn't answer, a point is crash-consistent and says so.
func TestConsistency(t *testing.T) {
	for _, c := range []struct {
		os   string
		want dr.Consistency
	}{{"Windows", dr.ApplicationConsistent}, {"Linux", dr.FileSystemConsistent}} {
		t.Run(c.os, func(t *testing.T) {
			var clock hours
			r := newRig(t, azuretest.Options{Clock: clock.now})
			require.NoError(t, r.cloud.AddVM(sources, "m", azuretest.VM{OS: c.os, OSDisk: 1 << 20, Data: map[int]int64{0: 1 << 20}, Subnet: "prod/default"}))
			var id dr.MachineID
			for m, err := range r.a.Machines(context.Background()) {
				require.NoError(t, err)
				id = m.ID
			}
			n := 0
			take := func(want dr.Consistency) dr.Consistency {
				n++
				img := r.capture(t, id, dr.PointID(fmt.Sprintf("p%d", n)), want)
				defer img.Close()
				for _, d := range img.Point().Machine.Disks {
					whole(t, img, d)
				}
				return img.Point().Consistency
			}
			require.Equal(t, c.want, take(dr.ApplicationConsistent))
			clock.advance(2 * time.Hour)
			require.Equal(t, dr.CrashConsistent, take(dr.ApplicationConsistent), "too soon after the last")
			clock.advance(2 * time.Hour)
			require.Equal(t, dr.CrashConsistent, take(dr.CrashConsistent), "more than was wanted")
			require.Equal(t, dr.FileSystemConsistent, take(dr.FileSystemConsistent))
			clock.advance(4 * time.Hour)
			require.NoError(t, r.cloud.Hang(sources, "m", true))
			require.Equal(t, dr.CrashConsistent, take(dr.ApplicationConsistent), "the guest was not asked")
			require.NoError(t, r.cloud.Hang(sources, "m", false))
			require.Equal(t, c.want, take(dr.ApplicationConsistent))
		})
	}
}

// Azure gives five addresses for all snapshots of a disk. More readers than that
// are told to wait, and nothing breaks.
func TestManyImagesOpen(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id, err := r.add([]dr.Disk{{ID: "a", Size: 1 << 20}})
	require.NoError(t, err)
	require.NoError(t, r.power(id, dr.On))
	g, n, err := r.vm(id)
	require.NoError(t, err)
	var open []dr.Image
	defer func() {
		for _, i := range open {
			i.Close()
		}
	}()
	for i := range 7 {
		require.NoError(t, r.cloud.Write(g, n, -1, bytes.Repeat([]byte{byte(i + 1)}, 512), 0))
		open = append(open, r.capture(t, id, dr.PointID(fmt.Sprintf("p%d", i)), dr.CrashConsistent))
	}
	p := make([]byte, 512)
	var refused []error
	for i, img := range open {
		switch _, err := img.ReadAt(context.Background(), "a", p, 0); {
		case err != nil:
			refused = append(refused, err)
		default:
			require.Equal(t, byte(i+1), p[0])
		}
	}
	require.Len(t, refused, 2)
	require.ErrorIs(t, refused[0], dr.ErrBusy)
	require.Contains(t, remedy(t, refused[0]), "5")
	for _, i := range open[:5] {
		require.NoError(t, i.Close())
	}
	_, err = open[6].ReadAt(context.Background(), "a", p, 0)
	require.NoError(t, err)
	require.Equal(t, byte(7), p[0])
}

// More than seven snapshots of a disk in five minutes Azure refuses for a while.
func TestSnapshotBurst(t *testing.T) {
	var clock hours
	r := newRig(t, azuretest.Options{Clock: clock.now, Limits: azuretest.Limits{SnapshotBurst: 7}})
	id, err := r.add([]dr.Disk{{ID: "a", Size: 1 << 20}})
	require.NoError(t, err)
	require.NoError(t, r.power(id, dr.On))
	for i := range 8 {
		var img dr.Image
		if img, err = r.a.Capture(context.Background(), id, dr.PointID(fmt.Sprintf("p%d", i)), dr.CrashConsistent); err != nil {
			break
		}
		require.NoError(t, img.Close())
	}
	require.ErrorIs(t, err, dr.ErrBusy)
	require.Contains(t, remedy(t, err), "7 in 5 minutes")
	clock.advance(6 * time.Minute)
	require.NoError(t, r.capture(t, id, "later", dr.CrashConsistent).Close())
}

// An address that has ended while its image was open is asked for anew.
func TestAddressEnds(t *testing.T) {
	var clock hours
	r := newRig(t, azuretest.Options{Clock: clock.now})
	id, disks := r.running(t)
	img := r.capture(t, id, "p", dr.CrashConsistent)
	defer img.Close()
	whole(t, img, disks[0])
	clock.advance(5 * time.Hour)
	whole(t, img, disks[0])
	// Somebody revokes it.
	for _, x := range r.cloud.Resources() {
		if i := strings.LastIndex(x, "/snapshots/"); i >= 0 {
			p, err := r.compute(t).NewSnapshotsClient().BeginRevokeAccess(context.Background(), group, x[i+len("/snapshots/"):], nil)
			require.NoError(t, err)
			_, err = p.PollUntilDone(context.Background(), nil)
			require.NoError(t, err)
		}
	}
	whole(t, img, disks[0])
}

// What was cut off, and what was cancelled, leaves nothing that isn't found.
func TestCaptureCutOff(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id, _ := r.running(t)
	before := len(r.cloud.Resources())
	ctx, cancel := context.WithCancel(context.Background())
	r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Method == "PUT" && strings.Contains(c.Path, "/snapshots/") {
			cancel()
		}
		return nil
	})
	_, err := r.a.Capture(ctx, id, "p", dr.CrashConsistent)
	r.cloud.OnCall(nil)
	require.Error(t, err)
	require.True(t, errors.Is(err, context.Canceled), "%v", err)
	require.Len(t, r.cloud.Resources(), before)
	require.NoError(t, r.capture(t, id, "p", dr.CrashConsistent).Close())
}

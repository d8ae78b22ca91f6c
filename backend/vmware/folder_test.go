package vmware

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func folderRig(t testing.TB) *transportRig {
	t.Helper()
	r := newTransportRig(t, vmwaretest.Options{}, 12*mib)
	r.scatter(1)
	r.off()
	return r
}

func TestFolderReads(t *testing.T) {
	r := folderRig(t)
	quiet(t, r)
	d := r.open(Folder(), r.ref(nil), false)
	r.readAll(d, 1<<20, 8)
	r.readRandom(d, 2, 50)
	r.read(d, 3, 10<<20)
	r.read(d, int64(len(r.want))-1, 1)
	require.LessOrEqual(t, r.sim.Traffic(vmwaretest.Folder).Peak, folderParallel)
	require.Greater(t, r.sim.Traffic(vmwaretest.Folder).Peak, 1)
	drained(t, d)
}

func TestFolderRefuses(t *testing.T) {
	r := folderRig(t)
	good := r.ref(nil)
	require.Empty(t, Folder().refuse(good, false))
	require.NotEmpty(t, Folder().refuse(good, true))
	for name, change := range map[string]func(*diskRef){
		"running": func(d *diskRef) { d.running = true },
		"delta":   func(d *diskRef) { d.delta = true },
		"vsan":    func(d *diskRef) { d.place.kind = "vsan" },
		"vvol":    func(d *diskRef) { d.place.kind = "VVOL" },
		"no disk": func(d *diskRef) { d.file = "[x] y" },
	} {
		d := good
		change(&d)
		require.NotEmpty(t, Folder().refuse(d, false), name)
	}
}

// A range whose connection breaks is asked for again, from where it broke.
func TestFolderSurvivesCuts(t *testing.T) {
	r := folderRig(t)
	quiet(t, r)
	d := r.open(Folder(), r.ref(nil), false)
	for _, cut := range []vmwaretest.Fault{
		{Drop: true}, {Drop: true, Times: folderTries - 1}, {AfterBytes: 1}, {AfterBytes: 300_001, Times: 3}, {AfterBytes: 1 << 20, Nth: 2},
	} {
		cut.Call = "GET /folder"
		f := r.sim.Fault(cut)
		before := r.sim.Traffic(vmwaretest.Folder).Sent
		r.read(d, 12345, 10<<20)
		require.Positive(t, f.Hits())
		require.Less(t, r.sim.Traffic(vmwaretest.Folder).Sent-before, int64(11<<20), "what had arrived isn't asked for again")
		f.Remove()
	}
	f := r.sim.Fault(vmwaretest.Fault{Call: "GET /folder", Drop: true, Times: -1})
	_, err := d.ReadAt(context.Background(), make([]byte, 10), 0)
	require.ErrorIs(t, err, errCut)
	require.NotContains(t, err.Error(), "dsName", "no address in errors")
	require.GreaterOrEqual(t, f.Hits(), folderTries)
	f.Remove()
	r.read(d, 0, 10)
}

func TestFolderLogsInAgain(t *testing.T) {
	r := folderRig(t)
	d := r.open(Folder(), r.ref(nil), false)
	logins := r.sim.Calls("Login")
	r.sim.ExpireSessions()
	r.readAll(d, 1<<20, 6)
	require.Equal(t, logins+1, r.sim.Calls("Login"), "once for all")
	r.sim.ExpireSessions()
	r.read(d, 5, 6<<20)
}

func TestFolderExplains(t *testing.T) {
	r := folderRig(t)
	d := r.open(Folder(), r.ref(nil), false)
	for status, want := range map[int]error{
		http.StatusUnauthorized: fs.ErrPermission, http.StatusForbidden: fs.ErrPermission, http.StatusNotFound: dr.ErrNotFound,
		http.StatusInternalServerError: dr.ErrBusy, http.StatusServiceUnavailable: dr.ErrBusy, http.StatusRequestedRangeNotSatisfiable: nil,
	} {
		f := r.sim.Fault(vmwaretest.Fault{Call: "GET /folder", Status: status, Times: -1})
		_, err := d.ReadAt(context.Background(), make([]byte, 10), 0)
		require.Error(t, err)
		var x *explained
		require.True(t, errors.As(err, &x) && x.remedy != "", "%d: %v", status, err)
		if want != nil {
			require.ErrorIs(t, err, want)
		}
		f.Remove()
	}
	// The file isn't the disk: another size, or gone, or in use.
	bad := r.ref(nil)
	bad.size += 1 << 20
	_, err := Folder().open(context.Background(), r.v, bad, false)
	require.ErrorContains(t, err, "instead of")
	bad = r.ref(nil)
	bad.file = "[vmfs-0] web/gone.vmdk"
	_, err = Folder().open(context.Background(), r.v, bad, false)
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.NoError(t, r.vm.PowerOn())
	_, err = Folder().open(context.Background(), r.v, r.ref(nil), false)
	require.ErrorIs(t, err, dr.ErrBusy)
}

func TestFolderCancels(t *testing.T) {
	r := folderRig(t)
	quiet(t, r)
	d := r.open(Folder(), r.ref(nil), false)
	held := make(chan struct{})
	f := r.sim.Fault(vmwaretest.Fault{Call: "GET /folder", Hold: held, Times: -1})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := d.ReadAt(ctx, make([]byte, 10<<20), 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// Close ends what is under way.
	done := make(chan error)
	hits := f.Hits()
	go func() {
		_, err := d.ReadAt(context.Background(), make([]byte, 10), 0)
		done <- err
	}()
	require.Eventually(t, func() bool { return f.Hits() > hits }, time.Minute, time.Millisecond)
	require.NoError(t, d.Close())
	require.ErrorContains(t, <-done, "closed")
	close(held)
}

func BenchmarkFolder(b *testing.B) {
	benchmarkTransport(b, true, func(r *transportRig, _ *types.ManagedObjectReference) device {
		d, err := Folder().open(context.Background(), r.v, r.ref(nil), false)
		require.NoError(b, err)
		return d
	})
}

package vmware

import (
	"bytes"
	"context"
	"math/rand"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// frozenRig has a snapshot, above which the guest writes on.
func frozenRig(t testing.TB, o vmwaretest.Options, size int64, disks ...vmwaretest.DiskSpec) (*transportRig, types.ManagedObjectReference) {
	t.Helper()
	r := newTransportRig(t, o, size, disks...)
	r.scatter(1)
	s := r.snapshot("frozen")
	require.NoError(t, r.vm.Write(r.vm.Disks()[0], bytes.Repeat([]byte("later"), 1000), 0))
	return r, s
}

func TestNFCReads(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{}, 48*mib)
	quiet(t, r)
	d := r.open(NFC(), r.ref(&s), false)
	r.readAll(d, 1<<20, 16)
	require.EqualValues(t, 1, r.sim.Traffic(vmwaretest.NFC).Requests, "in one stream")
	require.NoError(t, d.Close())
	require.Equal(t, 1, r.sim.Calls("HttpNfcLeaseComplete"))
	require.Zero(t, r.sim.Calls("HttpNfcLeaseAbort"))
	require.Zero(t, r.sim.Leases())
	drained(t, d)
}

func TestNFCReadsAtRandom(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{}, 48*mib)
	quiet(t, r)
	d := r.open(NFC(), r.ref(&s), false)
	r.readRandom(d, 3, 5)
	r.read(d, 0, len(r.want)) // longer than the window
	r.read(d, int64(len(r.want))-1, 1)
	r.read(d, int64(len(r.want))-nfcWindow, nfcWindow)
	require.Contains(t, r.log.String(), "begun again for a read behind its window")
	require.NotContains(t, r.log.String(), "/nfc/", "an address is a ticket")
	require.NoError(t, d.Close())
	require.Equal(t, 1, r.sim.Calls("HttpNfcLeaseComplete"))

	// Readers all over the disk, at once: some turns of the stream serve all.
	d = r.open(NFC(), r.ref(&s), false)
	before := r.sim.Traffic(vmwaretest.NFC).Requests
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(i)))
			for range 2 {
				p := make([]byte, 50<<10)
				off := rnd.Int63n(int64(len(r.want) - len(p)))
				_, err := d.ReadAt(context.Background(), p, off)
				if err != nil || !bytes.Equal(p, r.want[off:off+int64(len(p))]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, r.sim.Traffic(vmwaretest.NFC).Requests-before, int64(12))
}

// A hole costs no memory, no time, and is not passed further than is asked for.
func TestNFCPassesHoles(t *testing.T) {
	r := newTransportRig(t, vmwaretest.Options{}, mib, vmwaretest.DiskSpec{Size: 1 << 40})
	key := r.vm.Disks()[1]
	tail := []byte("far away")
	require.NoError(t, r.vm.WriteDisk(key, tail, 1<<40-100))
	s := r.snapshot("s")
	d := r.open(NFC(), r.refOf(&s, 1), false)
	read := func(off int64) string {
		p := make([]byte, len(tail))
		_, err := d.ReadAt(context.Background(), p, off)
		require.NoError(t, err)
		return string(p)
	}
	zero := string(make([]byte, len(tail)))
	for off := int64(0); off < 1<<30; off += 50 << 20 {
		require.Equal(t, zero, read(off))
		require.Equal(t, zero, read(max(0, off-nfcWindow/2)))
	}
	require.Equal(t, zero, read(1<<39))
	require.Equal(t, string(tail), read(1<<40-100))
	require.EqualValues(t, 1, r.sim.Traffic(vmwaretest.NFC).Requests)
	require.Contains(t, []int{nfcWindow, nfcWindow + 1}, len(d.(*nfcDisk).window.ring))
}

func TestNFCSharesALease(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{}, 8*mib, vmwaretest.DiskSpec{Size: 4 * mib, Controller: "sata"})
	nfc := NFC()
	one := r.open(nfc, r.refOf(&s, 0), false)
	two := r.open(nfc, r.refOf(&s, 1), false)
	require.Equal(t, 1, r.sim.Leases())
	r.readAll(one, 1<<20, 4)
	require.NoError(t, one.Close())
	require.Equal(t, 1, r.sim.Leases(), "the other disk still needs it")
	require.Zero(t, r.sim.Calls("HttpNfcLeaseComplete"))
	l := two.(*nfcDisk).lease
	require.EqualValues(t, 66, l.percent(), "8 MiB of 12")
	require.NoError(t, two.Close())
	require.Equal(t, 1, r.sim.Calls("HttpNfcLeaseAbort"), "the second disk was not read to its end")
	require.Zero(t, r.sim.Leases())
}

func TestNFCRefuses(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{}, mib)
	require.NotEmpty(t, NFC().refuse(r.ref(&s), true))
	require.NotEmpty(t, NFC().refuse(r.ref(nil), false))
	bad := r.ref(&s)
	bad.size *= 2
	_, err := NFC().open(context.Background(), r.v, bad, false)
	require.ErrorContains(t, err, "another disk")
	bad = r.ref(&s)
	bad.key = 1
	_, err = NFC().open(context.Background(), r.v, bad, false)
	require.ErrorContains(t, err, "no disk of key 1")
	require.Zero(t, r.sim.Leases())
}

// A stream that is cut, whenever, is begun again; if it is cut there again, the
// disk fails, and says so.
func TestNFCSurvivesCuts(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{}, 4*mib)
	quiet(t, r)
	whole := func() int64 {
		d := r.open(NFC(), r.ref(&s), false)
		r.readAll(d, 1<<20, 4)
		require.NoError(t, d.Close())
		return r.sim.Traffic(vmwaretest.NFC).Sent
	}()
	cuts := []vmwaretest.Fault{{Drop: true}, {Status: http.StatusServiceUnavailable}, {Status: http.StatusNotFound}}
	for _, at := range []int64{1, 512, 70_000, whole / 2, whole - 1100, whole - 600, whole - 512, whole - 1} {
		cuts = append(cuts, vmwaretest.Fault{AfterBytes: at})
	}
	for _, cut := range cuts {
		cut.Call = "GET /nfc"
		f := r.sim.Fault(cut)
		d := r.open(NFC(), r.ref(&s), false)
		r.readAll(d, 1<<20, 4)
		require.Equal(t, 1, f.Hits(), "%+v", cut)
		require.NoError(t, d.Close())
		require.Zero(t, r.sim.Leases())
	}
	for _, cut := range cuts {
		cut.Call, cut.Times = "GET /nfc", -1
		f := r.sim.Fault(cut)
		d, err := NFC().open(context.Background(), r.v, r.ref(&s), false)
		if err == nil {
			_, err = d.ReadAt(context.Background(), make([]byte, len(r.want)), 0)
			require.ErrorContains(t, err, "broke again")
			_, again := d.ReadAt(context.Background(), make([]byte, 1), 0)
			require.Equal(t, err, again)
			require.NoError(t, d.Close())
		}
		require.Error(t, err, "%+v", cut)
		require.NotContains(t, err.Error(), "https:")
		require.Equal(t, 2, f.Hits(), "%+v", cut)
		f.Remove()
		require.Zero(t, r.sim.Leases())
	}
}

func TestNFCLeases(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{LeaseTimeout: time.Second}, 64*mib)
	quiet(t, r)
	// It is kept alive while nothing is read.
	d := r.open(NFC(), r.ref(&s), false)
	r.read(d, 0, 1<<20)
	time.Sleep(2500 * time.Millisecond)
	require.Equal(t, 1, r.sim.Leases())
	require.GreaterOrEqual(t, r.sim.Calls("HttpNfcLeaseProgress"), 4)
	// One that ran out is replaced, once for each place that this happens at.
	require.Equal(t, 1, r.sim.ExpireLeases())
	r.readAll(d, 1<<20, 4)
	require.Equal(t, 2, r.sim.Calls("ExportSnapshot"))
	require.NoError(t, d.Close())
}

// Calls about leases that fail: an error that explains, and nothing left.
func TestNFCCallsFail(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{LeaseTimeout: time.Second}, 2*mib)
	quiet(t, r)
	for _, call := range []string{"ExportSnapshot", "HttpNfcLeaseProgress", "HttpNfcLeaseComplete", "HttpNfcLeaseAbort", "RetrievePropertiesEx", "CreateFilter", "WaitForUpdatesEx"} {
		for _, drop := range []bool{false, true} {
			f := r.sim.Fault(vmwaretest.Fault{Call: call, Drop: drop})
			d, err := NFC().open(context.Background(), r.v, r.refBy(s), false)
			if err == nil {
				r.readAll(d, 1<<20, 4)
				require.NoError(t, d.Close(), call)
			} else {
				require.NotContains(t, err.Error(), "/nfc/")
			}
			f.Remove()
		}
	}
	require.Zero(t, r.sim.Leases())
}

// refBy doesn't ask the vCenter again.
func (r *transportRig) refBy(s types.ManagedObjectReference) diskRef {
	if r.known == nil {
		d := r.ref(&s)
		r.known = &d
	}
	return *r.known
}

func TestNFCCancels(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{}, 40*mib)
	quiet(t, r)
	ref := r.ref(&s)
	for _, call := range []string{"GET /nfc", "ExportSnapshot", "RetrievePropertiesEx"} {
		held := make(chan struct{})
		f := r.sim.Fault(vmwaretest.Fault{Call: call, Hold: held, Times: -1})
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_, err := NFC().open(ctx, r.v, ref, false)
		require.ErrorIs(t, err, context.DeadlineExceeded, call)
		cancel()
		f.Remove()
		close(held)
	}
	d := r.open(NFC(), ref, false)
	r.read(d, 0, 10)
	// Reads that were given up don't hinder others, and nothing is written to
	// their buffers any more.
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		p := make([]byte, 30<<20)
		if _, err := d.ReadAt(ctx, p, 5<<20); err != nil {
			clear(p)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			time.Sleep(time.Millisecond)
			require.True(t, bytes.Equal(p, make([]byte, len(p))))
		}
		cancel()
	}
	r.read(d, 30<<20, 1000)
	// Close answers who waits.
	held := make(chan struct{})
	f := r.sim.Fault(vmwaretest.Fault{Call: "GET /nfc", Hold: held, Times: -1})
	done := make(chan error)
	r.read(d, int64(len(r.want))-1, 1)
	go func() {
		_, err := d.ReadAt(context.Background(), make([]byte, 10), 0)
		done <- err
	}()
	require.Eventually(t, func() bool { return f.Hits() > 0 }, time.Minute, time.Millisecond)
	require.NoError(t, d.Close())
	require.ErrorContains(t, <-done, "closed")
	close(held)
}

// The window against a model.
func TestWindow(t *testing.T) {
	rnd := rand.New(rand.NewSource(7))
	for range 200 {
		size := rnd.Int63n(2000) + 1
		most := rnd.Int63n(500) + 1
		var w window
		w.begin(size, most)
		disk := make([]byte, size)
		for w.hi < size {
			n := rnd.Int63n(min(300, size-w.hi)) + 1
			var data []byte
			if rnd.Intn(2) == 0 {
				data = make([]byte, n)
				rnd.Read(data)
			}
			at := w.hi
			put := w.put(data, n)
			require.Positive(t, put)
			if data != nil {
				copy(disk[at:], data[:put])
			}
			w.hi += put
			require.LessOrEqual(t, w.hi-w.lo, min(most, size))
			for range 10 {
				off := rnd.Int63n(size)
				p := make([]byte, rnd.Int63n(size-off)+1)
				r := &want{p: p, off: off}
				inside := off >= w.lo && off+int64(len(p)) <= w.hi
				require.Equal(t, inside, w.serve(r))
				got := p[:len(p)-len(r.p)]
				require.True(t, bytes.Equal(disk[off:off+int64(len(got))], got))
				if off < w.lo || off >= w.hi {
					require.Empty(t, got)
				}
			}
		}
	}
}

// Leases of real hosts name disks by controller and unit.
func TestLeaseKeys(t *testing.T) {
	r, s := frozenRig(t, vmwaretest.Options{}, mib)
	ref := r.ref(&s)
	unit := func(n int32) *int32 { return &n }
	disk := func(key, controller, u int32) *types.VirtualDisk {
		d := new(types.VirtualDisk)
		d.Key, d.ControllerKey, d.UnitNumber = key, controller, unit(u)
		return d
	}
	scsi, sata := new(types.ParaVirtualSCSIController), new(types.VirtualAHCIController)
	scsi.Key, scsi.BusNumber = 1000, 1
	sata.Key, sata.BusNumber = 15000, 1
	l := &lease{key: leaseKey{v: r.v}, disks: object.VirtualDeviceList{scsi, sata, disk(1, 1000, 0), disk(2, 15000, 0), disk(3, 1000, 10)}}
	l.info = &nfc.LeaseInfo{}
	for _, key := range []string{"/vm-1/ParaVirtualSCSIController1:0", "/vm-1/VirtualAHCIController1:0", "/vm-1/nvram", "/vm-1/ParaVirtualSCSIController1:10"} {
		l.info.DeviceUrl = append(l.info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{Key: key, Url: "https://*/" + key, Disk: types.NewBool(key != "/vm-1/nvram")})
	}
	for key, want := range map[int32]string{1: "ParaVirtualSCSIController1:0", 2: "VirtualAHCIController1:0", 3: "ParaVirtualSCSIController1:10"} {
		ref.key = key
		u, err := l.url(ref)
		require.NoError(t, err)
		require.Regexp(t, want+"$", u)
		require.NotContains(t, u, "*")
	}
	l.info.DeviceUrl, ref.key = l.info.DeviceUrl[:2], 3
	_, err := l.url(ref)
	require.ErrorContains(t, err, "has none of the disk's names", "not guessed")
}

func BenchmarkNFC(b *testing.B) {
	benchmarkTransport(b, false, func(r *transportRig, s *types.ManagedObjectReference) device {
		d, err := NFC().open(context.Background(), r.v, r.ref(s), false)
		require.NoError(b, err)
		return d
	})
}

// Leases outlive the sessions that asked for them, also while they come up.
func TestNFCOutlivesItsSession(t *testing.T) {
	r := newTransportRig(t, vmwaretest.Options{}, 4*mib)
	r.scatter(1)
	s := r.snapshot("s")
	ref := r.ref(&s)
	r.sim.SetLatency(20 * time.Millisecond)
	before := r.sim.Calls("ExportSnapshot")
	go func() {
		for r.sim.Calls("ExportSnapshot") == before {
			time.Sleep(time.Millisecond)
		}
		r.sim.ExpireSessions()
	}()
	d, err := NFC().open(context.Background(), r.v, ref, false)
	require.NoError(t, err)
	defer d.Close()
	r.read(d, 0, int(mib))
}

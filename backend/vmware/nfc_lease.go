package vmware

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// leases are the export leases that are open, one for each snapshot: a host may
// refuse a second one.
type leases struct {
	mu  sync.Mutex
	all map[leaseKey]*lease
}

type leaseKey struct {
	v        *VSphere
	snapshot types.ManagedObjectReference
}

// lease is an export of a snapshot.
type lease struct {
	key   leaseKey
	made  chan struct{} // closed when it is there, or err is
	err   error
	nfc   *nfc.Lease
	info  *nfc.LeaseInfo
	disks object.VirtualDeviceList // of the snapshot

	stop func() // the keeping alive
	idle sync.WaitGroup

	mu     sync.Mutex
	users  int
	torn   bool            // somebody left before the end
	broken bool            // it is over
	passed map[int32]int64 // by disk, how far a stream has come
}

// acquire makes the lease of a disk's snapshot, or shares it.
func (ls *leases) acquire(ctx context.Context, v *VSphere, d diskRef) (*lease, error) {
	key := leaseKey{v, *d.snapshot}
	for {
		ls.mu.Lock()
		l := ls.all[key]
		mine := l == nil || l.over()
		if mine {
			l = &lease{key: key, made: make(chan struct{}), passed: map[int32]int64{}}
			ls.all[key] = l
		}
		l.mu.Lock()
		l.users++
		l.mu.Unlock()
		ls.mu.Unlock()
		if mine {
			l.err = l.begin(ctx, d)
			close(l.made)
		}
		select {
		case <-l.made:
		case <-ctx.Done():
			ls.release(l, false)
			return nil, ctx.Err()
		}
		if l.err == nil {
			return l, nil
		}
		ls.release(l, false)
		// Whose turn it was may have given up; that is not this one's end.
		if mine || ctx.Err() != nil || !errors.Is(l.err, context.Canceled) && !errors.Is(l.err, context.DeadlineExceeded) {
			return nil, l.err
		}
	}
}

// release gives a lease back. Who is the last to do so ends it: well if every
// user has read its disk to the end.
func (ls *leases) release(l *lease, whole bool) {
	ls.mu.Lock()
	l.mu.Lock()
	l.users--
	l.torn = l.torn || !whole
	last := l.users == 0
	l.mu.Unlock()
	if last && ls.all[l.key] == l {
		delete(ls.all, l.key)
	}
	ls.mu.Unlock()
	if last {
		<-l.made
		if l.err == nil {
			l.finish()
		}
	}
}

func (l *lease) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.made:
		return l.broken || l.err != nil
	default:
		return false
	}
}

// begin asks for the lease and waits until it is ready.
func (l *lease) begin(ctx context.Context, d diskRef) error {
	v := l.key.v
	var snap mo.VirtualMachineSnapshot
	if err := property.DefaultCollector(v.client).RetrieveOne(ctx, l.key.snapshot, []string{"config.hardware.device"}, &snap); err != nil {
		return explain(err)
	}
	l.disks = snap.Config.Hardware.Device
	made, err := object.NewVirtualMachine(v.client, d.vm).ExportSnapshot(ctx, &l.key.snapshot)
	if err != nil {
		return explain(err)
	}
	l.nfc = made
	if l.info, err = ready(ctx, v, made); err != nil {
		l.abort()
		return explain(bare(err))
	}
	alive, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.idle.Go(func() { l.keep(alive) })
	return nil
}

// leaseLimit bounds the wait for a lease: its host answers soon or never.
const leaseLimit = 2 * time.Minute

// ready waits until a lease can be used. It looks again and again, as for a
// task: a wait for updates dies with its session, and leases don't.
func ready(ctx context.Context, v *VSphere, made *nfc.Lease) (*nfc.LeaseInfo, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaseLimit, fmt.Errorf("the export lease was not ready within %s", leaseLimit))
	defer cancel()
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		p, err := made.Properties(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, err
		case p.Error != nil:
			return nil, task.Error{LocalizedMethodFault: p.Error}
		case p.State == types.HttpNfcLeaseStateReady && p.Info != nil:
			return leaseInfo(v, p.Info)
		case p.State != types.HttpNfcLeaseStateInitializing:
			return nil, fmt.Errorf("the export lease is %s", p.State)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// leaseInfo is what nfc.Lease.Wait makes of a lease. The certificate that the
// vCenter names for a host is trusted for that host.
func leaseInfo(v *VSphere, li *types.HttpNfcLeaseInfo) (*nfc.LeaseInfo, error) {
	info := &nfc.LeaseInfo{HttpNfcLeaseInfo: *li}
	for _, d := range li.DeviceUrl {
		u, err := v.client.ParseURL(d.Url)
		if err != nil {
			return nil, bare(err)
		}
		if d.SslThumbprint != "" {
			v.client.SetThumbprint(u.Host, d.SslThumbprint)
		}
		item := types.OvfFileItem{DeviceId: d.Key, Path: d.TargetId, Size: d.FileSize}
		if item.Size == 0 {
			item.Size = li.TotalDiskCapacityInKB << 10
		}
		if item.Path == "" {
			item.Path = path.Base(d.Url)
		}
		info.Items = append(info.Items, nfc.NewFileItem(u, item))
	}
	return info, nil
}

// keep tells how far the export is, before the lease runs out.
func (l *lease) keep(ctx context.Context) {
	every := time.Duration(l.info.LeaseTimeout) * time.Second / 4
	t := time.NewTicker(min(max(every, 200*time.Millisecond), 30*time.Second))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !l.alive(ctx) && ctx.Err() == nil {
			l.key.v.options.Log.WarnContext(ctx, "export lease is over", "snapshot", l.key.snapshot.Value)
			return
		}
	}
}

// alive tells the lease of the progress, and finds out by it whether it is
// over. What only the network knows counts as alive.
func (l *lease) alive(ctx context.Context) bool {
	if l.over() {
		return false
	}
	err := l.nfc.Progress(ctx, l.percent())
	if err == nil || faultOf(err) == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
	return false
}

// moved notes how far a disk's stream has come.
func (l *lease) moved(disk int32, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passed[disk] = max(l.passed[disk], at)
}

// percent is of all disks' bytes, whether somebody reads them or not.
func (l *lease) percent() int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var passed int64
	for _, n := range l.passed {
		passed += n
	}
	total := l.info.TotalDiskCapacityInKB << 10
	if total <= 0 {
		return 0
	}
	return int32(min(100, float64(passed)/float64(total)*100))
}

func (l *lease) finish() {
	l.stop()
	l.idle.Wait()
	l.mu.Lock()
	well := !l.torn && !l.broken
	l.mu.Unlock()
	if !well {
		l.abort()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseEnd)
	defer cancel()
	if err := l.nfc.Complete(ctx); err != nil {
		// The bytes are there; what matters is that the snapshot is let go.
		l.key.v.options.Log.WarnContext(ctx, "export lease could not be completed, and is aborted", "snapshot", l.key.snapshot.Value, "error", bare(err))
		l.abort()
	}
}

// leaseEnd bounds the last call about a lease.
const leaseEnd = 30 * time.Second

func (l *lease) abort() {
	ctx, cancel := context.WithTimeout(context.Background(), leaseEnd)
	defer cancel()
	if err := l.nfc.Abort(ctx, nil); err != nil {
		l.key.v.options.Log.DebugContext(ctx, "export lease could not be aborted, and runs out by itself", "snapshot", l.key.snapshot.Value, "error", bare(err))
	}
}

// url is where a disk's image is. The lease names disks by their controller and
// unit, or by their key; a name that says neither is not guessed at, unless
// there is one disk only.
func (l *lease) url(d diskRef) (string, error) {
	disk, ok := l.disks.FindByKey(d.key).(*types.VirtualDisk)
	if !ok {
		return "", fmt.Errorf("the snapshot has no disk of key %d", d.key)
	}
	names := []string{fmt.Sprintf("VirtualDisk:%d", d.key)}
	if c, ok := l.disks.FindByKey(disk.ControllerKey).(types.BaseVirtualController); ok && disk.UnitNumber != nil {
		names = append(names, fmt.Sprintf("%s%d:%d", controllerType(c), c.GetVirtualController().BusNumber, *disk.UnitNumber))
	}
	var known []string
	var only string
	for _, u := range l.info.DeviceUrl {
		if u.Disk != nil && !*u.Disk {
			continue
		}
		address, err := l.key.v.client.ParseURL(u.Url)
		if err != nil {
			return "", errors.New("the lease has an address that makes no sense")
		}
		only = address.String()
		last := u.Key[strings.LastIndexByte(u.Key, '/')+1:]
		known = append(known, last)
		for _, name := range names {
			if strings.EqualFold(last, name) {
				return only, nil
			}
		}
	}
	if count := len(l.disks.SelectByType((*types.VirtualDisk)(nil))); len(known) == 1 && count == 1 {
		return only, nil
	}
	return "", advise(fmt.Errorf("the lease has none of the disk's names %q, but %q", names, known),
		"the disk may be independent, which exports leave out; else use VDDK or HotAdd, and report this")
}

// controllerType is a controller's type as the API names it.
func controllerType(c types.BaseVirtualController) string {
	name := fmt.Sprintf("%T", c)
	return name[strings.LastIndexByte(name, '.')+1:]
}

package vmware

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Transport is a way by which the bytes of a disk travel: [VDDK], [Servers],
// [HotAdd], [Folder], [NFC]. The interface is closed: what is missing here
// comes in as a [DiskServer].
type Transport interface {
	// String names it in logs.
	String() string

	// refuse says in a few words why it can't open the disk, or "".
	refuse(d diskRef, write bool) string
	// open opens the disk. ctx bounds the opening only. Errors say what to do,
	// and hold no secrets.
	open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error)
}

// diskRef says whose bytes are meant, in all the words that a transport may
// need.
type diskRef struct {
	machine  dr.MachineID
	disk     dr.DiskID
	vm, host types.ManagedObjectReference
	// snapshot freezes the bytes. Without one they are those of a machine that
	// is off, and may be written.
	snapshot *types.ManagedObjectReference
	running  bool
	key      int32  // of the device
	file     string // "[datastore] folder/name.vmdk", as the snapshot or the machine names it
	delta    bool   // file is not the whole of it: it has parents
	uuid     string // of the backing
	size     int64
	place    place // of the file
}

// place is where a disk's file lies.
type place struct {
	datacenter string // inventory path, as /folder asks for: "/DC0"
	datastore  types.ManagedObjectReference
	kind       string // the datastore's type: "VMFS", "vsan", "NFS", ...
}

// device is an open disk. All methods but Close are safe for concurrent use on
// ranges that don't overlap; offsets and lengths stay within the disk and need
// no alignment. A second Close is a no-op.
type device interface {
	// ReadAt fills p.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Close() error
}

// writable is a device that was opened for writing. A Zero that can't be done
// quickly is errors.ErrUnsupported, and has changed nothing.
type writable interface {
	device
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	Zero(ctx context.Context, off, n int64) error
	// Flush makes durable what was written before.
	Flush(ctx context.Context) error
}

// open opens a disk by the first transport that can. leave gives back the place
// that the caller took for it, when the device is closed or can't be opened.
func (v *VSphere) open(ctx context.Context, d diskRef, write bool, leave func()) (device, error) {
	var why []string
	var failed error
	for _, t := range v.options.Transports {
		if no := t.refuse(d, write); no != "" {
			why = append(why, t.String()+": "+no)
			continue
		}
		dev, err := t.open(ctx, v, d, write)
		if err == nil {
			v.options.Log.InfoContext(ctx, "disk opened", "machine", d.machine, "disk", d.disk, "transport", t.String(), "write", write, "passed over", why)
			return &limited{device: dev, leave: leave}, nil
		}
		if ctx.Err() != nil {
			leave()
			return nil, ctx.Err()
		}
		v.options.Log.WarnContext(ctx, "transport failed", "machine", d.machine, "disk", d.disk, "transport", t.String(), "write", write, "error", err)
		why = append(why, fmt.Sprintf("%s: %v", t, err))
		failed = errors.Join(failed, err)
	}
	leave()
	if failed != nil {
		return nil, fmt.Errorf("no transport could open the disk (%s): %w", strings.Join(why, "; "), failed)
	}
	return nil, &explained{fmt.Errorf("%w: no transport can open the disk (%s)", dr.ErrUnsupported, strings.Join(why, "; ")),
		"give Options.Transports one that can: VDDK (nbdkit and VMware's VDDK installed here), or HotAdd (this program runs in a machine of the same vCenter)"}
}

// limited gives its place back when it is closed.
type limited struct {
	device
	leave func()
}

func (l *limited) Unwrap() any { return l.device }

func (l *limited) Close() error {
	defer l.leave()
	return l.device.Close()
}

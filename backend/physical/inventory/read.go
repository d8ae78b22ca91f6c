package inventory

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Options say what to read. The zero value reads this machine.
type Options struct {
	// Root is the folder below which the machine's sys, proc, dev, etc, run,
	// usr, boot and var are; "" is "/". Another one is a machine's that is
	// mounted there, whole.
	Root string
	// Loop takes loop devices for disks, as tests need it.
	Loop bool
	// DeviceTimeout is how long the table and the superblocks of one device
	// may take to read; 0 is ten seconds. One that hangs is a problem of that
	// disk, not of the report.
	DeviceTimeout time.Duration
	// Addresses lists a network interface's addresses. nil asks the kernel,
	// if Root is "/", and else tells none.
	Addresses func(name string) ([]netip.Prefix, error)
}

// Read tells what machine it is. What can't be told is left empty, with a
// problem that says why; an error means that ctx ended, that there is no sysfs
// below Root, or, as dr.ErrUnsupported, that this isn't Linux.
//
// The codes of problems, blockers first: "disk-id-shared" (two paths to the same
// bytes are not one multipath disk), "hibernated", "mounts-unknown",
// "device-unreadable" (a disk can't be read). Others are told for people:
// "disk-id-unstable", "disk-read-only", "multipath", "raid-members",
// "several-devices" (a file system or group over several disks), "encrypted",
// "swap", "mounted-elsewhere" (in other mount namespaces only),
// "mounted-and-held", "duplicate-uuid", "pool-unseen" (ZFS and the like, which
// can't be frozen), "table-damaged", "table-stale", "root-not-on-disk",
// "virtual-machine", "device-vanished", "no-disks", "disk-left-out" (removable,
// and not named), "boot-unknown", and "volume-outside" (a volume lies on what is no
// disk that could be protected: a blocker of those that it lies on too).
func Read(ctx context.Context, o Options) (Report, error) {
	fail := func(err error, remedy string) (Report, error) {
		return Report{}, &dr.Error{Op: "inventory", Err: err, Remedy: remedy}
	}
	if runtime.GOOS != "linux" {
		return fail(fmt.Errorf("%w on %s: only Linux is read", dr.ErrUnsupported, runtime.GOOS), "describe the machine in the configuration")
	}
	if o.Root == "" {
		o.Root = "/"
	}
	if o.DeviceTimeout <= 0 {
		o.DeviceTimeout = 10 * time.Second
	}
	r := Report{At: time.Now().UTC(), Disks: []Disk{}}
	s := &system{root: root(o.Root), o: o, report: &r}
	if _, err := s.ReadDir("sys"); err != nil {
		return fail(fmt.Errorf("there is no sysfs: %w", err), "mount it, and name the root that it is below")
	}
	s.scan()
	s.links()
	s.classify()
	lines := s.mounted()
	if err := s.contents(ctx, s.look); err != nil {
		return fail(err, "")
	}
	s.spread()
	s.hardware()
	s.cards()
	s.disks()
	s.roles(lines)
	s.judge()
	if err := ctx.Err(); err != nil {
		return fail(err, "")
	}
	return r, nil
}

// problem notes one. Its text may quote names of files, which may hold anything.
func (s *system) problem(code string, disk dr.DiskID, blocker bool, text, remedy string) {
	s.report.Problems = append(s.report.Problems, backend.Problem{Code: code, Disk: disk, Text: printable(text), Remedy: remedy, Blocker: blocker})
}

// printable makes foreign text one line that a terminal can show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

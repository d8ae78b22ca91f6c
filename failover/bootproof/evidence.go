package bootproof

import (
	"regexp"

	"github.com/lifeboat-dr/lifeboat/internal/qemu"
)

// Evidence is a sign of life: [Serial], [TCP], [HTTP] or [Hello]. What it saw is
// a backend.Evidence.
type Evidence = qemu.Evidence

// Serial is text at the machine's first serial port that matches; the last
// 256 KiB of it are looked at. The guest must have a console there (Linux:
// console=ttyS0).
func Serial(match *regexp.Regexp) Evidence { return qemu.Serial{Match: match} }

// TCP is a port of the guest that answers. After send, which may be empty, what
// comes back must match want; nil: any byte. A connection alone proves nothing,
// since QEMU accepts it for the guest.
func TCP(port int, send string, want *regexp.Regexp) Evidence {
	return qemu.TCP{Port: port, Send: send, Want: want}
}

// HTTP is a page of the guest that answers 200 with a body of which the first
// 64 KiB match want; nil: any body.
func HTTP(port int, path string, want *regexp.Regexp) Evidence {
	return qemu.HTTP{Port: port, Path: path, Want: want}
}

// Hello is a call of the guest's own: what it sends to the port at 10.0.2.100
// matches want; nil: any byte. In the network of a guest with a static address it
// is the network's last address. A call by HTTP is answered with 204.
func Hello(port int, want *regexp.Regexp) Evidence { return qemu.Hello{Port: port, Want: want} }

// Why a machine did not come up, told at once and not when the time is over. Each
// is wrapped with what was seen. A disk that can't be read is the store's error,
// such as dr.ErrCorrupt.
var (
	ErrNoBootDevice = qemu.ErrNoBootDevice // the firmware found nothing to boot from
	ErrPanicked     = qemu.ErrPanicked     // the guest's kernel gave up
	ErrResetLoop    = qemu.ErrResetLoop    // it resets again and again
	ErrPoweredOff   = qemu.ErrPoweredOff   // it switched itself off
	ErrNoRoom       = qemu.ErrNoRoom       // the host's disk is full: nothing is said of the machine
	ErrEnded        = qemu.ErrEnded        // QEMU ended, or was killed
)

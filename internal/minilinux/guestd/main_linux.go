package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

// screen is the first virtual terminal, so that a screenshot shows what the
// serial console says; it may be absent.
type screen struct{ out io.Writer }

func (s *screen) say(word string, value any) {
	// A line is one write: the kernel says things in between, too.
	_, _ = fmt.Fprintf(s.out, "%s %v\n", word, value)
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestd is the init of a machine, not a program to call")
		os.Exit(2)
	}
	if os.Args[0] == "/init" {
		s := &screen{out: os.Stdout}
		stop(s, enterRoot("/sbin/init"))
	}
	out := io.Writer(os.Stdout)
	if tty, err := os.OpenFile("/dev/tty1", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		out = io.MultiWriter(os.Stdout, tty)
	}
	s := &screen{out: out}
	stop(s, serve(s))
}

// stop says why, if it wasn't asked for, makes what is written durable, and
// switches off.
func stop(s *screen, why error) {
	if why != nil {
		s.say(guest.Failed, why)
	}
	unix.Sync()
	// Read-only, the root's journal is empty: the next start is a clean one.
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for { // without ACPI there is no switch
		time.Sleep(time.Hour)
	}
}

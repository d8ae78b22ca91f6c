package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Why a machine did not come up. They come wrapped, with what was seen.
var (
	// ErrNoBootDevice: the firmware found nothing to boot from.
	ErrNoBootDevice = errors.New("no bootable device")
	// ErrPanicked: the guest's kernel gave up.
	ErrPanicked = errors.New("the guest's kernel panicked")
	// ErrResetLoop: it resets again and again.
	ErrResetLoop = errors.New("the machine resets again and again")
	// ErrPoweredOff: the guest switched itself off.
	ErrPoweredOff = errors.New("the guest switched itself off")
	// ErrNoRoom: QEMU has stopped the machine, because the host has no room for what
	// it writes. Nothing is said of the machine by it.
	ErrNoRoom = errors.New("no room on the host for what the guest writes; make some, and start it again")
	// ErrEnded: QEMU itself ended, or was killed.
	ErrEnded = errors.New("QEMU ended")
)

// escapes are a terminal's control sequences.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78cDEHM]`)

// fatal are lines of the console after which nothing comes up any more. A
// program of the guest can print them too; then the guest fails its own proof.
var fatal = []struct {
	text string
	err  error
}{
	{"Kernel panic - not syncing", ErrPanicked},
	{"BdsDxe: No bootable option or device was found", ErrNoBootDevice},
	{"UEFI Interactive Shell", ErrNoBootDevice},
	{"Entering rescue mode...", ErrNoBootDevice}, // GRUB's; it goes on after some of its errors
	{"Unable to mount root fs", ErrPanicked},
}

// console judges a line of the serial port.
func (m *Machine) console(line string) {
	line = printable([]byte(line))
	for _, f := range fatal {
		if strings.Contains(line, f.text) {
			m.fail(fmt.Errorf("%w: the console says %q", f.err, clip(line)))
			return
		}
	}
}

// bios judges a line of SeaBIOS's log.
func (m *Machine) bios(line string) {
	switch {
	case strings.Contains(line, "No bootable device."):
		m.fail(fmt.Errorf("%w: the firmware says so", ErrNoBootDevice))
	case strings.HasPrefix(line, "Boot failed:"):
		m.cfg.Log.Debug("qemu: the firmware goes on to the next disk", "says", clip(line))
	}
}

// event judges what QEMU tells.
func (m *Machine) event(e Event) {
	var data struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
		Action string `json:"action"`
	}
	_ = json.Unmarshal(e.Data, &data)
	switch e.Name {
	case "GUEST_PANICKED":
		m.fail(fmt.Errorf("%w: it told QEMU", ErrPanicked))
	case "RESET":
		m.mu.Lock()
		if data.Guest {
			m.resets++
		}
		n := m.resets
		m.mu.Unlock()
		if m.cfg.Resets < 0 {
			m.forgive(func(err error) bool { return !errors.Is(err, ErrPoweredOff) }) // it comes up anew
		}
		if m.cfg.Resets > 0 && n > m.cfg.Resets {
			m.fail(fmt.Errorf("%w: %d times since it was started", ErrResetLoop, n))
		}
	case "BLOCK_IO_ERROR":
		if data.Action == "stop" { // as it does without room; other errors the guest is told
			m.fail(ErrNoRoom)
		}
	case "RESUME":
		m.forgive(func(err error) bool { return errors.Is(err, ErrNoRoom) })
	case "SHUTDOWN":
		if data.Guest {
			m.mu.Lock()
			m.off = data.Reason != "guest-panic"
			m.mu.Unlock()
			m.fail(fmt.Errorf("%w (%s)", ErrPoweredOff, clip(data.Reason)))
		}
	}
}

func clip(s string) string {
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

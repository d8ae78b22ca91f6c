package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What linux/input-event-codes.h calls EV_KEY and KEY_POWER.
const (
	keyEvent = 1
	powerKey = 116
)

// watchPower sends when the power button is pressed: what a
// hypervisor does to ask for a shutdown. Without a button it never does.
func watchPower() <-chan struct{} {
	pressed := make(chan struct{}, 1)
	files, _ := filepath.Glob("/dev/input/event*")
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		go func() {
			defer f.Close()
			// struct input_event: a time, then type and code (16 bits each)
			// and value (32).
			const at = int(unsafe.Sizeof(unix.Timeval{}))
			e := make([]byte, at+8)
			for {
				if n, err := f.Read(e); err != nil || n < len(e) {
					return
				}
				if binary.NativeEndian.Uint16(e[at:]) == keyEvent && binary.NativeEndian.Uint16(e[at+2:]) == powerKey {
					select {
					case pressed <- struct{}{}:
					default:
					}
				}
			}
		}()
	}
	return pressed
}

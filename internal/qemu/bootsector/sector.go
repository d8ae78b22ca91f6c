// Package bootsector assembles first sectors of disks that a BIOS starts: the
// smallest guests there are, for tests that need one which does a single thing
// within a second. Systems of any kind don't belong here; package minilinux has
// one.
package bootsector

// Then is what a sector does after it has said its text, in machine code. What
// shuts off and panics is of QEMU's machine type q35.
type Then []byte

// What a sector can do.
var (
	Halt     = Then{0xFA, 0xF4, 0xEB, 0xFD}                   // cli; hlt; again
	Reset    = Then{0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE}       // by the keyboard controller
	PowerOff = Then{0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF} // by the power management's port
	Panic    = Then{0xBA, 0x05, 0x05, 0xB0, 0x01, 0xEE, 0xF4} // by the pvpanic device
	// Count writes an ever growing number to sector 1 of the first disk, as
	// fast as it can: 16 bits at CountAt, little-endian.
	Count = Then{
		0xFF, 0x06, 0xF8, 0x7D, // inc word [0x7df8]
		0xB8, 0x01, 0x03, 0xBB, 0x00, 0x7C, 0xB9, 0x02, 0x00, 0xBA, 0x80, 0x00, 0xCD, 0x13, // write one sector
		0xEB, 0xEC, // again
	}
)

// CountAt is where on the disk Count counts.
const CountAt = 512 + 0x1f8

// New makes a sector that says text at the first serial port, 400 bytes at most.
func New(text string, then Then) []byte {
	code := []byte{
		0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xC0, // ds, es = 0
		0xBE, 0, 0, // si = text
		0xAC, 0x84, 0xC0, 0x74, 0, // next: al = [si++]; if it is 0: done
		0x88, 0xC3, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x20, 0x74, 0xFB, // bl = al; wait until it can be sent
		0xBA, 0xF8, 0x03, 0x88, 0xD8, 0xEE, // send it
	}
	const next = 9
	code = append(code, 0xEB, byte(next-len(code)-2))
	code[13] = byte(len(code) - 14)
	code = append(code, then...)
	at := 0x7c00 + len(code)
	code[7], code[8] = byte(at), byte(at>>8)
	sector := make([]byte, 512)
	copy(sector[:0x1f8], append(append(code, text...), 0))
	sector[510], sector[511] = 0x55, 0xAA
	return sector
}

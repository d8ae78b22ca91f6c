package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a boot sector does after it has said something.
var (
	halt     = []byte{0xFA, 0xF4, 0xEB, 0xFD}                   // cli; hlt; jmp back to hlt
	reset    = []byte{0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE}       // by the keyboard controller
	powerOff = []byte{0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF} // q35's power management
	pvpanic  = []byte{0xBA, 0x05, 0x05, 0xB0, 0x01, 0xEE, 0xF4} // tell QEMU of a panic
	counting = []byte{                                          // write an ever growing number to sector 1
		0xFF, 0x06, 0xF8, 0x7D, // inc word [0x7df8]
		0xB8, 0x01, 0x03, 0xBB, 0x00, 0x7C, 0xB9, 0x02, 0x00, 0xBA, 0x80, 0x00, 0xCD, 0x13, // write one sector
		0xEB, 0xE8, // again
	}
)

// bootSector prints text at the serial port, then does the rest.
func bootSector(text string, then []byte) []byte {
	code := []byte{
		0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xC0, // ds, es = 0
		0xBE, 0, 0, // si = text
		0xAC, 0x84, 0xC0, 0x74, 0x10, // next: al = [si++]; if 0: done
		0x88, 0xC3, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x20, 0x74, 0xFB, // wait until it can be sent
		0xBA, 0xF8, 0x03, 0x88, 0xD8, 0xEE, // send it
	}
	code = append(code, 0xEB, byte(-(len(code) - 9 + 2))) // jmp next
	code[13] = byte(len(code) - 14)
	code = append(code, then...)
	at := 0x7c00 + len(code)
	code[7], code[8] = byte(at), byte(at>>8)
	code = append(append(code, text...), 0)
	sector := make([]byte, 512)
	copy(sector, code)
	sector[510], sector[511] = 0x55, 0xAA
	return sector
}

// disk is an image of a boot sector and zeros.
func disk(t testing.TB, sector []byte) string {
	path := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, sector, 0o600))
	require.NoError(t, os.Truncate(path, 2<<20))
	return path
}

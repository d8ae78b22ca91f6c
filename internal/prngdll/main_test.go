package main

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// Go's own reader of the format reads it back; that Wine loads it is shown by
// every test that runs there.
func TestTheLibraryHasOneForwarder(t *testing.T) {
	b := forwarder("bcryptprimitives.dll", "ProcessPrng", "advapi32.SystemFunction036")
	f, err := pe.NewFile(bytes.NewReader(b))
	require.NoError(t, err)
	require.EqualValues(t, pe.IMAGE_FILE_MACHINE_AMD64, f.Machine)
	require.NotZero(t, f.Characteristics&pe.IMAGE_FILE_DLL)
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	dir := opt.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_EXPORT]

	var edata *pe.Section
	for _, s := range f.Sections {
		if s.VirtualAddress == dir.VirtualAddress {
			edata = s
		}
	}
	require.NotNil(t, edata)
	data, err := edata.Data()
	require.NoError(t, err)
	at := func(rva uint32) []byte { return data[rva-edata.VirtualAddress:] }
	str := func(rva uint32) string { s, _, _ := bytes.Cut(at(rva), []byte{0}); return string(s) }
	u32 := func(rva uint32) uint32 { return binary.LittleEndian.Uint32(at(rva)) }

	d := dir.VirtualAddress
	require.Equal(t, "bcryptprimitives.dll", str(u32(d+12)))
	require.EqualValues(t, 1, u32(d+20))
	require.Equal(t, "ProcessPrng", str(u32(u32(d+32))))
	to := u32(u32(d + 28))
	require.True(t, to >= d && to < d+dir.Size, "an address outside of the directory would be code")
	require.Equal(t, "advapi32.SystemFunction036", str(to))
}

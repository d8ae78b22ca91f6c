package main

import (
	"encoding/binary"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: prngdll FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], forwarder("bcryptprimitives.dll", "ProcessPrng", "advapi32.SystemFunction036"), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Where things lie in the file, and in memory. One page of headers, one section
// of code, which only says yes when the library is loaded, one of the export
// directory. Sections are aligned to 512 bytes in the file, to 4,096 in memory.
const (
	fileAlign, pageAlign = 0x200, 0x1000

	peHeader   = 0x40 // behind the DOS header
	codeFile   = 1 * fileAlign
	codeRVA    = 1 * pageAlign
	exportFile = 2 * fileAlign
	exportRVA  = 2 * pageAlign
)

// forwarder is a 64-bit DLL with a single export, which is another DLL's
// function: "module.name". Format: Microsoft's "PE Format", to which the names
// of fields in the comments belong.
func forwarder(name, export, to string) []byte {
	b := make([]byte, exportFile+fileAlign)
	u16 := func(at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
	u32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
	u64 := func(at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }

	copy(b, "MZ")
	u32(0x3C, peHeader)
	copy(b[peHeader:], "PE\x00\x00")

	coff := peHeader + 4
	u16(coff, 0x8664)    // Machine: AMD64
	u16(coff+2, 2)       // NumberOfSections
	u16(coff+16, 240)    // SizeOfOptionalHeader
	u16(coff+18, 0x2022) // Characteristics: executable, large addresses, DLL

	opt := coff + 20
	u16(opt, 0x20B)          // Magic: PE32+
	u32(opt+4, fileAlign)    // SizeOfCode
	u32(opt+8, fileAlign)    // SizeOfInitializedData
	u32(opt+16, codeRVA)     // AddressOfEntryPoint
	u32(opt+20, codeRVA)     // BaseOfCode
	u64(opt+24, 0x180000000) // ImageBase
	u32(opt+32, pageAlign)   // SectionAlignment
	u32(opt+36, fileAlign)   // FileAlignment
	u16(opt+40, 6)           // MajorOperatingSystemVersion
	u16(opt+48, 6)           // MajorSubsystemVersion
	u32(opt+56, 3*pageAlign) // SizeOfImage
	u32(opt+60, fileAlign)   // SizeOfHeaders
	u16(opt+68, 3)           // Subsystem: console
	u16(opt+70, 0x160)       // DllCharacteristics: may be moved, no execution of data
	u64(opt+72, 0x100000)    // SizeOfStackReserve
	u64(opt+80, pageAlign)   // SizeOfStackCommit
	u64(opt+88, 0x100000)    // SizeOfHeapReserve
	u64(opt+96, pageAlign)   // SizeOfHeapCommit
	u32(opt+108, 16)         // NumberOfRvaAndSizes
	u32(opt+112, exportRVA)  // Export Table
	u32(opt+116, fileAlign)  // and its size

	section := func(at int, name string, rva, file, flags uint32) {
		copy(b[at:at+8], name)
		u32(at+8, fileAlign)  // VirtualSize
		u32(at+12, rva)       // VirtualAddress
		u32(at+16, fileAlign) // SizeOfRawData
		u32(at+20, file)      // PointerToRawData
		u32(at+36, flags)     // Characteristics
	}
	section(opt+240, ".text", codeRVA, codeFile, 0x60000020)      // code, read, execute
	section(opt+280, ".edata", exportRVA, exportFile, 0x40000040) // data, read
	copy(b[codeFile:], []byte{0xB8, 1, 0, 0, 0, 0xC3})            // mov eax, 1; ret

	// The directory, three tables of one entry, and the strings. An address that
	// lies inside the export section itself is what makes a forwarder.
	const directory, addresses, names, ordinals, text = 0, 0x28, 0x2C, 0x30, 0x40
	put := func(at int, s string) int { copy(b[exportFile+at:], s); return at + len(s) + 1 }
	exportAt := put(text, name)
	toAt := put(exportAt, export)
	put(toAt, to)
	u32(exportFile+directory+12, exportRVA+text)      // Name RVA
	u32(exportFile+directory+16, 1)                   // Ordinal Base
	u32(exportFile+directory+20, 1)                   // Address Table Entries
	u32(exportFile+directory+24, 1)                   // Number of Name Pointers
	u32(exportFile+directory+28, exportRVA+addresses) // Export Address Table RVA
	u32(exportFile+directory+32, exportRVA+names)     // Name Pointer RVA
	u32(exportFile+directory+36, exportRVA+ordinals)  // Ordinal Table RVA
	u32(exportFile+addresses, exportRVA+uint32(toAt))
	u32(exportFile+names, exportRVA+uint32(exportAt))
	u16(exportFile+ordinals, 0)
	return b
}

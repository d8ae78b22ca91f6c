package vhdx

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is as it is stored: the first three groups little-endian, the rest in the
// order of its text. The zero value is the null GUID.
type GUID [16]byte

// String is the usual text in capitals, without braces.
func (g GUID) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X",
		le.Uint32(g[0:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// ParseGUID reads what String writes, in any case, with or without braces.
func ParseGUID(s string) (GUID, error) {
	text := s
	if len(text) == 38 && text[0] == '{' && text[37] == '}' {
		text = text[1:37]
	}
	bad := fmt.Errorf("vhdx: %.50q is no GUID", s)
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return GUID{}, bad
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		return GUID{}, bad
	}
	return GUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6],
		b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}, nil
}

// NewGUID is a random one, version 4 of RFC 9562.
func NewGUID() GUID {
	var g GUID
	_, _ = rand.Read(g[:]) // never fails
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

func known(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// Names of regions, metadata items and the one type of parent locator.
var (
	regionBAT      = known("2DC27766-F623-4200-9D64-115E9BFD4A08")
	regionMetadata = known("8B7CA206-4790-4B9A-B8FE-575F050F886E")

	itemFileParameters = known("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
	itemSize           = known("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
	itemDiskID         = known("BECA12AB-B2E6-4523-93EF-C309E000C746")
	itemLogicalSector  = known("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
	itemPhysicalSector = known("CDA348C7-445D-4471-9CC9-E9885251C556")
	itemParentLocator  = known("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")

	locatorVHDX = known("B04AEFB7-D19E-4A81-B789-25B8E9445913")
)

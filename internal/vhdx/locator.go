package vhdx

import (
	"fmt"
	"strings"
	"unicode/utf16"
)

// Locator says which file a differencing disk's parent is. Its paths are text
// that somebody else may have written.
type Locator struct {
	// Linkage is the parent's DataWriteGUID. While a merge is under way, or was
	// cut off, Linkage2 is allowed too.
	Linkage, Linkage2 GUID
	// Relative is relative to the child's folder, as in `.\base.vhdx`. Absolute
	// is a Win32 path, as in `\\?\C:\disks\base.vhdx` or `C:\disks\base.vhdx`,
	// and Volume one with a volume's GUID.
	Relative, Absolute, Volume string

	others [][2]string
}

const (
	keyLinkage  = "parent_linkage"
	keyLinkage2 = "parent_linkage2"
	keyRelative = "relative_path"
	keyVolume   = "volume_path"
	keyAbsolute = "absolute_win32_path"

	maxLocator = 64 * kib // so that the log can hold it
)

// matches tells whether a parent is the one that is meant.
func (l Locator) matches(dataWrite GUID) bool {
	return dataWrite != (GUID{}) && (dataWrite == l.Linkage || dataWrite == l.Linkage2)
}

func (l Locator) encode() ([]byte, error) {
	brace := func(g GUID) string { return "{" + strings.ToLower(g.String()) + "}" }
	pairs := [][2]string{{keyLinkage, brace(l.Linkage)}}
	if l.Linkage2 != (GUID{}) {
		pairs = append(pairs, [2]string{keyLinkage2, brace(l.Linkage2)})
	}
	for _, p := range [][2]string{{keyRelative, l.Relative}, {keyVolume, l.Volume}, {keyAbsolute, l.Absolute}} {
		if p[1] != "" {
			pairs = append(pairs, p)
		}
	}
	pairs = append(pairs, l.others...)
	b := make([]byte, 20+12*len(pairs))
	copy(b, locatorVHDX[:])
	le.PutUint16(b[18:], uint16(len(pairs)))
	for i, p := range pairs {
		key, value := encodeText(p[0]), encodeText(p[1])
		if len(b)+len(key)+len(value) > maxLocator {
			return nil, fmt.Errorf("vhdx: the paths of the parent take more than %d bytes", maxLocator)
		}
		e := b[20+12*i:]
		le.PutUint32(e, uint32(len(b)))
		le.PutUint32(e[4:], uint32(len(b)+len(key)))
		le.PutUint16(e[8:], uint16(len(key)))
		le.PutUint16(e[10:], uint16(len(value)))
		b = append(append(b, key...), value...)
	}
	return b, nil
}

func parseLocator(b []byte, at int64) (l Locator, err error) {
	if len(b) < 20 {
		return l, corrupt(at, "a parent locator of %d bytes", len(b))
	}
	if id := GUID(b[:16]); id != locatorVHDX {
		return l, unsupported("parent locator of type %v", id)
	}
	n := int(le.Uint16(b[18:]))
	if n > (len(b)-20)/12 {
		return l, corrupt(at, "a parent locator of %d bytes with %d entries", len(b), n)
	}
	seen := map[string]bool{}
	for i := range n {
		e := b[20+12*i:]
		key, ok1 := decodeText(b, le.Uint32(e), le.Uint16(e[8:]))
		value, ok2 := decodeText(b, le.Uint32(e[4:]), le.Uint16(e[10:]))
		if !ok1 || !ok2 || key == "" || seen[key] {
			return l, corrupt(at, "entry %d of the parent locator", i)
		}
		seen[key] = true
		switch key {
		case keyLinkage:
			l.Linkage, err = ParseGUID(value)
		case keyLinkage2:
			l.Linkage2, err = ParseGUID(value)
		case keyRelative:
			l.Relative = value
		case keyVolume:
			l.Volume = value
		case keyAbsolute:
			l.Absolute = value
		default:
			l.others = append(l.others, [2]string{key, value})
		}
		if err != nil {
			return l, corrupt(at, "%s of the parent locator: %v", key, err)
		}
	}
	if l.Linkage == (GUID{}) {
		return l, corrupt(at, "a parent locator without %s", keyLinkage)
	}
	return l, nil
}

func encodeText(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = le.AppendUint16(b, u)
	}
	return b
}

func decodeText(b []byte, off uint32, n uint16) (string, bool) {
	if n%2 != 0 || int64(off)+int64(n) > int64(len(b)) {
		return "", false
	}
	units := make([]uint16, n/2)
	for i := range units {
		units[i] = le.Uint16(b[int(off)+2*i:])
	}
	return string(utf16.Decode(units)), true
}

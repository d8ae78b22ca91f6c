package vmdk

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
)

// descriptor describes an image of that many sectors as VMware's own exports
// do: the extent's name is a label that nobody looks up.
func descriptor(capacity int64, name string) string {
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.adapterType = "lsilogic"
`, capacity, name, capacity/(255*63))
}

// checkName refuses what would end the quotes or the line that it stands in.
func checkName(name string) error {
	if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool {
		return r == '"' || r == unicode.ReplacementChar || unicode.IsControl(r)
	}) {
		return fmt.Errorf("vmdk: %.300q can't be the name in a descriptor", name)
	}
	return nil
}

// parseDescriptor cuts the text from its padding.
func parseDescriptor(b []byte) (string, error) {
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	text := string(b)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, "=")
		value = strings.Trim(value, " \t\r\n\"")
		if strings.EqualFold(strings.TrimSpace(key), "parentCID") && !strings.EqualFold(value, "ffffffff") {
			return text, fmt.Errorf("%w: its parent is %.20q: what it lacks is not zero", ErrFormat, value)
		}
	}
	return text, nil
}

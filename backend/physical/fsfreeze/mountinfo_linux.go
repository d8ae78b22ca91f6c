package fsfreeze

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// device is a block device's number.
type device struct{ major, minor uint32 }

func (d device) String() string { return fmt.Sprintf("%d:%d", d.major, d.minor) }

func parseDevice(s string) (device, error) {
	major, minor, ok := strings.Cut(strings.TrimSpace(s), ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return device{}, fmt.Errorf("%q is no device number", s)
	}
	return device{uint32(a), uint32(b)}, nil
}

// mount is a line of mountinfo.
type mount struct {
	id       string // of the mount, as a file's fdinfo has it
	dev      device
	at       string // where
	kind     string // the file system's type
	source   string
	readOnly bool // the file system, not only this mount of it
}

// parseMounts reads what /proc/self/mountinfo holds, in the order in which it
// was mounted (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
func parseMounts(b []byte) ([]mount, error) {
	var all []mount
	for line := range bytes.Lines(b) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		// One blank ends a field: a source may be empty.
		fields := strings.Split(strings.TrimSuffix(string(line), "\n"), " ")
		// Optional fields, as many as there are, end with a hyphen.
		rest := -1
		for i := 6; i < len(fields); i++ {
			if fields[i] == "-" {
				rest = i
				break
			}
		}
		if rest < 0 || len(fields) < rest+4 || fields[rest+1] == "" {
			return nil, fmt.Errorf("mountinfo: no line of a mount: %q", line)
		}
		dev, err := parseDevice(fields[2])
		if err != nil {
			return nil, fmt.Errorf("mountinfo: %w", err)
		}
		super, _, _ := strings.Cut(fields[rest+3], ",")
		all = append(all, mount{id: fields[0], dev: dev, at: unescape(fields[4]), kind: fields[rest+1], source: unescape(fields[rest+2]), readOnly: super == "ro"})
	}
	return all, nil
}

// unescape undoes the kernel's octal escapes of names.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountOf is the mount that an absolute path without links lies on; -1: none.
// Of two at one place the later one covers the other.
func mountOf(mounts []mount, path string) int {
	best, length := -1, -1
	for i, m := range mounts {
		if within(m.at, path) && len(m.at) >= length {
			best, length = i, len(m.at)
		}
	}
	return best
}

func within(dir, path string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, filepath.Clean(dir)+"/")
}

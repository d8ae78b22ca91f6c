package inventory

import (
	"bytes"
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxNamespaces bounds how many mount namespaces of other processes are read.
const maxNamespaces = 1024

// mountLine is a line of mountinfo
// (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
type mountLine struct {
	number, subtree, at, kind, source string
	ro                                bool
}

// unescape undoes the kernel's octal escapes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\043`, "#", `\134`, `\`)

// parseMounts reads mountinfo; lines that make no sense are left out.
func parseMounts(text []byte) []mountLine {
	var list []mountLine
	for l := range bytes.Lines(text) {
		f := strings.Fields(string(l))
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+3 {
			continue
		}
		// Those of the file system count: a mount may be read-only in a sandbox
		// alone, as systemd's ProtectSystem= makes all of them, and others write.
		options := strings.Split(f[min(dash+3, len(f)-1)], ",")
		if len(f) == dash+3 {
			options = strings.Split(f[5], ",")
		}
		list = append(list, mountLine{
			number: f[2], subtree: unescape.Replace(f[3]), at: unescape.Replace(f[4]),
			kind: f[dash+1], source: unescape.Replace(f[dash+2]), ro: slices.Contains(options, "ro"),
		})
	}
	return list
}

// parseSwaps reads /proc/swaps: the files and devices that are swapped to.
func parseSwaps(text []byte) []string {
	var list []string
	first := true
	for l := range bytes.Lines(text) {
		f := strings.Fields(string(l))
		if !first && len(f) > 1 {
			list = append(list, unescape.Replace(f[0]))
		}
		first = false
	}
	return list
}

// mounted finds what is mounted in this namespace, and what only others have
// mounted; and what is swapped to.
func (s *system) mounted() []mountLine {
	own, err := s.read("proc/self/mountinfo", maxText)
	if err != nil {
		s.problem("mounts-unknown", "", true, "what is mounted can't be read: "+err.Error(), "mount /proc and let this process read it")
	}
	lines := parseMounts(own)
	for _, l := range lines {
		s.attach(l, 0)
	}
	mine := map[*device]bool{}
	for _, d := range s.all {
		mine[d] = len(d.mounts) > 0
	}
	seen := map[string]bool{s.namespace("self"): true}
	for _, pid := range s.names("proc") {
		n, err := strconv.Atoi(pid)
		if err != nil {
			continue
		}
		ns := s.namespace(pid)
		if ns == "" || seen[ns] || len(seen) > maxNamespaces {
			continue
		}
		seen[ns] = true
		if b, err := s.read(path.Join("proc", pid, "mountinfo"), maxText); err == nil {
			for _, l := range parseMounts(b) {
				if d := s.find(l.number, l.source); d != nil && !mine[d] {
					s.attach(l, n)
				}
			}
		}
	}
	if b, err := s.read("proc/swaps", maxText); err == nil {
		for _, name := range parseSwaps(b) {
			if d := s.named(name); d != nil {
				d.swap = true
			}
		}
	}
	return lines
}

// namespace is the mount namespace of a process; "" if it can't be told.
func (s *system) namespace(pid string) string {
	at, err := s.ReadLink(path.Join("proc", pid, "ns/mnt"))
	if err != nil {
		return ""
	}
	return at
}

// attach notes a mount at its device.
func (s *system) attach(l mountLine, pid int) {
	d := s.find(l.number, l.source)
	if d == nil {
		return
	}
	m := Mount{Path: l.at, Kind: l.kind, ReadOnly: l.ro, PID: pid}
	if l.subtree != "/" {
		m.Subtree = l.subtree
	}
	if !slices.Contains(d.mounts, m) {
		d.mounts = append(d.mounts, m)
	}
}

// find is the device of a mount. btrfs and others have device numbers of their
// own: then the source names it.
func (s *system) find(number, source string) *device {
	if d := s.byDev[number]; d != nil {
		return d
	}
	if !strings.HasPrefix(number, "0:") {
		return nil
	}
	return s.named(source)
}

// named is the device that a path below /dev leads to.
func (s *system) named(name string) *device {
	rest, ok := strings.CutPrefix(path.Clean(name), "/dev/")
	if !ok {
		return nil
	}
	if d := s.byName[strings.ReplaceAll(rest, "/", "!")]; d != nil {
		return d
	}
	if at, err := s.resolve(name, true); err == nil {
		if d := s.byName[strings.ReplaceAll(strings.TrimPrefix(at, "dev/"), "/", "!")]; d != nil {
			return d
		}
	}
	if mapped, ok := strings.CutPrefix(rest, "mapper/"); ok {
		for _, d := range s.all { // without udev it is no link
			if s.attr(d.dir, "dm/name") == mapped {
				return d
			}
		}
	}
	return nil
}

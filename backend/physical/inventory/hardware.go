package inventory

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// secureBoot is the variable that says whether only signed loaders start (UEFI
// specification, 3.3); Linux puts four bytes of attributes before its value.
const secureBoot = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// hardware reads what isn't disks or cards.
func (s *system) hardware() {
	r := s.report
	switch {
	case s.exists("sys/firmware/efi"):
		r.Firmware = dr.UEFI
		b, err := s.read(secureBoot, maxAttribute)
		r.SecureBoot = err == nil && len(b) == 5 && b[4] == 1
	case !s.exists("proc/device-tree"):
		r.Firmware = dr.BIOS // what is left on a PC; others have a device tree
	}
	text, _ := s.read("proc/cpuinfo", maxText)
	model, count, guest := parseCPUs(text)
	r.CPUs, r.System.CPU = count, model
	if n := parseList(s.attr("sys/devices/system/cpu/present")); n > r.CPUs {
		r.CPUs = n
	}
	r.Memory = s.memory()
	dmi := func(name string) string { return s.attr("sys/class/dmi/id", name) }
	y := &r.System
	y.Vendor, y.Product, y.Serial, y.UUID = dmi("sys_vendor"), dmi("product_name"), dmi("product_serial"), strings.ToLower(dmi("product_uuid"))
	if y.Product == "" {
		y.Product = printable(strings.TrimRight(s.attr("proc/device-tree/model"), "\x00"))
	}
	y.Virtual = hypervisor(y.Vendor, y.Product, dmi("bios_vendor"), s.attr("sys/hypervisor/type"), guest)
	y.Kernel = s.attr("proc/sys/kernel/osrelease")
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if b, err := s.read(name, maxAttribute); err == nil {
			y.Release = osRelease(b)
			break
		}
	}
	r.Name = s.attr("proc/sys/kernel/hostname")
	if r.Name == "" {
		r.Name = s.attr("etc/hostname")
	}
	r.ID = s.machineID()
}

// machineID names the machine by its board's UUID, which stays when the system
// is installed anew; where the board has none by the installation's. That one is
// to be kept to oneself, so a hash of it is taken
// (https://www.freedesktop.org/software/systemd/man/latest/machine-id.html).
func (s *system) machineID() dr.MachineID {
	if realUUID(s.report.System.UUID) {
		return dr.MachineID(s.report.System.UUID)
	}
	id := s.attr("etc/machine-id")
	if id == "" {
		id = s.attr("var/lib/dbus/machine-id")
	}
	if len(id) == 32 && strings.Trim(id, "0123456789abcdef") == "" {
		h := hmac.New(sha256.New, []byte(id))
		h.Write([]byte("lifeboat machine"))
		return dr.MachineID(fmt.Sprintf("host-%x", h.Sum(nil)[:16]))
	}
	return dr.MachineID("name-" + string(diskID(s.report.Name)))
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// realUUID refuses what vendors leave where a UUID should be: one digit
// repeated, and the sample of AMI's firmware that many boards have in common.
func realUUID(id string) bool {
	digits := strings.ReplaceAll(id, "-", "")
	return uuidForm.MatchString(id) && strings.Trim(digits, digits[:1]) != "" &&
		id != "03000200-0400-0500-0006-000700080009" && id != "00020003-0004-0005-0006-000700080009"
}

// parseCPUs reads /proc/cpuinfo.
func parseCPUs(text []byte) (model string, count int, guest bool) {
	for l := range bytes.Lines(text) {
		k, v, _ := strings.Cut(string(l), ":")
		switch v = strings.TrimSpace(v); strings.TrimSpace(k) {
		case "processor":
			count++
		case "model name":
			if model == "" {
				model = printable(v)
			}
		case "flags":
			guest = guest || strings.Contains(" "+v+" ", " hypervisor ")
		}
	}
	return model, count, guest
}

// parseList counts a list of the kernel's such as "0-3,8-11"; 0 if it is none.
func parseList(list string) (n int) {
	for e := range strings.SplitSeq(list, ",") {
		a, b, isRange := strings.Cut(e, "-")
		if !isRange {
			b = a
		}
		from, err1 := strconv.Atoi(a)
		to, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil || from < 0 || to < from || to > 1<<16 {
			return 0
		}
		n += to - from + 1
	}
	return n
}

// memory that is installed, by the blocks that are online; else what the kernel
// has, which is less by what it and the firmware keep.
func (s *system) memory() int64 {
	each, err := strconv.ParseInt(s.attr("sys/devices/system/memory/block_size_bytes"), 16, 64)
	if err == nil && each >= 1<<20 && each <= 1<<40 {
		var blocks int64
		for _, name := range s.names("sys/devices/system/memory") {
			if strings.HasPrefix(name, "memory") && s.attr("sys/devices/system/memory", name, "online") == "1" {
				blocks++
			}
		}
		if blocks > 0 && blocks < 1<<20 {
			return blocks * each
		}
	}
	text, _ := s.read("proc/meminfo", maxAttribute)
	for l := range bytes.Lines(text) {
		if f := strings.Fields(string(l)); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil && n >= 0 && n < 1<<50 {
				return n << 10
			}
		}
	}
	return 0
}

// osRelease is PRETTY_NAME of os-release.
func osRelease(text []byte) string {
	for l := range bytes.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(string(l)), "PRETTY_NAME="); ok {
			return printable(strings.Trim(v, `"'`))
		}
	}
	return ""
}

// hypervisor tells by what firmware and processor say below what the system
// runs, with the strings that systemd-detect-virt knows (src/basic/virt.c).
func hypervisor(vendor, product, bios, xen string, guest bool) string {
	for _, v := range []struct{ in, is, name string }{
		{vendor, "VMware", "vmware"}, {product, "VMware", "vmware"},
		{product, "VirtualBox", "virtualbox"}, {vendor, "innotek", "virtualbox"},
		{vendor, "Amazon EC2", "amazon"}, {vendor, "Google", "google"},
		{vendor, "QEMU", "kvm"}, {product, "KVM", "kvm"}, {vendor, "KVM", "kvm"}, {bios, "SeaBIOS", "kvm"},
		{vendor, "OpenStack", "kvm"}, {product, "OpenStack", "kvm"}, {vendor, "Xen", "xen"}, {vendor, "Parallels", "parallels"},
		{vendor, "Alibaba", "kvm"}, {vendor, "DigitalOcean", "kvm"}, {vendor, "Hetzner", "kvm"},
	} {
		if strings.Contains(v.in, v.is) {
			// Those that rent out bare machines say so by the processor.
			if (v.name == "amazon" || v.name == "google") && !guest {
				return ""
			}
			return v.name
		}
	}
	switch {
	case vendor == "Microsoft Corporation" && product == "Virtual Machine":
		return "hyper-v"
	case xen != "":
		return "xen"
	case guest:
		return "unknown"
	}
	return ""
}

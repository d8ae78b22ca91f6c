package minilinux

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the kernel's modules that a machine may start from, be reached
// by, or be switched off by. What they need comes with them.
var wanted = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "sr_mod",
	"ata_piix", "ata_generic", // IDE: the machine type pc without virtio
	"vmw_pvscsi", "vmxnet3", // what VMware shows
	"hv_vmbus", "hv_storvsc", "hv_netvsc", // what Hyper-V and Azure show
	"button", "evdev", // the power button
}

// module is one kernel module: what it drives and what it needs.
type module struct {
	name, path string
	aliases    []string
	needs      []string
}

// modules returns what is wanted and what that needs, in the order of their
// names. A wanted module that this kernel doesn't have is built in, or absent.
func (p packages) modules() ([]module, error) {
	files := map[string]string{}
	base := p.file("lib", "modules", p.version)
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	all := map[string]module{}
	var add func(name string, optional bool) error
	add = func(name string, optional bool) error {
		name = strings.ReplaceAll(name, "-", "_")
		path, there := files[name]
		if _, done := all[name]; done || !there && optional {
			return nil
		}
		if !there {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		m, err := readModule(name, path)
		if err != nil {
			return err
		}
		all[name] = m
		for _, n := range m.needs {
			if err := add(n, false); err != nil {
				return fmt.Errorf("%s needs %w", name, err)
			}
		}
		return nil
	}
	for _, name := range wanted {
		if err := add(name, true); err != nil {
			return nil, err
		}
	}
	var list []module
	for _, m := range all {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// readModule reads the section .modinfo: "key=value" strings that end with
// zero. The package has no modules.dep, which depmod makes on installation.
func readModule(name, path string) (module, error) {
	f, err := elf.Open(path)
	if err != nil {
		return module{}, fmt.Errorf("module %s: %w", name, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return module{}, fmt.Errorf("module %s has no .modinfo", name)
	}
	raw, err := s.Data()
	if err != nil {
		return module{}, fmt.Errorf("module %s: %w", name, err)
	}
	m := module{name: name, path: path}
	for entry := range bytes.SplitSeq(raw, []byte{0}) {
		switch key, value, _ := strings.Cut(string(entry), "="); {
		case key == "alias":
			m.aliases = append(m.aliases, value)
		case key == "depends" && value != "":
			for n := range strings.SplitSeq(value, ",") {
				m.needs = append(m.needs, strings.ReplaceAll(n, "-", "_"))
			}
		}
	}
	return m, nil
}

// driverList is what guestd reads: which module drives what, and what it
// needs.
func driverList(modules []module) []byte {
	var b bytes.Buffer
	for _, m := range modules {
		for _, a := range m.aliases {
			if !strings.ContainsAny(a, " \t") {
				fmt.Fprintf(&b, "alias %s %s\n", a, m.name)
			}
		}
		fmt.Fprintf(&b, "needs %s\n", strings.Join(append([]string{m.name}, m.needs...), " "))
	}
	return b.Bytes()
}

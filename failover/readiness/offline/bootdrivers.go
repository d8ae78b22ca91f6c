package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// linuxDrivers are what Linux calls the boot drivers that Azure's article
// lists for Windows: vmbus, storvsc, the network card's, and intelide, on
// whose controller Hyper-V's first generation starts. storflt filters for
// Windows, and atapi serves CDs: neither is needed to start Linux.
var linuxDrivers = []string{"hv_vmbus", "hv_storvsc", "hv_netvsc", "ata_piix"}

// afterRoot: it is loaded from the root file system, once that is mounted.
var afterRoot = []string{"hv_netvsc"}

// bootDrivers looks for each driver in each kernel and its initramfs.
func (g *guest) bootDrivers() {
	kernels := g.kernels()
	if len(kernels) == 0 {
		for _, d := range linuxDrivers {
			g.set(d, g.fact("boot drivers", backend.Unknown, "no kernel was found in /boot"))
		}
		return
	}
	with, without, open := map[string][]string{}, map[string][]string{}, map[string][]string{}
	for _, k := range kernels {
		builtin := g.modules("lib/modules/" + k + "/modules.builtin")
		var missing []string
		for _, d := range linuxDrivers {
			if builtin[d] {
				with[d] = append(with[d], "built into kernel "+k)
			} else {
				missing = append(missing, d)
			}
		}
		if len(missing) == 0 {
			continue
		}
		name, loaded, err := g.initrd(k)
		var later map[string]bool
		for _, d := range missing {
			switch {
			case loaded[d]:
				with[d] = append(with[d], "in /"+name)
				continue
			case slices.Contains(afterRoot, d):
				if later == nil {
					later = g.modules("lib/modules/" + k + "/modules.dep")
				}
				if later[d] {
					with[d] = append(with[d], "in /lib/modules/"+k)
					continue
				}
			}
			if err != nil {
				open[d] = append(open[d], err.Error())
			} else {
				without[d] = append(without[d], "not in "+name)
			}
		}
	}
	for _, d := range linuxDrivers {
		all := strings.Join(append(slices.Clone(with[d]), append(without[d], open[d]...)...), "; ")
		answer := backend.Unknown
		switch {
		case len(open[d]) == 0 && len(without[d]) == 0:
			answer = backend.Yes
		case len(open[d]) == 0 && len(with[d]) == 0:
			answer = backend.No
		case len(with[d]) > 0:
			all += ": which kernel starts can't be told"
		}
		g.set(d, g.fact("driver "+d, answer, "%s", all))
	}
}

func (g *guest) set(driver string, f backend.Fact) {
	if g.facts.BootDrivers == nil {
		g.facts.BootDrivers = map[string]backend.Fact{}
	}
	g.facts.BootDrivers[driver] = f
}

// maxKernels that are looked at: the newest by name, if there are more.
const maxKernels = 6

// kernels lists the versions that are in /boot. The rescue kernel of RHEL's is
// none that starts by itself.
func (g *guest) kernels() []string {
	var list []string
	for _, name := range g.glob("boot", "vmlinuz-*") {
		if v := strings.TrimPrefix(path.Base(name), "vmlinuz-"); !strings.Contains(v, "rescue") {
			list = append(list, v)
		}
	}
	if len(list) > maxKernels {
		g.unknown("boot drivers: %d kernels, of which %d were looked at", len(list), maxKernels)
		list = list[len(list)-maxKernels:]
	}
	return list
}

var moduleName = regexp.MustCompile(`(?:^|/)([^/]+)\.ko(?:\.(?:gz|xz|zst|bz2|lzma))?$`)

// module is the name of a driver that a path is of; "" if of none.
func module(name string) string {
	m := moduleName.FindStringSubmatch(name)
	if m == nil {
		return ""
	}
	return strings.ReplaceAll(m[1], "-", "_")
}

// modules lists those that a file of depmod's names.
func (g *guest) modules(name string) map[string]bool {
	list := map[string]bool{}
	text, _ := g.text(name)
	for _, l := range lines(text) {
		l, _, _ = strings.Cut(l, ":")
		if m := module(l); m != "" {
			list[m] = true
		}
	}
	return list
}

// initrd lists the drivers in a kernel's initramfs.
func (g *guest) initrd(kernel string) (name string, loaded map[string]bool, err error) {
	for _, name = range []string{"boot/initrd.img-" + kernel, "boot/initramfs-" + kernel + ".img", "boot/initrd-" + kernel, "boot/initramfs-" + kernel} {
		f, err := g.tree.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return name, nil, fmt.Errorf("/%s: %w", name, err)
		}
		defer f.Close()
		loaded = map[string]bool{}
		err = initramfs(f, func(n string) {
			if m := module(n); m != "" {
				loaded[m] = true
			}
		})
		if err != nil {
			err = fmt.Errorf("/%s: %w", name, err)
		}
		return name, loaded, err
	}
	return "", nil, fmt.Errorf("kernel %s has no initramfs in /boot", kernel)
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// drivers are the kernel modules of the initramfs, by what they say they
// drive. Only what the hardware asks for is loaded: each costs its signature's
// check, which is slow under emulation.
type drivers struct {
	dir    string
	alias  map[string][][2]string // by bus, which is in front of the colon: pattern, module
	needs  map[string][]string
	loaded map[string]bool
	seen   map[string]bool // aliases of hardware that were looked up
}

// readDrivers reads the list that the builder wrote: "alias pattern module"
// and "needs module other...", with the others in the order of loading.
func readDrivers(dir string) (*drivers, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "list"))
	if err != nil {
		return nil, err
	}
	d := &drivers{dir: dir, alias: map[string][][2]string{}, needs: map[string][]string{}, loaded: map[string]bool{}, seen: map[string]bool{}}
	for line := range strings.Lines(string(raw)) {
		switch words := strings.Fields(line); {
		case len(words) == 3 && words[0] == "alias":
			b := bus(words[1])
			d.alias[b] = append(d.alias[b], [2]string{words[1], words[2]})
		case len(words) >= 2 && words[0] == "needs":
			d.needs[words[1]] = words[2:]
		}
	}
	return d, nil
}

// bus is what an alias begins with; ACPI's patterns are "acpi*:...".
func bus(alias string) string {
	name, _, _ := strings.Cut(alias, ":")
	return strings.TrimSuffix(name, "*")
}

// load loads what hardware asks for that was not there before. A driver shows
// more hardware, so it goes on until none is new.
func (d *drivers) load() error {
	for {
		files, _ := filepath.Glob("/sys/bus/*/devices/*/modalias")
		inputs, _ := filepath.Glob("/sys/class/input/*/modalias")
		news := false
		for _, f := range append(files, inputs...) {
			raw, err := os.ReadFile(f)
			asks := strings.TrimSpace(string(raw))
			if err != nil || asks == "" || d.seen[asks] {
				continue
			}
			d.seen[asks], news = true, true
			for _, a := range d.alias[bus(asks)] {
				if ok, _ := path.Match(a[0], asks); !ok {
					continue
				}
				if err := d.insert(a[1]); err != nil {
					return err
				}
			}
		}
		if !news {
			return nil
		}
	}
}

func (d *drivers) insert(name string) error {
	if d.loaded[name] {
		return nil
	}
	d.loaded[name] = true
	for _, n := range d.needs[name] {
		if err := d.insert(n); err != nil {
			return err
		}
	}
	f, err := os.Open(filepath.Join(d.dir, name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("driver %s: %w", name, err)
	}
	return nil
}

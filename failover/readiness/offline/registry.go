package offline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/internal/regf"
)

// registry is the two hives of a Windows that facts are in.
type registry struct {
	g                *guest
	system, software *regf.Hive
	control          string // "ControlSet001"
	dirty            string // what is said with every answer from a dirty hive
}

const configDir = "Windows/System32/config/"

// hive opens one; nil with a line if it can't be read.
func (g *guest) hive(name string) *regf.Hive {
	f, err := g.tree.Open(configDir + name)
	if err != nil {
		g.unknown("hive %s: %v", name, err)
		return nil
	}
	in, err := f.Stat()
	if err == nil {
		var h *regf.Hive
		if h, err = regf.Open(f.(io.ReaderAt), in.Size()); err == nil {
			return h
		}
	}
	g.unknown("hive %s: %v", name, err)
	return nil
}

// value reads one of a key's. ok is false if it isn't there; what can't be
// read is noted, and err tells it.
func (r *registry) value(h *regf.Hive, key, name string) (v regf.Value, ok bool, err error) {
	if h == nil {
		return v, false, errors.New("the hive can't be read")
	}
	k, err := h.Key(key)
	if err == nil {
		v, err = k.Value(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return v, false, nil
	}
	if err != nil {
		r.g.unknown(`%s\%s: %v`, key, name, err)
	}
	return v, err == nil, err
}

// number reads a DWORD.
func (r *registry) number(h *regf.Hive, key, name string) (n uint32, ok bool, err error) {
	v, ok, err := r.value(h, key, name)
	if err != nil || !ok {
		return 0, false, err
	}
	if n, ok = v.Number(); !ok {
		return 0, false, fmt.Errorf(`%s\%s is no number`, key, name)
	}
	return n, true, nil
}

func (r *registry) text(h *regf.Hive, key, name string) string {
	v, _, _ := r.value(h, key, name)
	return v.Text()
}

// has reports whether a key is there.
func (r *registry) has(h *regf.Hive, key string) (bool, error) {
	if h == nil {
		return false, errors.New("the hive can't be read")
	}
	_, err := h.Key(key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// fact makes an answer, which says so if the hives were being written.
func (r *registry) fact(what string, a backend.Answer, format string, args ...any) backend.Fact {
	return r.g.fact(what, a, "%s%s", fmt.Sprintf(format, args...), r.dirty)
}

// open finds the hives and the control set that the next start takes.
func (g *guest) registry() *registry {
	r := &registry{g: g, system: g.hive("SYSTEM"), software: g.hive("SOFTWARE")}
	var dirty []string
	for _, h := range []struct {
		name string
		h    *regf.Hive
	}{{"SYSTEM", r.system}, {"SOFTWARE", r.software}} {
		if h.h != nil && h.h.Dirty {
			dirty = append(dirty, h.name)
		}
	}
	if len(dirty) > 0 {
		hives := strings.Join(dirty, " and ")
		r.dirty = " (hive " + hives + " was being written: its logs may change that)"
		g.unknown("hive %s was being written, and its logs were not played back", hives)
	}
	// Default is what the next start takes, Current what the last one took.
	for _, name := range []string{"Default", "Current"} {
		if n, ok, _ := r.number(r.system, "Select", name); ok && n > 0 && n < 1000 {
			r.control = fmt.Sprintf("ControlSet%03d", n)
			return r
		}
	}
	r.control = "ControlSet001"
	g.unknown(`Select\Default can't be read: what is said is of %s`, r.control)
	return r
}

func (r *registry) services(name string) string { return r.control + `\Services\` + name }

// starts names how a service starts; ok is false if there is none.
func (r *registry) start(service string) (n uint32, ok bool, err error) {
	return r.number(r.system, r.services(service), "Start")
}

var startNames = []string{"boot", "system", "automatic", "manual", "disabled"}

func startName(n uint32) string {
	if int(n) < len(startNames) {
		return startNames[n]
	}
	return fmt.Sprint(n)
}

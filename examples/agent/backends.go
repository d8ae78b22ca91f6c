package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
)

// kind opens a backend by what stands behind its name in --backend. The closer
// may be nil.
type kind func(what string, log *slog.Logger) (backend.Backend, io.Closer, error)

// everywhere are those that every system has; a system's own are in osKinds.
var everywhere = map[string]kind{"physical": openPhysical, "self": openSelf}

func registry() map[string]kind {
	all := maps.Clone(everywhere)
	maps.Copy(all, osKinds)
	return all
}

func kinds() string { return strings.Join(slices.Sorted(maps.Keys(registry())), ", ") }

// open opens the backend that a specification names, "physical:/srv/machines".
func open(spec string, log *slog.Logger) (backend.Backend, io.Closer, error) {
	name, what, _ := strings.Cut(spec, ":")
	k, ok := registry()[name]
	if !ok {
		return nil, nil, wrongUsage("--backend %q: there is no kind %q here", spec, name)
	}
	b, c, err := k(what, log)
	if err != nil {
		return nil, nil, fmt.Errorf("backend %s: %w", name, err)
	}
	return b, c, nil
}

// openPhysical takes a file with a physical.Config as JSON, or a folder: each
// folder in it is a machine, by its name, and each file *.img there a disk. The
// first disk, by name, is the one that it boots from. The agent's own state is
// beside them, in a folder that begins with a dot.
func openPhysical(what string, log *slog.Logger) (backend.Backend, io.Closer, error) {
	if what == "" {
		return nil, nil, wrongUsage("--backend physical: want a folder or a file behind it")
	}
	info, err := os.Stat(what)
	if err != nil {
		return nil, nil, err
	}
	var f machinesFile
	if info.IsDir() {
		f.Config, err = fromFolder(what)
	} else {
		f, err = fromFile(what)
	}
	if err != nil {
		return nil, nil, err
	}
	f.Log = log
	return f.open(f.Config, f.Track != nil && *f.Track, log)
}

// machinesFile is the file behind "physical:".
type machinesFile struct {
	live
	physical.Config
}

func fromFile(path string) (machinesFile, error) {
	var f machinesFile
	err := readFile(path, &f)
	if err == nil && f.Root == "" {
		err = errors.New(`it has no "root"`)
	}
	return f, err
}

// readFile reads a file of settings. What it doesn't know it refuses: "disk" for
// "disks" must not mean all of them.
func readFile(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%s: there is more behind the settings", path)
	}
	return nil
}

// open opens a host with what it takes to capture its machines while they run.
func (l live) open(cfg physical.Config, track bool, log *slog.Logger) (backend.Backend, io.Closer, error) {
	var c closers
	if track {
		c = append(c, l.track(&cfg, log))
	}
	if l.Snapshots {
		cfg.Snapshots = physical.Reflink{}
	}
	h, err := physical.Open(cfg)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return h, append(closers{h}, c...), nil
}

func fromFolder(dir string) (physical.Config, error) {
	cfg := physical.Config{Root: filepath.Join(dir, ".lifeboat")}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return cfg, err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		disks, err := filepath.Glob(filepath.Join(dir, e.Name(), "*.img"))
		if err != nil {
			return cfg, err
		}
		if len(disks) == 0 {
			continue
		}
		m := physical.Machine{ID: machineID(e.Name()), Name: e.Name(), Power: "off"}
		for i, path := range disks {
			id := strings.TrimSuffix(filepath.Base(path), ".img")
			m.Disks = append(m.Disks, physical.Disk{ID: diskID(id), Path: path, Boot: i == 0})
		}
		cfg.Machines = append(cfg.Machines, m)
	}
	return cfg, nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// sitesFile is what -sites names: a file, or a folder whose *.json files are
// read as one.
type sitesFile struct {
	Sites    map[string]siteSpec  `json:"sites"`
	Policies replication.Policies `json:"policies,omitempty"` // beside the presets
	// Areas and Generation are the fleet's layout, for -fleet where not every
	// worker reaches every site.
	Areas      []fleet.Area `json:"areas,omitempty"`
	Generation uint64       `json:"generation,omitempty"`
}

// siteSpec says of what kind a site's platform and its store of points are;
// the rest of each object is that kind's own.
type siteSpec struct {
	Machines json.RawMessage `json:"machines"`
	Points   json.RawMessage `json:"points"`

	file string // from whose folder its paths are told
}

// readSites reads the file and checks all of it that can be checked without
// reaching anything: every mistake is told, not only the first.
func readSites(path string) (sitesFile, error) {
	all := sitesFile{Sites: map[string]siteSpec{}, Policies: replication.Policies{}}
	names := []string{path}
	if info, err := os.Stat(path); err != nil {
		return all, err
	} else if info.IsDir() {
		there, err := os.ReadDir(path) // a glob takes a folder that can't be read for an empty one
		if err != nil {
			return all, err
		}
		names = nil
		for _, e := range there {
			if filepath.Ext(e.Name()) == ".json" && !strings.HasPrefix(e.Name(), ".") {
				names = append(names, filepath.Join(path, e.Name()))
			}
		}
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, all.add(name))
	}
	if len(all.Sites) == 0 && errors.Join(errs...) == nil {
		errs = append(errs, fmt.Errorf("%w: %s names no site, in %d files", dr.ErrInvalid, path, len(names)))
	}
	return all, errors.Join(errs...)
}

func (all *sitesFile) add(name string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var f sitesFile
	if err := strict(raw, &f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var errs []error
	for _, site := range slices.Sorted(maps.Keys(f.Sites)) {
		s := f.Sites[site]
		s.file = name
		if _, dup := all.Sites[site]; dup || site == "" {
			errs = append(errs, fmt.Errorf("%w: %s: site %q is there already, or has no name", dr.ErrInvalid, name, site))
		}
		for what, check := range map[string]error{"machines": checkKind(s.Machines, machineKinds), "points": checkKind(s.Points, pointKinds)} {
			if check != nil {
				errs = append(errs, fmt.Errorf("%s: site %s: %s: %w", name, site, what, check))
			}
		}
		all.Sites[site] = s
	}
	maps.Copy(all.Policies, f.Policies)
	all.Areas, all.Generation = append(all.Areas, f.Areas...), max(all.Generation, f.Generation)
	return errors.Join(errs...)
}

func checkKind[K any](raw json.RawMessage, known map[string]K) error {
	kind, err := kindOf(raw)
	if err != nil {
		return err
	}
	if _, ok := known[kind]; !ok {
		return fmt.Errorf("%w: there is no kind %q here, but %s", dr.ErrInvalid, kind, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	return nil
}

func kindOf(raw json.RawMessage) (string, error) {
	var k struct {
		Kind string `json:"kind"`
	}
	if len(raw) == 0 {
		return "", fmt.Errorf("%w: is missing", dr.ErrInvalid)
	}
	if err := json.Unmarshal(raw, &k); err != nil {
		return "", fmt.Errorf("%w: %v", dr.ErrInvalid, err)
	}
	return k.Kind, nil
}

// strict refuses what it doesn't know: a misspelt setting must not be no
// setting.
func strict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		line := 1 + bytes.Count(raw[:d.InputOffset()], []byte("\n"))
		return fmt.Errorf("%w: in or after line %d: %v", dr.ErrInvalid, line, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: there is more behind the settings", dr.ErrInvalid)
	}
	return nil
}

// openSite reaches a site. What it opened is closed by the closer.
func openSite(ctx context.Context, s siteSpec, log *slog.Logger) (replication.Site, io.Closer, error) {
	kind, err := kindOf(s.Machines)
	if err != nil {
		return replication.Site{}, nil, err
	}
	at := place{folder: filepath.Dir(s.file), log: log}
	b, closeBackend, err := machineKinds[kind](ctx, s.Machines, at)
	if err != nil {
		return replication.Site{}, nil, fmt.Errorf("%s: machines: %w", s.file, err)
	}
	all := closers{closeBackend}
	if kind, err = kindOf(s.Points); err != nil {
		return replication.Site{}, nil, errors.Join(err, all.Close())
	}
	p, closePoints, err := pointKinds[kind](ctx, s.Points, at)
	if err != nil {
		return replication.Site{}, nil, errors.Join(fmt.Errorf("%s: points: %w", s.file, err), all.Close())
	}
	return replication.Site{Backend: b, Points: p}, append(all, closePoints), nil
}

// nobody is the machine that probes ask for.
const nobody = dr.MachineID("readiness-probe")

// probeSite reports whether both ends of a site answer.
func probeSite(ctx context.Context, s replication.Site) error {
	return errors.Join(probeMachines(ctx, s.Backend), probePoints(ctx, s.Points))
}

func probeMachines(ctx context.Context, b backend.Source) error {
	if _, err := b.Machine(ctx, nobody); err != nil && !errors.Is(err, dr.ErrNotFound) {
		return fmt.Errorf("machines: %w", err)
	}
	return nil
}

func probePoints(ctx context.Context, s recoverypoint.PointStore) error {
	if p, ok := s.(probed); ok {
		if err := p.probe(ctx); err != nil {
			return fmt.Errorf("points: %w", err)
		}
		return nil
	}
	for _, err := range s.List(ctx, nobody) {
		if err != nil {
			return fmt.Errorf("points: %w", err)
		}
	}
	return nil
}

// closers are closed last first; nil ones are left out.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, x := range slices.Backward(c) {
		if x != nil {
			errs = append(errs, x.Close())
		}
	}
	return errors.Join(errs...)
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// readSecret reads a file that holds a secret and nothing else. The error names
// the file, never its content.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if loose(info.Mode()) {
		return nil, fmt.Errorf("%w: %s can be read by others: chmod 600 it", fs.ErrPermission, path)
	}
	raw, err := os.ReadFile(path)
	raw = bytes.TrimSpace(raw)
	if err == nil && len(raw) == 0 {
		err = fmt.Errorf("%w: %s is empty", dr.ErrInvalid, path)
	}
	return raw, err
}

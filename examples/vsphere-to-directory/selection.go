package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// selection says which machines are meant.
type selection struct {
	machines                []string // names or instance UUIDs
	names, folders, exclude several
	all                     bool
	datacenter              string
}

func (s *selection) flags(fs *flag.FlagSet) {
	fs.Var(&s.names, "name", "")
	fs.Var(&s.folders, "folder", "")
	fs.Var(&s.exclude, "exclude", "")
	fs.BoolVar(&s.all, "all", false, "")
	fs.StringVar(&s.datacenter, "dc", os.Getenv("GOVC_DATACENTER"), "")
}

func (s *selection) empty() bool {
	return len(s.machines)+len(s.names)+len(s.folders) == 0 && !s.all
}

func (s *selection) validate() error {
	for _, p := range slices.Concat(s.names, s.exclude) {
		if _, err := path.Match(p, ""); err != nil {
			return wrongUsage("the pattern %q makes no sense: a '[' without ']', or a '\\' at its end", p)
		}
	}
	if s.all && len(s.names)+len(s.folders) > 0 {
		return wrongUsage("--all can't be given together with --name or --folder")
	}
	return nil
}

var instanceUUID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// find returns the machines, ordered by name. It is an error if a machine that
// was named isn't there, or if there is none at all.
func (s *selection) find(ctx context.Context, v *vmware.VSphere) ([]dr.Machine, error) {
	found := map[dr.MachineID]dr.Machine{}
	for _, name := range s.machines {
		m, err := s.one(ctx, v, name)
		if err != nil {
			return nil, err
		}
		found[m.ID] = m
	}
	if len(s.machines) == 0 || len(s.names)+len(s.folders) > 0 || s.all {
		all, err := s.fitting(ctx, v, s.names, s.folders)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			if !slices.ContainsFunc(s.exclude, func(p string) bool { ok, _ := path.Match(p, m.Name); return ok }) {
				found[m.ID] = m
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: no machine fits that the account may see; --list without --name and --folder prints all", dr.ErrNotFound)
	}
	return slices.SortedFunc(maps.Values(found), func(a, b dr.Machine) int {
		return strings.Compare(a.Name+"\x00"+string(a.ID), b.Name+"\x00"+string(b.ID))
	}), nil
}

func (s *selection) fitting(ctx context.Context, v *vmware.VSphere, names, folders []string) ([]dr.Machine, error) {
	f := vmware.Filter{Names: names, Folders: folders}
	if s.datacenter != "" {
		f.Datacenters = []string{datacenter(s.datacenter)}
	}
	var all []dr.Machine
	for m, err := range v.List(ctx, f) {
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// one finds a machine by what somebody calls it.
func (s *selection) one(ctx context.Context, v *vmware.VSphere, name string) (dr.Machine, error) {
	if instanceUUID.MatchString(name) {
		return v.Machine(ctx, dr.MachineID(strings.ToLower(name)))
	}
	exactly := strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(name)
	all, err := s.fitting(ctx, v, []string{exactly}, nil)
	switch {
	case err != nil:
		return dr.Machine{}, err
	case len(all) == 0:
		return dr.Machine{}, fmt.Errorf("machine %q: %w: --list prints those that the account sees", name, dr.ErrNotFound)
	case len(all) > 1:
		ids := make([]string, len(all))
		for i, m := range all {
			ids[i] = string(m.ID)
		}
		slices.Sort(ids)
		return dr.Machine{}, fmt.Errorf("machine %q: %w: several have the name; give the instance UUID instead: %s", name, dr.ErrAmbiguous, strings.Join(ids, ", "))
	}
	return all[0], nil
}

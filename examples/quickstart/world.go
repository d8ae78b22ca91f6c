package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// The two sites, and the machine that is protected.
const (
	hq, refuge = "hq", "refuge"
	app        = dr.MachineID("app1")
	protection = dr.ProtectionID("app1")
)

// world is everything that a program which embeds Lifeboat has to set up.
type world struct {
	dir    string
	sites  map[string]*site
	engine *embedded.Engine
	env    *replication.Env
	stop   context.CancelFunc
	served chan error
	screen *screen
}

// site is a host and a store, and the guests that run there.
type site struct {
	host   *physical.Host
	vault  *vault.Store
	guests *guests
}

func open(dir string, size int64) (w *world, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	w = &world{dir: dir, sites: map[string]*site{}, screen: newScreen(os.Stdout)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := os.MkdirAll(w.path("witness"), 0o700); err != nil {
		return w, err
	}
	if err := os.MkdirAll(w.path("machine"), 0o700); err != nil {
		return w, err
	}
	if err := makeDisks(w.path("machine"), size); err != nil {
		return w, err
	}
	for _, name := range []string{hq, refuge} {
		if w.sites[name], err = w.openSite(name); err != nil {
			return w, err
		}
	}
	// One file holds the journal, the records and the claims.
	w.engine, err = embedded.Open(w.path("lifeboat.db"), embedded.Options{})
	if err != nil {
		return w, err
	}
	w.env = &replication.Env{
		Records: w.engine,
		Sites: replication.Sites{
			hq:     {Backend: w.sites[hq].host, Points: w.sites[hq].vault},
			refuge: {Backend: w.sites[refuge].host, Points: w.sites[refuge].vault},
		},
	}
	actions, err := dr.Merge(replication.Actions(w.env), failover.Actions(w.env), failback.Actions(w.env), w.ownActions())
	if err != nil {
		return w, err
	}
	if err := w.bootGuests(); err != nil {
		return w, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop, w.served = stop, make(chan error, 1)
	go func() { w.served <- w.engine.Serve(ctx, actions) }()
	return w, nil
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *world) openSite(name string) (*site, error) {
	s := &site{guests: newGuests(name, w.path("witness"))}
	cfg := physical.Config{
		Root: w.path(name, "machines"), Hooks: s.guests.hooks(), Tracker: s.guests.tracker,
		LastPass: 4 << 20,
	}
	if name == hq {
		cfg.Machines = []physical.Machine{{ID: app, Name: "app1", OS: "linux", Power: dr.On, Disks: []physical.Disk{
			{ID: rootDisk, Path: w.path("machine", "root.img"), Boot: true},
			{ID: dataDisk, Path: w.path("machine", "data.img")},
		}}}
	}
	// The same file system everywhere: its blocks are where they were made.
	var err error
	if s.guests.regions, err = payloadRegions(w.path("machine", "root.img")); err != nil {
		return nil, err
	}
	if s.host, err = physical.Open(cfg); err != nil {
		return nil, err
	}
	s.vault, err = vault.OpenDir(w.path(name, "vault"), vault.Options{})
	return s, err
}

// bootGuests starts the guests of machines that ran when this program ended,
// as a computer does after a power cut.
func (w *world) bootGuests() error {
	for _, s := range w.sites {
		for m, err := range s.host.Machines(context.Background()) {
			if err != nil {
				return err
			}
			if m.Power != dr.On {
				continue
			}
			paths, err := s.host.Paths(m.ID)
			if err != nil {
				return err
			}
			if err := s.guests.start(context.Background(), physical.Event{Machine: m, Paths: paths}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *world) close() (err error) {
	if w == nil {
		return nil
	}
	if w.stop != nil {
		w.stop()
		if e := <-w.served; !errors.Is(e, context.Canceled) {
			err = e
		}
	}
	for _, s := range w.sites {
		if s == nil {
			continue
		}
		s.guests.haltAll()
		if s.vault != nil {
			err = errors.Join(err, s.vault.Close())
		}
		if s.host != nil {
			err = errors.Join(err, s.host.Close())
		}
	}
	if w.engine != nil {
		err = errors.Join(err, w.engine.Close())
	}
	return err
}

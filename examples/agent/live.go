package main

import (
	"cmp"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/bpftrack"
	"github.com/lifeboat-dr/lifeboat/backend/physical/fsfreeze"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// live is how machines that run are captured; it is part of the file behind
// "self:" and "physical:".
type live struct {
	// Track has the kernel note what is written to block devices, so that only
	// that is read. The default is true for self.
	Track *bool `json:"track,omitempty"`
	// Pins and TrackState are where the tracking outlives the agent: a folder of
	// a BPF file system and one of a tmpfs.
	Pins       string `json:"pins,omitempty"`
	TrackState string `json:"trackState,omitempty"`
	// TrackMemory bounds what the tracking takes, in bytes; 0: 256 MiB, which is
	// enough for some 100 TiB.
	TrackMemory int64 `json:"trackMemory,omitempty"`
	// Scripts is a folder of programs that prepare applications; see
	// fsfreeze.Scripts, and the folder hooks beside this program.
	Scripts string `json:"scripts,omitempty"`
	// Ignore are block devices that need not be held, though they are on the
	// machine's disks; see fsfreeze.Options.
	Ignore []string `json:"ignore,omitempty"`
	// Snapshots clones image files while the machine is frozen, where their
	// file system can (btrfs, XFS), so that the freeze is short.
	Snapshots bool `json:"snapshots,omitempty"`
}

// The defaults of live; agent.service makes these folders, or those above them.
const (
	defaultPins       = "/sys/fs/bpf/lifeboat"
	defaultTrackState = "/run/lifeboat/tracking"
	defaultScripts    = "/etc/lifeboat/hooks.d"
	// prepareLimit is for databases that write out what they have before
	// anything is frozen.
	prepareLimit = 5 * time.Minute
)

// track gives the host a tracker. Where the kernel doesn't let us, cycles compare
// sums, and preflight says so: that is no reason not to serve.
func (l live) track(cfg *physical.Config, log *slog.Logger) io.Closer {
	o := bpftrack.Options{Pins: cmp.Or(l.Pins, defaultPins), State: cmp.Or(l.TrackState, defaultTrackState), Memory: l.TrackMemory, Log: log}
	t, err := bpftrack.Open(o)
	if err != nil && !errors.Is(err, dr.ErrUnsupported) && !errors.Is(err, dr.ErrBusy) {
		log.Warn("what is written won't be known after the agent's next start", "why", err)
		o.Pins, o.State = "", ""
		t, err = bpftrack.Open(o)
	}
	if err != nil {
		log.Warn("what is written isn't tracked: each cycle compares whole disks", "why", err)
		return nil
	}
	// What an earlier start has pinned for others would cost their writes and our
	// memory until the next boot.
	for _, r := range t.Health() {
		if !slices.ContainsFunc(cfg.Machines, func(m physical.Machine) bool { return m.ID == r.Machine }) {
			if err := t.Untrack(r.Machine); err != nil {
				log.Warn("a machine that is no longer here is still tracked", "machine", r.Machine, "why", err)
			}
		}
	}
	for _, m := range cfg.Machines {
		if err := t.Track(m); err != nil {
			log.Warn("what is written isn't tracked everywhere: each cycle compares those disks", "why", err)
		}
	}
	cfg.Tracker = t
	return t
}

// freeze holds the file systems of this very machine. Commands of the file go
// before it.
func (l live) freeze(cfg *physical.Config, log *slog.Logger) {
	if len(cfg.Commands.Freeze) > 0 {
		return
	}
	// The agent's state needs no naming: the host doesn't write it meanwhile.
	o := fsfreeze.Options{Scripts: fsfreeze.Scripts{Dir: cmp.Or(l.Scripts, defaultScripts)}, Ignore: l.Ignore, Log: log}
	if cfg.FreezeLimit > 0 {
		o.Limit = cfg.FreezeLimit + 15*time.Second
	}
	cfg.Hooks.Freeze, cfg.Hooks.Thaw = fsfreeze.Hooks(o)
	if cfg.Freezes == 0 {
		cfg.Freezes = dr.ApplicationConsistent // the hook lowers it where it has to
	}
	if cfg.PrepareLimit == 0 {
		cfg.PrepareLimit = prepareLimit
	}
}

// closers closes one after the other.
type closers []io.Closer

func (c closers) Close() (err error) {
	for _, x := range c {
		if x != nil {
			err = errors.Join(err, x.Close())
		}
	}
	return err
}

package physical

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// LVM is a [Snapshotter] of disks that are logical volumes, as a host has them
// for its virtual machines. (Of a disk that is below LVM no snapshot can be
// made.) It runs lvs, lvcreate and lvremove as their manuals say
// (https://man7.org/linux/man-pages/man8/lvcreate.8.html), and needs free room in
// the volume group: a snapshot that is full is lost, and reading it then fails.
//
// It was built against those commands' documentation and is tested with
// programs in their place; it was never run on a real volume.
type LVM struct {
	// Room is what a snapshot may take of a volume that isn't thin, as
	// lvcreate's --extents has it; "": "20%ORIGIN".
	Room string
	// Run runs a command and returns its standard output; nil: as it is
	// installed here.
	Run func(ctx context.Context, argv ...string) ([]byte, error)
}

var _ Snapshotter = LVM{}

func (l LVM) run(ctx context.Context, argv ...string) (string, error) {
	run := l.Run
	if run == nil {
		run = runLVM
	}
	out, err := run(ctx, argv...)
	return strings.TrimSpace(string(out)), err
}

func runLVM(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	wrong := &clipped{}
	cmd.Stderr = wrong
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", argv[0], err, wrong)
	}
	return out, err
}

// volume asks for the volume group of a path, and whether it is thin.
func (l LVM) volume(ctx context.Context, path string) (group, name string, thin bool, err error) {
	out, err := l.run(ctx, "lvs", "--noheadings", "--separator", "|", "-o", "vg_name,lv_name,segtype", "--", path)
	if err != nil {
		return "", "", false, err
	}
	// A line for each segment: a volume that was extended has several.
	for line := range strings.Lines(out) {
		fields := strings.Split(line, "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		if len(fields) != 3 || name != "" && (fields[0] != group || fields[1] != name) {
			return "", "", false, fmt.Errorf("%w: lvs said %q of %s", dr.ErrUnsupported, out, path)
		}
		group, name, thin = fields[0], fields[1], fields[2] == "thin"
	}
	if name == "" {
		return "", "", false, fmt.Errorf("%w: lvs said nothing of %s", dr.ErrUnsupported, path)
	}
	return group, name, thin, nil
}

// Takes implements [Snapshotter].
func (l LVM) Takes(ctx context.Context, path string) error {
	if _, _, _, err := l.volume(ctx, path); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: %s is no logical volume: %w", dr.ErrUnsupported, path, err)
	}
	return nil
}

// Snapshot implements [Snapshotter]. The volume group's description is not
// backed up meanwhile: that would be written where it may be frozen.
func (l LVM) Snapshot(ctx context.Context, s Snapshot) (string, error) {
	group, origin, thin, err := l.volume(ctx, s.Of)
	if err != nil {
		return "", err
	}
	argv := []string{"lvcreate", "--quiet", "--autobackup", "n", "--permission", "r", "--setactivationskip", "n", "--snapshot", "--name", s.Name}
	if !thin {
		room := l.Room
		if room == "" {
			room = "20%ORIGIN"
		}
		argv = append(argv, "--extents", room)
	}
	argv = append(argv, "--", group+"/"+origin)
	if _, err := l.run(ctx, argv...); err != nil {
		// Perhaps because a crash has left one.
		if gone := l.Remove(ctx, s); gone != nil {
			return "", errors.Join(err, gone)
		}
		if _, err := l.run(ctx, argv...); err != nil {
			return "", err
		}
	}
	return "/dev/" + group + "/" + s.Name, nil
}

// Remove implements [Snapshotter]. It is found by its name, as its origin may be
// gone.
func (l LVM) Remove(ctx context.Context, s Snapshot) error {
	out, err := l.run(ctx, "lvs", "--noheadings", "-o", "lv_full_name", "--select", "lv_name="+s.Name)
	if err != nil || out == "" {
		return err
	}
	for path := range strings.FieldsSeq(out) {
		if _, err := l.run(ctx, "lvremove", "--quiet", "--yes", "--autobackup", "n", "--", path); err != nil {
			return err
		}
	}
	return nil
}

package hyperv

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// While a draft writes to a machine's disks their files have other names, so
// that nobody can start the machine, by whatever tool: Hyper-V finds no file. A
// crash leaves it so. The record alone would keep only us from starting it.

// tornName is the name of a disk's file meanwhile: "disk.torn.vhdx".
func tornName(path string) string {
	dot := strings.LastIndexByte(path, '.')
	if dot <= strings.LastIndexByte(path, '\\') {
		return path + ".torn"
	}
	return path[:dot] + ".torn" + path[dot:]
}

// untear takes a mark back before anything was written: what kept the files from
// being renamed, or a cancellation, is no reason to leave a machine torn that is
// whole.
func (v *HyperV) untear(ctx context.Context, m *machine, was record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := m.show(ctx); err != nil {
		return err
	}
	for _, d := range m.disks { // of the one at which it ended
		if err := m.node.moveCompanions(ctx, tornName(d.path), d.path); err != nil {
			return err
		}
	}
	return v.save(ctx, m, was)
}

// companions are files that change tracking keeps beside a disk's.
var companions = []string{".rct", ".mrt"}

// hide renames the disks' files. It may be repeated.
func (m *machine) hide(ctx context.Context) error {
	for i := range m.disks {
		d := &m.disks[i]
		if d.missing != nil {
			return d.missing
		}
		if d.at != d.path {
			continue
		}
		if err := m.node.move(ctx, d.path, tornName(d.path)); err != nil {
			return err
		}
		d.at = tornName(d.path)
	}
	return nil
}

// show gives the disks' files their names again. It may be repeated.
func (m *machine) show(ctx context.Context) error {
	for i := range m.disks {
		d := &m.disks[i]
		if d.missing != nil {
			return d.missing
		}
		if d.at == d.path {
			continue
		}
		if err := m.node.move(ctx, d.at, d.path); err != nil {
			return err
		}
		d.at = d.path
	}
	return nil
}

// move renames a disk's file with its companions. The disk itself comes last:
// it says whether there is more to do.
func (n *node) move(ctx context.Context, from, to string) error {
	if err := n.moveCompanions(ctx, from, to); err != nil {
		return err
	}
	return n.disks.Rename(ctx, from, to)
}

// moveCompanions renames what is there. A companion that has the name already was
// renamed by one who was cut off; Hyper-V has made another since, for the disk.
func (n *node) moveCompanions(ctx context.Context, from, to string) error {
	for _, c := range companions {
		err := n.disks.Rename(ctx, from+c, to+c)
		if errors.Is(err, host.ErrExists) {
			if err = n.disks.Remove(ctx, to+c); err == nil {
				err = n.disks.Rename(ctx, from+c, to+c)
			}
		}
		if err != nil && !errors.Is(err, host.ErrNotFound) {
			return err
		}
	}
	return nil
}

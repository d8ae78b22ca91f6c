package hyperv

import (
	"context"
	"errors"
	"strings"

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
	for _, c := range companions {
		if err := n.disks.Rename(ctx, from+c, to+c); err != nil && !errors.Is(err, host.ErrNotFound) {
			return err
		}
	}
	return n.disks.Rename(ctx, from, to)
}

package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Remove implements backend.Target: a machine that Prepare made goes with its
// disks, checkpoints and folder; disks that somebody else attached to it stay.
// Any other machine is left, and that is no error.
//
// The files go first and the machine last: what is cut off in between still has
// its record, and the next call goes on.
func (v *HyperV) Remove(ctx context.Context, id dr.MachineID) error {
	err := v.heeding(ctx, id, func(m *machine) error {
		if !m.record.Made {
			return nil
		}
		if err := m.powerOff(ctx); err != nil {
			return err
		}
		err := v.destroy(ctx, m)
		if err == nil {
			v.raised.Delete(m.id)
		}
		return err
	})
	if errors.Is(err, dr.ErrNotFound) { // the machine; what the host lacks besides says host.ErrNotFound
		return nil
	}
	return fail("remove", id, "", -1, err)
}

// destroy removes the files of our own disks, then the machine.
func (v *HyperV) destroy(ctx context.Context, m *machine) error {
	if !m.record.Torn { // with files missing nothing else may start it
		r := m.record
		r.Torn, r.Holds, r.New = true, "", false
		if err := v.save(ctx, m, r); err != nil {
			return err
		}
	}
	folder := m.record.Folder
	times := map[string]int{} // that a virtual disk is attached
	for _, d := range m.disks {
		times[d.uuid]++
	}
	for _, d := range m.disks {
		// Of a file that is missing, and of copies of one disk, the folder tells.
		ours := strings.EqualFold(folderOf(d.path), folder)
		if d.missing == nil {
			ours = m.record.Disks[d.uuid] != "" && (ours || times[d.uuid] == 1)
		}
		if !ours {
			v.options.Log.WarnContext(ctx, "the machine is removed without a disk that is somebody else's", "machine", m.id, "disk", d.id, "file", d.path)
			continue
		}
		chain, err := m.node.chain(ctx, d)
		if err != nil {
			return err
		}
		// From the base up: what is left by a crash is still found by the last.
		for _, path := range slices.Backward(chain) {
			for _, suffix := range append(companions, "") {
				if err := m.node.disks.Remove(ctx, path+suffix); err != nil {
					return err
				}
			}
		}
	}
	if _, err := m.node.call(ctx, m.node.management, "DestroySystem", host.Props{"AffectedSystem": m.system.Path}, output{}); err != nil {
		return err
	}
	if folder == "" {
		return nil
	}
	// What Hyper-V itself made in it goes with it, or stays with what is left.
	for _, name := range []string{`\Virtual Machines`, `\Snapshots`, ""} {
		if err := m.node.disks.Remove(ctx, folder+name); err != nil && !errors.Is(err, host.ErrNotEmpty) {
			v.options.Log.WarnContext(ctx, "a folder is left", "machine", m.id, "folder", folder+name, "error", err)
		}
	}
	return nil
}

// maxChain bounds a chain of files: Hyper-V allows 50 checkpoints.
const maxChain = 128

// chain lists a disk's files, the newest first, by both names that the newest
// may have.
func (n *node) chain(ctx context.Context, d vdisk) ([]string, error) {
	files := []string{d.path, tornName(d.path)}
	for info := d.info; info.Parent != ""; {
		if len(files) > maxChain {
			return nil, fmt.Errorf("%w: the chain of %s has no end", dr.ErrCorrupt, d.path)
		}
		path := info.Parent
		var err error
		if info, err = n.disks.Stat(ctx, path); errors.Is(err, host.ErrNotFound) {
			break
		} else if err != nil {
			return nil, err
		}
		if !strings.EqualFold(info.ID, d.uuid) {
			break // a person's base that others use
		}
		files = append(files, path)
	}
	return files, nil
}

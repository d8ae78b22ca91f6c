package physical

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// Remove implements [backend.Target]. A machine that runs is stopped first.
// Configured machines are left, and so is a replica that Prepare has found as
// an original since it was made: it is somebody's machine now, and whoever
// wants its disks gone deletes its folder while the host is closed.
func (h *Host) Remove(ctx context.Context, id dr.MachineID) error {
	m, err := h.machine("remove", id)
	if errors.Is(err, dr.ErrNotFound) {
		return h.finishRemove(ctx, id)
	}
	if err != nil {
		return err
	}
	rec := m.record()
	if rec == nil || !rec.Made || rec.Original {
		return nil
	}
	if err := h.Stop(ctx, id); err != nil && !errors.Is(err, dr.ErrNotFound) {
		return err
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	fail := func(err error) error { return &dr.Error{Op: "remove", Machine: id, Err: err} }
	if m.record() != nil {
		if err := m.admit(ctx); err != nil {
			return fail(err)
		}
	}
	rec = m.record()
	switch {
	case rec == nil || rec.Original:
		return nil
	case rec.Power != dr.Off:
		return fail(fmt.Errorf("%w: it was started meanwhile", dr.ErrRunning))
	case m.drafting():
		return fail(fmt.Errorf("%w: a draft is open", dr.ErrBusy))
	}
	if err := m.free(rec); err != nil {
		return fail(err)
	}
	for _, s := range rec.Snapshots {
		if err := m.dropSnapshot(ctx, m.record(), s.Point); err != nil {
			return fail(err)
		}
	}
	m.outdate()
	if err := m.change(func(r *record) { r.Removing = true }); err != nil {
		return fail(err)
	}
	if err := m.erase(); err != nil {
		return fail(err)
	}
	return nil
}

// finishRemove goes on with a removal that failed half way. The machine is gone
// for everybody already, and some of its files are not.
func (h *Host) finishRemove(ctx context.Context, id dr.MachineID) error {
	h.mu.Lock()
	m := h.machines[id]
	h.mu.Unlock()
	if m == nil {
		return nil
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	m.mu.Lock()
	left := m.rec != nil && m.rec.Removing
	m.mu.Unlock()
	if !left {
		return nil
	}
	if err := m.erase(); err != nil {
		return &dr.Error{Op: "remove", Machine: id, Err: err}
	}
	return nil
}

// erase deletes everything that was made in the machine's folder, the record
// last, so that what is half done is found again. Other people's files stay.
// The caller holds op, or is alone.
func (m *machine) erase() error {
	_, err := m.host.fs.Stat(m.folder)
	if err == nil {
		err = m.empty()
	}
	if errors.Is(err, fs.ErrNotExist) { // an attempt came so far
		err = nil
	}
	if err == nil {
		err = m.host.fs.SyncDir(m.host.cfg.Root)
	}
	if err != nil {
		return err
	}
	m.made = false
	m.mu.Lock()
	m.rec = nil
	m.mu.Unlock()
	return nil
}

// empty deletes what was made in the folder, and the folder unless there is
// something else in it.
func (m *machine) empty() error {
	names := slices.Clone(m.rec.Dropped)
	for _, d := range m.rec.Disks {
		names = append(names, d.Path)
	}
	for _, name := range names {
		if err := m.delete(name); err != nil {
			return err
		}
	}
	if err := m.host.fs.SyncDir(m.folder); err != nil {
		return err
	}
	if err := m.delete(recordName); err != nil {
		return err
	}
	if err := m.host.fs.SyncDir(m.folder); err != nil {
		return err
	}
	if err := m.sweepTemporary(); err != nil {
		return err
	}
	left, err := m.host.fs.ReadDir(m.folder)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return nil
	}
	return m.host.fs.Remove(m.folder)
}

// sweepTemporary deletes the files that a crash of save leaves.
func (m *machine) sweepTemporary() error {
	entries, err := m.host.fs.ReadDir(m.folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); fsys.IsTemp(name) && strings.HasPrefix(name, recordName) {
			if err := m.delete(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *machine) delete(name string) error {
	err := m.host.fs.Remove(filepath.Join(m.folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

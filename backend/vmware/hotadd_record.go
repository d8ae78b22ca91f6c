package vmware

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// attached is a disk as it is recorded on the appliance, which is Self: a clone's
// records are not believed.
type attached struct {
	ID    string       `json:"-"` // the end of its key
	Self  dr.MachineID `json:"self"`
	Owner string       `json:"owner"` // names the lock file
	Boot  string       `json:"boot,omitempty"`
	File  string       `json:"file"`
	UUID  string       `json:"uuid,omitempty"`
	Bus   int32        `json:"bus"`
	Unit  int32        `json:"unit"`
}

// sweep detaches orphans, and returns the appliance as it is then. Its lock is
// held.
func (h *HotAdd) sweep(ctx context.Context, v *VSphere, m *machine) (*machine, error) {
	var gone []attached
	all := notes(m)
	h.settle(all)
	for _, a := range all {
		switch h.state(a) {
		case ownerGone:
			gone = append(gone, a)
			v.options.Log.WarnContext(ctx, "disk that was left attached is detached", "appliance", h.Appliance, "file", a.File)
		case ownerUnknown:
			v.options.Log.WarnContext(ctx, "disk stays attached: whether its process runs can't be known", "appliance", h.Appliance, "file", a.File,
				"remedy", "if no other program of this library runs in the appliance, detach the disk, without deleting its file")
		}
	}
	if len(gone) == 0 {
		return m, nil
	}
	if err := h.remove(ctx, v, m, gone...); err != nil {
		return m, fmt.Errorf("detach disks that an earlier process left attached to the appliance: %w", explain(err))
	}
	return h.appliance(ctx, v)
}

// notes reads what is recorded on the appliance. What can't be read, or is of
// another machine, is as nothing: no disk is detached for it.
func notes(m *machine) []attached {
	var all []attached
	for _, o := range m.config.ExtraConfig {
		id, ok := strings.CutPrefix(o.GetOptionValue().Key, hotAddKey)
		raw, _ := o.GetOptionValue().Value.(string)
		a := attached{ID: id}
		if ok && raw != "" && json.Unmarshal([]byte(raw), &a) == nil && a.Self == m.id && a.File != "" {
			all = append(all, a)
		}
	}
	return all
}

// note records a disk on the appliance.
func note(ctx context.Context, v *VSphere, m *machine, a attached) error {
	a.Self = m.id
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	option := &types.OptionValue{Key: hotAddKey + a.ID, Value: string(b)}
	return change(ctx, v, m, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{option}})
}

// Whether a process that attached a disk still runs.
type ownerState int

// own makes a disk this process's, whose lock is held as long as it has any.
func (h *HotAdd) own(a *attached) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		owner := rand.Text()
		l, err := fsys.OS().Lock(h.lockFile(owner), true)
		if err != nil {
			return advise(fmt.Errorf("lock file: %w", err), "set HotAdd.StateDir to a folder that can be written")
		}
		h.held, h.owner, h.mine = l, owner, map[string]bool{}
	}
	a.Owner, a.Boot = h.owner, bootID()
	h.mine[a.ID] = true
	return nil
}

// disown leaves a disk to the next sweep, should it not be forgotten.
func (h *HotAdd) disown(a attached) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.mine[a.ID]; ok {
		h.mine[a.ID] = false
	}
}

// forget is for a disk that is attached and recorded no more.
func (h *HotAdd) forget(a attached) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.Owner != h.owner {
		os.Remove(h.lockFile(a.Owner)) // that process is gone
		return
	}
	delete(h.mine, a.ID)
	if len(h.mine) == 0 && h.held != nil {
		h.held.Close()
		// Its name is never used again, so that nobody locks two files of it.
		os.Remove(h.lockFile(h.owner))
		h.held, h.owner = nil, ""
	}
}

// settle forgets what could not be detached as far as was known, and is not
// recorded any more: a record goes after its disk.
func (h *HotAdd) settle(recorded []attached) {
	h.mu.Lock()
	owner, left := h.owner, []string(nil)
	for id, used := range h.mine {
		if !used && !slices.ContainsFunc(recorded, func(a attached) bool { return a.ID == id }) {
			left = append(left, id)
		}
	}
	h.mu.Unlock()
	for _, id := range left {
		h.forget(attached{ID: id, Owner: owner})
	}
}

// state finds out whether a disk is an orphan.
func (h *HotAdd) state(a attached) ownerState {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.Owner == h.owner && h.owner != "" {
		if h.mine[a.ID] {
			return ownerRuns
		}
		return ownerGone
	}
	if boot := bootID(); boot != "" && a.Boot != "" && boot != a.Boot {
		return ownerGone
	}
	name := h.lockFile(a.Owner)
	if _, err := os.Stat(name); err != nil {
		return ownerUnknown
	}
	l, err := fsys.OS().Lock(name, true)
	switch {
	case err == nil:
		l.Close()
		return ownerGone
	case errors.Is(err, fsys.ErrLocked):
		return ownerRuns
	}
	return ownerUnknown
}

func (h *HotAdd) lockFile(owner string) string {
	dir := h.StateDir
	if dir == "" {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "lifeboat-hotadd-"+filepath.Base(owner)+".lock")
}

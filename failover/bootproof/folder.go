package bootproof

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// overlays are the names of the layers' files in a folder. A folder's name may
// have characters that mean something in a pattern, so none is made of it.
func overlays(dir string) (names []string, err error) {
	all, err := os.ReadDir(dir)
	for _, e := range all {
		if n := e.Name(); strings.HasPrefix(n, "disk") && strings.HasSuffix(n, ".overlay") {
			names = append(names, n)
		}
	}
	return names, err
}

// load reads the record; one without layers if there is none.
func (v *Instant) load() error {
	name := filepath.Join(v.dir, instantFile)
	b, err := os.ReadFile(name)
	if err == nil {
		if err = v.rec.parse(b); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return err
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	left, err := overlays(v.dir)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%w: %s holds %s and no record of whose it is; name another folder", dr.ErrExists, v.dir, left[0])
	}
	return err
}

// begin makes the first layers. Whoever finds it half done begins anew.
func (v *Instant) begin() error {
	r := instantRecord{Version: instantVersion, ID: rand.Text(), Machine: v.point.Machine.ID, Point: v.point.ID, PointTime: v.point.Time}
	v.id = r.ID
	if err := errors.Join(v.save(r), removeOverlays(v.dir)); err != nil {
		return err
	}
	first := layerRecord{1, "1"}
	for i, d := range v.point.Machine.Disks {
		if err := v.stack(d).open(v.dir, fileName(i, first.Name), v.identity(d.ID, first.Name), first.Number, true); err != nil {
			return err
		}
	}
	if err := fsys.OS().SyncDir(v.dir); err != nil {
		return err
	}
	r.Layers = []layerRecord{first}
	return v.save(r)
}

func removeOverlays(dir string) error {
	found, err := overlays(dir)
	for _, f := range found {
		err = errors.Join(err, os.Remove(filepath.Join(dir, f)))
	}
	return err
}

// Close powers the machine off, hard, and lets go of folder and point. What it
// wrote stays: Recover goes on with it. Images must be closed before. Who waits
// for a shutdown or a merge waits no longer.
func (v *Instant) Close() error {
	v.mu.Lock()
	v.closed = true
	vm := v.vm
	v.mu.Unlock()
	v.die()
	var err error
	if vm != nil {
		err = vm.Close()
	}
	v.power <- struct{}{}
	defer func() { <-v.power }()
	v.changing.Lock() // no record is written any more
	defer v.changing.Unlock()
	if v.released {
		return nil
	}
	v.released = true
	return errors.Join(err, v.end(), v.release())
}

// Discard is Close, and removes what it wrote. Only what Recover made is removed,
// and only if nobody has recovered to the folder meanwhile: dr.ErrBusy,
// dr.ErrExists.
func (v *Instant) Discard() error {
	if err := v.Close(); err != nil {
		return err
	}
	return v.fail("discard", v.discard())
}

func (v *Instant) discard() (err error) {
	lock, err := fsys.OS().Lock(filepath.Join(v.dir, instantLock), true)
	if errors.Is(err, fsys.ErrLocked) {
		return fmt.Errorf("%w: another process runs a machine from %s by now", dr.ErrBusy, v.dir)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	name := filepath.Join(v.dir, instantFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was discarded
	}
	var r instantRecord
	if err == nil {
		err = r.parse(b)
	}
	if err != nil {
		return err
	}
	if r.ID != v.id {
		return fmt.Errorf("%w: %s holds another recovery by now", dr.ErrExists, v.dir)
	}
	// Without layers what a crash leaves then is nobody's, and no half of a
	// machine.
	r.Layers, r.Captures, r.Recent = nil, nil, nil
	if err := v.save(r); err != nil {
		return err
	}
	if err := errors.Join(removeOverlays(v.dir), os.RemoveAll(filepath.Join(v.dir, machineFolder)), fsys.OS().SyncDir(v.dir)); err != nil {
		return err
	}
	return os.Remove(name)
}

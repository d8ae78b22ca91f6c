package physical

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Prepare implements [backend.Target]. A machine that it makes has the ID of
// its name and a hash of the key, and sparse image files in the host's root.
// Of cards it notes the network; nothing inside of a guest
// can be changed from here, so addresses that it hasn't are refused.
//
// A replica that it finds keeps larger disks than p.Machine's and those that
// p.Machine lacks: they may be wanted. A draft of a point that says otherwise
// cuts and deletes them, after it marked the machine torn. A replica whose
// disks grew holds nothing.
//
// An original's disks that are given up ([Disk].GivenUp) may be larger than
// p.Machine's, and have other IDs: then they take those of the disks that they
// stand for, from here on and for as long as they are configured. Which stands
// for which is told by p.Options, {"disks": {"source's ID": "configured ID"}},
// else by the IDs; else the boot disk stands for the boot disk, and the only one
// left for the only one left. More is dr.ErrAmbiguous, with what there is. A
// replica takes no options. Disks that are given up and that nobody has copied
// to make the original torn: nothing on them is of worth.
func (h *Host) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	r, err := h.prepare(ctx, p)
	if err != nil {
		if p.Original == "" {
			err = fmt.Errorf("replica of machine %s, key %q: %w", p.Machine.ID, p.Key, err)
		}
		return backend.Replica{}, &dr.Error{Op: "prepare", Side: dr.TargetSide, Machine: p.Original, Err: err}
	}
	return r, nil
}

func (h *Host) prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if err := ctx.Err(); err != nil {
		return backend.Replica{}, err
	}
	o, err := readOptions(p.Options)
	if err != nil {
		return backend.Replica{}, err
	}
	if len(o.Disks) > 0 && p.Original == "" {
		return backend.Replica{}, fmt.Errorf("%w: options: the disks of a machine that is made have the source's IDs (leave disks out)", dr.ErrInvalid)
	}
	if err := checkCards(p); err != nil {
		return backend.Replica{}, err
	}
	if p.Original != "" {
		return h.original(ctx, p, o)
	}
	if p.Key == "" {
		return backend.Replica{}, fmt.Errorf("%w: a placement needs a key or an original", dr.ErrInvalid)
	}
	if err := checkDisks(p.Machine); err != nil {
		return backend.Replica{}, err
	}
	m, err := h.replica(p)
	if err != nil {
		return backend.Replica{}, err
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return backend.Replica{}, err
	}
	defer release()
	return m.prepare(ctx, p)
}

// checkCards refuses what would have to be changed inside of the guest, or of
// the hardware.
func checkCards(p backend.Placement) error {
	if err := p.CheckCards(); err != nil {
		return err
	}
	for _, n := range p.Machine.NICs {
		c := p.Cards[n.ID]
		what := ""
		switch {
		case !c.Satisfied(n):
			what = "a physical host can't set addresses in a guest (set them in the guest before, or by a step of your own)"
		case c.Subnet != "":
			what = "a physical host knows no subnets (name the network alone)"
		case c.MAC != "":
			what = "a physical host's cards have their hardware addresses (leave mac out)"
		default:
			continue
		}
		return fmt.Errorf("%w: card %s: %s", dr.ErrUnsupported, n.ID, what)
	}
	return nil
}

// original finds the machine that is to be used, and changes nothing of it but
// that it is never removed, and for which disks its own stand.
func (h *Host) original(ctx context.Context, p backend.Placement, o options) (backend.Replica, error) {
	m, err := h.machine("find", p.Original)
	if err != nil {
		return backend.Replica{}, err
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return backend.Replica{}, err
	}
	defer release()
	if m.record() == nil {
		return backend.Replica{}, fmt.Errorf("machine %s: %w", p.Original, dr.ErrNotFound)
	}
	if err := m.admit(ctx); err != nil {
		return backend.Replica{}, err
	}
	rec := m.record()
	if err := m.stopped(rec); err != nil {
		return backend.Replica{}, err
	}
	have, err := m.describe(rec)
	if err != nil {
		return backend.Replica{}, err
	}
	if rec, have, err = m.stand(rec, have, p.Machine, o); err != nil {
		return backend.Replica{}, err
	}
	found, err := m.foreign(rec)
	if err != nil {
		return backend.Replica{}, err
	}
	if found.other && !m.drafting() {
		// Somebody put in another disk: what was known is not of this one.
		m.outdate()
		if err := m.change(func(r *record) { r.forget(); r.Epochs = nil }); err != nil {
			return backend.Replica{}, err
		}
	}
	if rec.Made && !rec.Original {
		if err := m.change(func(r *record) { r.Original = true }); err != nil {
			return backend.Replica{}, err
		}
	}
	r := m.replica(have)
	if found.bare {
		r.Torn, r.Holds = true, ""
	}
	return r, nil
}

// stopped refuses a machine that runs, or may.
func (m *machine) stopped(rec *record) error {
	switch rec.Power {
	case dr.Off:
		return nil
	case dr.On:
		return fmt.Errorf("machine %s: %w (stop it first)", m.id, dr.ErrRunning)
	}
	return fmt.Errorf("machine %s: %w, or may: its power is unknown (stop it, or configure its power)", m.id, dr.ErrRunning)
}

// covers tells whether have has all wanted disks, in their sizes.
func covers(have, want dr.Machine) bool {
	for _, d := range want.Disks {
		if h, ok := have.Disk(d.ID); !ok || h.Size != d.Size {
			return false
		}
	}
	return true
}

func checkDisks(m dr.Machine) error {
	seen := map[dr.DiskID]bool{}
	for _, d := range m.Disks {
		if seen[d.ID] {
			return fmt.Errorf("%w: disk %s twice", dr.ErrInvalid, d.ID)
		}
		seen[d.ID] = true
		if d.Size < 0 {
			return fmt.Errorf("%w: disk %s of %d bytes", dr.ErrInvalid, d.ID, d.Size)
		}
		if _, err := imageName(d.ID); err != nil {
			return err
		}
	}
	return nil
}

// replica tells what Prepare found. What the disks held counts only while they
// have the sizes that they had.
func (m *machine) replica(now dr.Machine) backend.Replica {
	rec := m.record()
	r := backend.Replica{ID: m.id, Holds: rec.holds(), New: rec.New, Torn: rec.Torn != ""}
	for _, d := range now.Disks {
		if size, ok := rec.Sizes[d.ID]; !ok || size != d.Size {
			r.Holds = ""
		}
	}
	return r
}

// replica finds the machine of the key, or a place for it.
func (h *Host) replica(p backend.Placement) (*machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("the host on %s is closed", h.cfg.Root)
	}
	var found []*machine
	for _, m := range h.machines {
		m.mu.Lock()
		if m.rec != nil && m.rec.Made && m.rec.Key == p.Key {
			found = append(found, m)
		}
		m.mu.Unlock()
	}
	switch len(found) {
	case 0:
	case 1:
		return found[0], nil
	default:
		return nil, fmt.Errorf("%w: machines %s and %s both have the key %q (remove the folder of the one that is a copy)", dr.ErrAmbiguous, found[0].id, found[1].id, p.Key)
	}
	id := replicaID(p)
	if m := h.machines[id]; m != nil {
		return m, nil // its record says whether it is free
	}
	return h.add(id), nil
}

// replicaID is the same for every Prepare of the key and name.
func replicaID(p backend.Placement) dr.MachineID {
	name := p.Name
	if name == "" {
		name = p.Machine.Name
	}
	if name == "" {
		name = string(p.Machine.ID)
	}
	name = strings.Trim(strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
			return c
		}
		return '-'
	}, name), "-.")
	sum := sha256.Sum256([]byte(p.Key))
	return dr.MachineID(strings.TrimPrefix(name[:min(len(name), 80)]+"-"+hex.EncodeToString(sum[:8]), "-"))
}

// prepare makes the machine like p says. The caller holds op.
func (m *machine) prepare(ctx context.Context, p backend.Placement) (_ backend.Replica, err error) {
	m.mu.Lock()
	rec := m.rec
	m.mu.Unlock()
	if rec != nil && rec.Removing {
		if err := m.erase(); err != nil {
			return backend.Replica{}, err
		}
		rec = nil
	}
	next := &record{Version: recordVersion, Made: true, Key: p.Key, New: true, Power: dr.Off}
	if rec != nil {
		if !rec.Made || rec.Key != p.Key {
			return backend.Replica{}, fmt.Errorf("%w: machine %s is another one", dr.ErrExists, m.id)
		}
		if err := m.admit(ctx); err != nil {
			return backend.Replica{}, err
		}
		rec = m.record()
		if err := m.stopped(rec); err != nil {
			return backend.Replica{}, err
		}
		next = rec.clone()
	}
	if next.Fences, _, err = next.Fences.Admit(ctx); err != nil {
		return backend.Replica{}, err
	}
	next.like(m.id, p)
	grow, err := m.missing(next)
	if err != nil {
		return backend.Replica{}, err
	}
	if len(grow) > 0 {
		if m.drafting() {
			return backend.Replica{}, fmt.Errorf("machine %s: %w: a draft is open, and disk %s is to be made or grown", m.id, dr.ErrBusy, grow[0].ID)
		}
		m.outdate()
		next.forget()
	}
	if rec == nil || len(grow) > 0 || !sameRecord(rec, next) {
		if err := m.save(next); err != nil {
			return backend.Replica{}, err
		}
	}
	if len(grow) > 0 {
		for _, g := range grow {
			if err := ctx.Err(); err != nil {
				return backend.Replica{}, err
			}
			if err := m.grow(g); err != nil {
				return backend.Replica{}, &dr.Error{Op: "make", Side: dr.TargetSide, Machine: m.id, Disk: g.ID, Off: -1, Err: err}
			}
		}
		if err := m.host.fs.SyncDir(m.folder); err != nil {
			return backend.Replica{}, err
		}
		if err := m.change(func(r *record) {
			for i := range r.Disks {
				r.Disks[i].Making = false
			}
		}); err != nil {
			return backend.Replica{}, err
		}
	}
	now, err := m.describe(m.record())
	if err != nil {
		return backend.Replica{}, err
	}
	return m.replica(now), nil
}

func sameRecord(a, b *record) bool {
	x, errX := encode(a)
	y, errY := encode(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// like takes the placement's description. Disks that the machine has beyond it
// stay; new ones are still to be made.
func (r *record) like(id dr.MachineID, p backend.Placement) {
	disks := slices.Clone(p.Machine.Disks)
	for i, d := range disks {
		if !slices.ContainsFunc(r.Disks, func(f diskFile) bool { return f.ID == d.ID }) {
			path, _ := imageName(d.ID) // checked before
			r.Disks = append(r.Disks, diskFile{ID: d.ID, Path: path, Making: true})
			r.Dropped = slices.DeleteFunc(r.Dropped, func(name string) bool { return name == path })
		}
		if old, ok := r.Machine.Disk(d.ID); ok {
			disks[i].Size = max(d.Size, old.Size)
		}
	}
	for _, d := range r.Machine.Disks {
		if _, ok := p.Machine.Disk(d.ID); !ok {
			disks = append(disks, d)
		}
	}
	files := make([]diskFile, len(disks))
	for i, d := range disks {
		files[i] = r.Disks[slices.IndexFunc(r.Disks, func(f diskFile) bool { return f.ID == d.ID })]
	}
	r.Disks = files
	r.Isolated = p.Isolated
	r.Machine = p.Machine
	r.Machine.ID, r.Machine.Disks, r.Machine.Power = id, disks, ""
	if p.Name != "" {
		r.Machine.Name = p.Name
	}
	r.Machine.NICs = slices.Clone(p.Machine.NICs)
	for i, n := range r.Machine.NICs {
		if to, ok := p.Connection(n); ok {
			r.Machine.NICs[i].Network = to
		}
	}
}

// growth is a disk file that is to be made or lengthened.
type growth struct {
	diskFile
	size int64
}

// missing compares the files with the record.
func (m *machine) missing(r *record) ([]growth, error) {
	var out []growth
	for i, d := range r.Disks {
		size := r.Machine.Disks[i].Size
		if d.Making {
			out = append(out, growth{d, size})
			continue
		}
		now, err := m.size(d)
		if err != nil {
			return nil, err
		}
		if now < size {
			out = append(out, growth{d, size})
		}
	}
	return out, nil
}

// grow makes or lengthens a disk file. One that was being made holds nothing
// that anybody wrote.
func (m *machine) grow(g growth) error {
	flag := os.O_RDWR
	if g.Making {
		flag |= os.O_CREATE | os.O_TRUNC
	}
	return m.resize(filepath.Join(m.folder, g.Path), flag, g.size)
}

func (m *machine) resize(path string, flag int, size int64) error {
	f, err := m.host.fs.OpenFile(path, flag, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

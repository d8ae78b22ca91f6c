package physical

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// options of a placement that names an original.
type options struct {
	// Disks says which of the machine's configured disks stands for which of
	// the source's.
	Disks map[dr.DiskID]dr.DiskID `json:"disks,omitempty"`
}

func readOptions(raw json.RawMessage) (o options, err error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return o, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err = d.Decode(&o); err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind it")
		}
	}
	if err != nil {
		return o, fmt.Errorf("%w: options: %w (physical hosts take {\"disks\": {\"source's disk\": \"configured disk\"}} and nothing else)", dr.ErrInvalid, err)
	}
	return o, nil
}

// slot is one disk of a configured machine, for which a source's is looked for.
type slot struct {
	id      dr.DiskID // as it is known now
	own     dr.DiskID // as it is configured
	path    string
	size    int64
	boot    bool
	givenUp bool
	larger  bool // it may be larger than what it stands for
}

func (s slot) String() string {
	what := "not given up"
	if s.givenUp {
		what = "given up"
	}
	if s.boot {
		what += ", boot disk"
	}
	return fmt.Sprintf("%s (%s, %d bytes, %s)", s.own, s.path, s.size, what)
}

// place finds the slot of each wanted disk: the one that explicit names, by its
// configured ID; else the one of the disk's own ID; else, of those that are
// given up and stand for nothing, the boot disk for the boot disk, and the only
// one for the only one that is left. It never chooses between two.
func place(want []dr.Disk, have []slot, explicit map[dr.DiskID]dr.DiskID) ([]int, error) {
	at := make([]int, len(want))
	used := map[int]bool{}
	for i := range at {
		at[i] = -1
	}
	set := func(i, j int) error {
		switch s, d := have[j], want[i]; {
		case used[j]:
			return fmt.Errorf("%w: disk %s would stand for two of the source's", dr.ErrInvalid, s.own)
		case s.id != d.ID && !s.givenUp:
			return fmt.Errorf("%w: disk %s can't stand for disk %s: it is not given up (say givenUp of it in the machine's configuration, if it may be overwritten)", dr.ErrInvalid, s, d.ID)
		}
		at[i], used[j] = j, true
		return nil
	}
	find := func(is func(slot) bool) []int {
		var out []int
		for j, s := range have {
			if !used[j] && is(s) {
				out = append(out, j)
			}
		}
		return out
	}
	for _, src := range slices.Sorted(maps.Keys(explicit)) {
		i := slices.IndexFunc(want, func(d dr.Disk) bool { return d.ID == src })
		j := slices.IndexFunc(have, func(s slot) bool { return s.own == explicit[src] })
		if i < 0 || j < 0 {
			return nil, fmt.Errorf("%w: options: disk %s for disk %s: the source has %s; here are %s", dr.ErrInvalid, explicit[src], src, wanted(want), slots(have))
		}
		if err := set(i, j); err != nil {
			return nil, err
		}
	}
	left := func() (out []int) {
		for i := range want {
			if at[i] < 0 {
				out = append(out, i)
			}
		}
		return out
	}
	for _, i := range left() {
		if js := find(func(s slot) bool { return s.id == want[i].ID }); len(js) == 1 {
			if err := set(i, js[0]); err != nil {
				return nil, err
			}
		}
	}
	// One that stands for a disk that isn't wanted now may be wanted again.
	free := func(s slot) bool { return s.givenUp && s.id == s.own }
	for _, i := range left() {
		if js := find(func(s slot) bool { return free(s) && s.boot }); want[i].Boot && len(js) == 1 {
			if err := set(i, js[0]); err != nil {
				return nil, err
			}
		}
	}
	rest, js := left(), find(free)
	if len(rest) == 1 && len(js) == 1 {
		if err := set(rest[0], js[0]); err != nil {
			return nil, err
		}
		rest = nil
	}
	if len(rest) == 0 {
		return at, nil
	}
	var ids []dr.Disk
	for _, i := range rest {
		ids = append(ids, want[i])
	}
	if len(js) < len(rest) {
		return nil, fmt.Errorf("%w: the machine has no disk %s, and %d others are given up; it has %s", dr.ErrInvalid, wanted(ids), len(js), slots(have))
	}
	return nil, fmt.Errorf("%w: which disk is to stand for %s? Here are %s (say it in the placement's options: {\"disks\": {%q: %q}})",
		dr.ErrAmbiguous, wanted(ids), slots(have), ids[0].ID, have[js[0]].own)
}

func wanted(disks []dr.Disk) string {
	var out []string
	for _, d := range disks {
		out = append(out, fmt.Sprintf("%s (%d bytes)", d.ID, d.Size))
	}
	return strings.Join(out, ", ")
}

func slots(have []slot) string {
	var out []string
	for _, s := range have {
		out = append(out, s.String())
	}
	if out == nil {
		return "none"
	}
	return strings.Join(out, ", ")
}

// slots are the machine's disks, as now describes them.
func (m *machine) slots(rec *record, now dr.Machine) []slot {
	var out []slot
	for i, d := range rec.Disks {
		own := d.Own
		if own == "" {
			own = d.ID
		}
		out = append(out, slot{d.ID, own, m.path(d), now.Disks[i].Size, now.Disks[i].Boot,
			d.GivenUp, d.GivenUp || rec.Seen[d.ID].Taken})
	}
	return out
}

// stand gives the machine's disks the IDs of those that they are to stand for.
// What was known of their content under other IDs is forgotten. The caller
// holds op.
func (m *machine) stand(rec *record, now dr.Machine, want dr.Machine, o options) (*record, dr.Machine, error) {
	if len(want.Disks) == 0 {
		return rec, now, nil // of disks nothing is asked
	}
	have := m.slots(rec, now)
	at, err := place(want.Disks, have, o.Disks)
	if err != nil {
		return nil, now, fmt.Errorf("machine %s: %w", m.id, err)
	}
	for i, j := range at {
		if err := have[j].holds(want.Disks[i]); err != nil {
			return nil, now, fmt.Errorf("machine %s: %w", m.id, err)
		}
	}
	next := rec.clone()
	moved := false
	for i, j := range at {
		if id := want.Disks[i].ID; have[j].id != id {
			next.Disks[j].ID, next.Disks[j].Own, next.Machine.Disks[j].ID = id, have[j].own, id
			moved = true
		}
	}
	if !moved {
		return rec, now, nil
	}
	ids := map[dr.DiskID]bool{}
	for j, d := range next.Disks {
		if ids[d.ID] {
			return nil, now, fmt.Errorf("machine %s: %w: two of its disks would be disk %s: %s", m.id, dr.ErrInvalid, d.ID, slots(have))
		}
		ids[d.ID] = true
		if d.Own == d.ID {
			next.Disks[j].Own = ""
		}
	}
	if m.drafting() {
		return nil, now, fmt.Errorf("machine %s: %w: a draft is open, and its disks are to stand for others", m.id, dr.ErrBusy)
	}
	m.outdate()
	next.forget()
	next.Epochs, next.Seen = nil, map[dr.DiskID]seen{}
	for j, d := range rec.Disks {
		if s, ok := rec.Seen[d.ID]; ok {
			next.Seen[next.Disks[j].ID] = s
		}
	}
	if err := m.save(next); err != nil {
		return nil, now, err
	}
	for j, d := range next.Disks {
		now.Disks[j].ID = d.ID
	}
	return next, now, nil
}

// holds refuses a disk that has not the size of the one that it is to stand
// for. One that was given up may be larger.
func (s slot) holds(d dr.Disk) error {
	switch {
	case s.size < d.Size:
		return fmt.Errorf("%w: disk %s at %s has %d bytes, fewer than the %d of disk %s that it is to stand for (it takes one as large, or larger)", dr.ErrInvalid, s.own, s.path, s.size, d.Size, d.ID)
	case s.size > d.Size && !s.larger:
		return fmt.Errorf("%w: disk %s at %s has %d bytes, not %d (only a disk that is given up may be larger)", dr.ErrInvalid, s.own, s.path, s.size, d.Size)
	}
	return nil
}

// fits tells whether the machine has all wanted disks, in sizes that they may
// have.
func (m *machine) fits(rec *record, now, want dr.Machine) error {
	have := m.slots(rec, now)
	for _, d := range want.Disks {
		j := slices.IndexFunc(have, func(s slot) bool { return s.id == d.ID })
		if j < 0 {
			return fmt.Errorf("%w: machine %s has no disk %s", dr.ErrInvalid, m.id, d.ID)
		}
		if err := have[j].holds(d); err != nil {
			return fmt.Errorf("machine %s: %w", m.id, err)
		}
	}
	return nil
}

// keepNames gives the disks of a configuration the IDs that those before stood
// for.
func (r *record) keepNames(old *record) error {
	ids := map[dr.DiskID]bool{}
	for i, d := range r.Disks {
		for _, o := range old.Disks {
			if o.Own == d.ID {
				r.Disks[i].ID, r.Disks[i].Own, r.Machine.Disks[i].ID = o.ID, o.Own, o.ID
			}
		}
		if id := r.Disks[i].ID; ids[id] {
			return fmt.Errorf("%w: machine %s: disk %s is configured, and another stands for it", dr.ErrInvalid, r.Machine.ID, id)
		}
		ids[r.Disks[i].ID] = true
	}
	return nil
}

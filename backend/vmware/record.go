package vmware

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// recordKey is the extraConfig key of the record. Without a dot, so that the
// property collector can be asked for this one value.
const recordKey = "lifeboat"

// record is what this library keeps on a machine. A machine without one is the
// zero record.
type record struct {
	Version int `json:"v"`
	// Self is the instance UUID of the machine that the record was written
	// for: a clone's differs.
	Self dr.MachineID `json:"self"`
	// Key is the placement's, of a machine that Prepare made.
	Key string `json:"key,omitempty"`
	// Made says that Prepare made the machine, and Remove may delete it.
	Made bool `json:"made,omitempty"`
	// Disks gives disks other IDs than their UUID, which is the key.
	Disks map[string]dr.DiskID `json:"disks,omitempty"`
	// New, Torn and Holds are as in backend.Replica; For is the point of the
	// draft that tore the disks.
	New   bool       `json:"new,omitempty"`
	Torn  bool       `json:"torn,omitempty"`
	For   dr.PointID `json:"for,omitempty"`
	Holds dr.PointID `json:"holds,omitempty"`
	// Epochs are points that the disks held, with the changeIds of that
	// moment, the last one last. Changes since them can be told.
	Epochs []epoch `json:"epochs,omitempty"`
	// Trusted are, by disk UUID, the epochs of change tracking that are
	// believed.
	Trusted map[string]trust `json:"trusted,omitempty"`
	// Guest is what the guest is to be told when it starts for the first time.
	Guest *guestNet `json:"guest,omitempty"`
}

// epoch is a point with a changeId for each disk.
type epoch struct {
	Point   dr.PointID              `json:"point"`
	Cursors map[dr.DiskID]dr.Cursor `json:"cursors"`
}

// maxEpochs bounds the epochs that are kept.
const maxEpochs = 4

// parseRecord reads the record off a machine's extraConfig. What it says of
// another machine is not believed, except that disks are torn.
func parseRecord(extra []types.BaseOptionValue, self dr.MachineID) (record, error) {
	raw, _ := object.OptionValueList(extra).GetString(recordKey)
	if raw == "" {
		return record{}, nil
	}
	var r record
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		return record{}, &dr.Error{Op: "read the record", Machine: self, Err: fmt.Errorf("%w: extraConfig %q: %w", dr.ErrCorrupt, recordKey, err),
			Remedy: "if this machine's disks are known to be whole, remove that value from its advanced configuration; else bring them back from a recovery point"}
	}
	if r.Version != 1 {
		return record{}, &dr.Error{Op: "read the record", Machine: self, Err: fmt.Errorf("%w: extraConfig %q of version %d", dr.ErrUnsupported, recordKey, r.Version),
			Remedy: "a newer Lifeboat wrote it: use that one"}
	}
	if r.Self != self {
		return record{Torn: r.Torn, For: r.For, Disks: r.Disks}, nil
	}
	return r, nil
}

// encode makes the record a value of extraConfig. A record that says nothing
// removes it.
func (r record) encode(self dr.MachineID) types.BaseOptionValue {
	r.Version, r.Self = 1, self
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and maps of strings
	}
	if empty, _ := json.Marshal(record{Version: 1, Self: self}); string(b) == string(empty) {
		b = nil
	}
	return &types.OptionValue{Key: recordKey, Value: string(b)}
}

// began adds the epoch of a point, and forgets the oldest.
func (r *record) began(p dr.PointID, cursors map[dr.DiskID]dr.Cursor) {
	kept := r.Epochs[:0:0]
	for _, e := range r.Epochs {
		if e.Point != p {
			kept = append(kept, e)
		}
	}
	kept = append(kept, epoch{p, cursors})
	r.Epochs = kept[max(0, len(kept)-maxEpochs):]
}

// epoch finds the changeIds of a point.
func (r *record) epoch(p dr.PointID) (epoch, bool) {
	for _, e := range r.Epochs {
		if e.Point == p {
			return e, true
		}
	}
	return epoch{}, false
}

// save writes the record, if it isn't what the machine has. The machine's lock
// must be held. m then carries it.
func (v *VSphere) save(ctx context.Context, m *machine, r record) error {
	next := r.encode(m.id)
	had, _ := object.OptionValueList(m.config.ExtraConfig).GetString(recordKey)
	if want, _ := next.GetOptionValue().Value.(string); want == had {
		return nil
	}
	spec := types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{next}}
	if err := v.reconfigure(ctx, m, spec); err != nil {
		return err
	}
	m.config.ExtraConfig = append(withoutRecord(m.config.ExtraConfig), next)
	m.record = r
	return nil
}

func withoutRecord(extra []types.BaseOptionValue) []types.BaseOptionValue {
	kept := extra[:0:0]
	for _, o := range extra {
		if !strings.EqualFold(o.GetOptionValue().Key, recordKey) {
			kept = append(kept, o)
		}
	}
	return kept
}

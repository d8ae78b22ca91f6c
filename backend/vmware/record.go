package vmware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
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
	// Draft tells the last draft that tore the disks from all others.
	Draft string `json:"draft,omitempty"`
	// Guest is what the guest is to be told when it starts for the first time.
	Guest *guestNet `json:"guest,omitempty"`
	// Fences are the epochs of those who have changed the machine.
	Fences backend.Fences `json:"fences,omitempty"`
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
	damaged := func(err error) (record, error) {
		return record{}, &dr.Error{Op: "read the record", Machine: self, Err: fmt.Errorf("%w: extraConfig %q: %w", dr.ErrCorrupt, recordKey, err),
			Remedy: "if this machine's disks are known to be whole, remove that value from its advanced configuration; else remove the machine, or the value, and fill its disks from a recovery point before it starts"}
	}
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal([]byte(raw), &head); err != nil {
		return damaged(err)
	}
	if head.Version != 1 { // what else it says may mean something else
		return record{}, &dr.Error{Op: "read the record", Machine: self, Err: fmt.Errorf("%w: extraConfig %q of version %d", dr.ErrUnsupported, recordKey, head.Version),
			Remedy: "a newer Lifeboat wrote it: use that one"}
	}
	var r record
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		return damaged(err)
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

// maxRecord is where older epochs are given up for a record that is too large
// for comfort: a machine of very many disks.
const maxRecord = 48 << 10

// saves bounds how often a save is tried again while others change the machine.
const saves = 5

// save writes the record, if it isn't what the machine has. The machine's lock
// must be held; other processes don't know it, so the record must be what m was
// read with, and stays so until it is written: else it is ErrConflict. m then
// carries it.
func (v *VSphere) save(ctx context.Context, m *machine, r record) error {
	next := r.encode(m.id)
	for text(next) > maxRecord && len(r.Epochs) > 1 {
		r.Epochs = r.Epochs[1:]
		next = r.encode(m.id)
	}
	had, _ := object.OptionValueList(m.config.ExtraConfig).GetString(recordKey)
	want, _ := next.GetOptionValue().Value.(string)
	if want == had {
		m.record, m.guard.owed = r, false
		return nil
	}
	var wrote time.Time
	for n := 1; ; n++ {
		now := time.Now()
		is, version, err := v.recordNow(ctx, m)
		if err != nil {
			return err
		}
		wrote = now
		if is == want {
			break // the answer to an earlier attempt was lost
		}
		if is != had {
			if _, err := m.passed(is, now); errors.Is(err, dr.ErrFenced) {
				return err
			}
			return &explained{fmt.Errorf("%w: another process has changed what the machine's record says", dr.ErrConflict), "see that no two of them work on one machine"}
		}
		m.version = ""
		err = v.reconfigureAt(ctx, m, types.VirtualMachineConfigSpec{ChangeVersion: version, ExtraConfig: []types.BaseOptionValue{next}})
		if err == nil {
			break
		}
		if !errors.Is(err, dr.ErrConflict) || n == saves {
			return err
		}
	}
	m.config.ExtraConfig = append(withoutRecord(m.config.ExtraConfig), next)
	m.record = r
	m.guard.owed, m.guard.looked = false, wrote
	return nil
}

func text(o types.BaseOptionValue) int {
	s, _ := o.GetOptionValue().Value.(string)
	return len(s)
}

// recordNow reads the record as it is now, and the version of the configuration
// that has it.
func (v *VSphere) recordNow(ctx context.Context, m *machine) (raw, version string, err error) {
	var now mo.VirtualMachine
	err = property.DefaultCollector(v.client).RetrieveOne(ctx, m.ref, []string{"config.extraConfig", "config.changeVersion"}, &now)
	if err != nil {
		return "", "", explain(err)
	}
	if now.Config == nil {
		return "", "", errors.New("vSphere can't read the machine's configuration")
	}
	raw, _ = object.OptionValueList(now.Config.ExtraConfig).GetString(recordKey)
	return raw, now.Config.ChangeVersion, nil
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

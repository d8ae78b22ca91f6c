package hyperv

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// record is what this library keeps on a machine, as an exchange item that only
// the host sees ([store.go] says how). A machine without one is the zero record.
type record struct {
	Version int `json:"v"`
	// Self is the machine that the record was written for: an imported copy is
	// another one.
	Self dr.MachineID `json:"self"`
	// Key is the placement's, of a machine that Prepare made.
	Key string `json:"key,omitempty"`
	// Made says that Prepare made the machine, and Remove may delete it; Folder
	// is the one that was made for it.
	Made   bool   `json:"made,omitempty"`
	Folder string `json:"folder,omitempty"`
	// Disks gives disks other IDs than their virtual disk's, which is the key.
	Disks map[string]dr.DiskID `json:"disks,omitempty"`
	// New, Torn and Holds are as in backend.Replica; For is the point of the
	// draft that tore the disks, and Draft tells that draft from all others.
	New   bool       `json:"new,omitempty"`
	Torn  bool       `json:"torn,omitempty"`
	For   dr.PointID `json:"for,omitempty"`
	Draft string     `json:"draft,omitempty"`
	Holds dr.PointID `json:"holds,omitempty"`
	// Stamp is when the machine's state last changed, as the host wrote it, when
	// it was found to hold Holds: another one, and it may have run.
	Stamp string `json:"stamp,omitempty"`
	// Captures are recovery checkpoints of ours, made or being made.
	Captures []captured `json:"captures,omitempty"`
	// Asked is the reference point that a commit asks for, until it is written
	// down as an epoch.
	Asked *captured `json:"asked,omitempty"`
	// Epochs are moments that changes can be told since, the last one last.
	Epochs []epoch `json:"epochs,omitempty"`
	// Moments is how many moments were taken: each has its number.
	Moments int `json:"moments,omitempty"`
	// Distrusted is the number of the last moment that isn't believed any more,
	// not even by the cursors of a point that was stored elsewhere.
	Distrusted int `json:"distrusted,omitempty"`
	// Fences are the epochs of those who have changed the machine.
	Fences backend.Fences `json:"fences,omitempty"`
}

// captured is a recovery checkpoint that this library asked for.
type captured struct {
	Point dr.PointID `json:"point"`
	// Checkpoint is its InstanceID. While it is empty the checkpoint was asked
	// for and Known are those that were there before.
	Checkpoint string   `json:"checkpoint,omitempty"`
	Known      []string `json:"known,omitempty"`
	// Level is what was asked of the guest, Off that the machine was off.
	Level dr.Consistency `json:"level,omitempty"`
	Off   bool           `json:"off,omitempty"`
	// Releasing says that it is being made a reference point, and References are
	// those that were there before.
	Releasing  bool     `json:"releasing,omitempty"`
	References []string `json:"refs,omitempty"`
	// Dropped says that it was released while the disks were torn: Hyper-V could
	// not merge files that have other names. The next commit lets it go.
	Dropped bool `json:"dropped,omitempty"`
	// Stale says that a draft has written to the disks since, and that tracking
	// isn't known to have seen it: the moment doesn't become an epoch any more.
	Stale bool `json:"stale,omitempty"`
	// N is the moment's number.
	N int `json:"n,omitempty"`
}

// epoch is a point with the identifiers of its moment in each disk's change
// tracking, by virtual disk, and the reference point that keeps them alive.
type epoch struct {
	Point     dr.PointID        `json:"point"`
	Reference string            `json:"ref,omitempty"` // InstanceID
	N         int               `json:"n,omitempty"`   // the moment's number
	IDs       map[string]string `json:"ids"`
}

const recordVersion = 1

// damaged is what a record that can't be read comes to. Whether the disks are
// torn is unknown then, so nothing is done with the machine.
func damaged(self dr.MachineID, err error) error {
	return &dr.Error{Op: "read the record", Machine: self, Err: fmt.Errorf("%w: exchange item %q: %w", dr.ErrCorrupt, recordName, err),
		Remedy: "if this machine's disks are known to be whole, remove that host-only exchange item; else remove the machine, or the item, and fill its disks from a recovery point before it starts"}
}

// parseRecord reads a record's text. What it says of another machine is not
// believed, except that disks are torn.
func parseRecord(text string, self dr.MachineID) (record, error) {
	if text == "" {
		return record{}, nil
	}
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil {
		return record{}, damaged(self, err)
	}
	if head.Version != recordVersion { // what else it says may mean something else
		return record{}, &dr.Error{Op: "read the record", Machine: self, Err: fmt.Errorf("%w: exchange item %q of version %d", dr.ErrUnsupported, recordName, head.Version),
			Remedy: "a newer Lifeboat wrote it: use that one"}
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return record{}, damaged(self, err)
	}
	if r.Self != self {
		return record{Torn: r.Torn, For: r.For, Disks: r.Disks}, nil
	}
	return r, nil
}

// text is the record as it is kept; "" for one that says nothing.
func (r record) text(self dr.MachineID) string {
	r.Version, r.Self = recordVersion, self
	if len(r.Captures)+len(r.Epochs)+r.Distrusted == 0 { // there is nothing to be in order
		r.Moments = 0
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and maps of strings
	}
	if empty, _ := json.Marshal(record{Version: recordVersion, Self: self}); string(b) == string(empty) {
		return ""
	}
	return string(b)
}

// capture finds the checkpoint of a point.
func (r *record) capture(p dr.PointID) (captured, bool) {
	for _, c := range r.Captures {
		if c.Point == p {
			return c, true
		}
	}
	return captured{}, false
}

// set replaces a capture, or adds it.
func (r *record) set(c captured) {
	r.drop(c.Point)
	r.Captures = append(r.Captures, c)
}

// drop forgets a capture. It leaves what other copies of the record share.
func (r *record) drop(p dr.PointID) {
	r.Captures = slices.DeleteFunc(slices.Clone(r.Captures), func(c captured) bool { return c.Point == p })
}

// epoch finds the identifiers of a point; of several those of the newest.
func (r *record) epoch(p dr.PointID) (epoch, bool) {
	for _, e := range slices.Backward(r.Epochs) {
		if e.Point == p {
			return e, true
		}
	}
	return epoch{}, false
}

// began adds an epoch behind all whose moments came before: a checkpoint may be let
// go of after later ones. One of the same point stays before it until it is
// trimmed: only who is in the record has its reference point destroyed.
func (r *record) began(e epoch) {
	at := len(r.Epochs)
	for at > 0 && r.Epochs[at-1].N > e.N {
		at--
	}
	r.Epochs = slices.Insert(slices.Clone(r.Epochs), at, e)
}

// dmtf reads a CIM datetime: "20260102030405.000000+060", the offset in minutes.
func dmtf(s string) (time.Time, error) {
	var offset int
	if len(s) != 25 {
		return time.Time{}, fmt.Errorf("%w: %q is no CIM datetime", dr.ErrCorrupt, s)
	}
	t, err := time.Parse("20060102150405.000000", s[:21])
	if err == nil {
		_, err = fmt.Sscanf(s[21:], "%d", &offset)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %q is no CIM datetime", dr.ErrCorrupt, s)
	}
	return t.Add(-time.Duration(offset) * time.Minute).UTC(), nil
}

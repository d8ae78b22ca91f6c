package vmware

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// Whoever may edit a machine may write anything where the record and the marks
// of snapshots are: an error or a right answer, and what was read can be written.
func FuzzRecordsAndMarks(f *testing.F) {
	f.Add(record{Torn: true, For: "p", Epochs: []epoch{{Point: "p"}}}.encode("m").GetOptionValue().Value.(string))
	f.Add(mark{Point: "p", Off: true}.encode())
	f.Add(`{"v":2}`)
	f.Add(`{"v":1,"self":"m","disks":{"x":""},"epochs":[{}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRecord([]types.BaseOptionValue{&types.OptionValue{Key: recordKey, Value: s}}, "m")
		if err == nil {
			if _, err := parseRecord([]types.BaseOptionValue{r.encode("m")}, "m"); err != nil {
				t.Fatalf("%q was read and written, and can't be read: %v", s, err)
			}
			r.cursors([]vdisk{{id: "d", uuid: "x", changeID: s}})
		}
		if k, ok := parseMark(s); ok {
			if again, ok := parseMark(k.encode()); !ok || again.Point != k.Point {
				t.Fatalf("the mark %q was read and written, and can't be read", s)
			}
		}
		epochOf(s)
		sequenceOf(s)
	})
}

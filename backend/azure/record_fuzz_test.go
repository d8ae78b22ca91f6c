package azure

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// The record lies where others can write: an error or a right answer, never a
// panic.
func FuzzRecord(f *testing.F) {
	whole, err := json.Marshal(record{Version: recordVersion, Rev: "r", ID: "lb-1", Key: "k", Made: true, Group: "g", Name: "n", Holds: "p", Begun: "p",
		Disks:   []diskRecord{{ID: "d", Size: 512, LUN: -1, Disk: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d", Unique: "u"}},
		Moments: []moment{{Point: "p", Attempt: "a", Done: true, Base: true, Disks: []momentDisk{{ID: "d", Unique: "u", Size: 512, Before: "s", After: "s"}}}}})
	require.NoError(f, err)
	f.Add(whole)
	f.Add([]byte(`{"v":1,"id":"lb-1","disks":[{"id":"d","disk":"x"}],"moments":[{"point":"p"},{"base":true}]}`))
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseRecord(raw, "lb-1")
		if err != nil {
			var e *dr.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Remedy)
			return
		}
		require.EqualValues(t, "lb-1", r.ID)
		m := &machine{id: r.ID, rec: r, has: true, at: r.at()}
		now := m.current()
		_ = m.holds(&now)
		m.own(&now)
		for _, mo := range r.Moments {
			_ = r.tells(mo)
			_ = r.base(mo.Point)
			_ = r.moment(mo.Point)
			_, _ = r.since(dr.Point{ID: mo.Point}, "d")
		}
		r.forgetMoments()
		_, _ = (&Azure{}).optionsOf(&r)
		again, err := json.Marshal(r)
		require.NoError(t, err)
		_, err = parseRecord(again, "lb-1")
		require.NoError(t, err)
	})
}

// Options come from whoever plans a flow.
func FuzzPlacementOptions(f *testing.F) {
	f.Add([]byte(`{"size":"Standard_D2s_v5","zone":"1","addresses":{"nic0":"10.0.0.4"},"tags":{"a":"b"}}`))
	f.Add([]byte(`{"diskType":"x"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := parseOptions(raw); err != nil {
			require.ErrorIs(t, err, dr.ErrInvalid)
		}
	})
}

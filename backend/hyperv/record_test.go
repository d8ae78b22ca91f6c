package hyperv

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestRecordOfAnotherMachineSaysOnlyThatDisksAreTorn(t *testing.T) {
	r := record{Key: "k", Made: true, Torn: true, For: "p", Holds: "q", Disks: map[string]dr.DiskID{"u": "d"}, Epochs: []epoch{{Point: "p"}}}
	text := r.text("a")
	got, err := parseRecord(text, "a")
	require.NoError(t, err)
	require.Equal(t, "k", got.Key)
	got, err = parseRecord(text, "b")
	require.NoError(t, err)
	require.Equal(t, record{Torn: true, For: "p", Disks: map[string]dr.DiskID{"u": "d"}}, got)
	require.Empty(t, record{}.text("a"), "what says nothing is not kept")

	_, err = parseRecord(`{"v":2}`, "a")
	require.ErrorIs(t, err, dr.ErrUnsupported)
	_, err = parseRecord(`{"v":1,"torn":"yes"}`, "a")
	require.ErrorIs(t, err, dr.ErrCorrupt)
}

func TestRecordInParts(t *testing.T) {
	for _, n := range []int{0, 1, maxValue, maxValue + 1, 5*maxValue + 7} {
		text := strings.Repeat("x", n)
		first, parts := itemsOf(text)
		require.LessOrEqual(t, len(first), maxValue)
		kept := map[string]string{recordName: first}
		for name, value := range parts {
			require.LessOrEqual(t, len(value), maxValue)
			kept[name] = value
		}
		got, err := recordText(kept)
		require.NoError(t, err)
		require.Equal(t, text, got)
		for name := range parts {
			was := kept[name]
			kept[name] = "y" + was[1:]
			_, err = recordText(kept)
			require.Error(t, err, "a part of another record")
			kept[name] = was
		}
	}
	a, pa := itemsOf(strings.Repeat("a", 3*maxValue))
	b, pb := itemsOf(strings.Repeat("b", 3*maxValue))
	require.NotEqual(t, a, b)
	for name := range pa {
		require.NotContains(t, pb, name, "parts of two records never meet")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(record{Torn: true}.text("a"), "")
	first, parts := itemsOf(strings.Repeat("a", 3*maxValue))
	for _, p := range parts {
		f.Add(first, p)
	}
	f.Fuzz(func(t *testing.T, first, part string) {
		kept := map[string]string{recordName: first}
		for i := range 3 {
			kept[partName("00000000", i)] = part
		}
		text, err := recordText(kept)
		if err != nil {
			return
		}
		r, err := parseRecord(text, "a")
		if err != nil {
			return
		}
		again, err := parseRecord(r.text("a"), "a")
		if err != nil || fmt.Sprint(again.Torn, again.Holds, again.Key) != fmt.Sprint(r.Torn, r.Holds, r.Key) {
			t.Fatalf("%+v became %+v: %v", r, again, err)
		}
	})
}

func TestDateTime(t *testing.T) {
	got, err := dmtf("20261127040000.123456+060")
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 11, 27, 3, 0, 0, 123456000, time.UTC), got)
	got, err = dmtf("20261127040000.000000-120")
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC), got)
	for _, bad := range []string{"", "20261127", "20261327040000.123456+060", "20261127040000.123456+x60"} {
		_, err := dmtf(bad)
		require.Error(t, err, bad)
	}
}

func TestReferencePointsListsBelongTogether(t *testing.T) {
	o := host.Object{Props: host.Props{"InstanceID": "r", "ReferencePointType": int64(2),
		"VirtualDiskIdentifiers": []any{"{AA}", "BB"}, "ResilientChangeTrackingIdentifiers": []any{"rct1", "rct2"}}}
	require.Equal(t, epoch{Point: "p", Reference: "r", IDs: map[string]string{"aa": "rct1", "bb": "rct2"}}, epochOf("p", o))
	o.Props["ResilientChangeTrackingIdentifiers"] = []any{"rct1"}
	require.Empty(t, epochOf("p", o).IDs, "unequal lengths: nothing is believed")
	o.Props["ResilientChangeTrackingIdentifiers"] = []any{"rct1", "rct2"}
	o.Props["ReferencePointType"] = int64(1) // a log, of Hyper-V Replica
	require.Empty(t, epochOf("p", o).IDs)
}

func TestSubnets(t *testing.T) {
	for s, want := range map[string]int{"255.255.255.0": 24, "255.255.255.255": 32, "0.0.0.0": 0, "64": 64, "/64": 64, "ffff:ffff::": 32} {
		n, ok := prefixLength(s)
		require.True(t, ok, s)
		require.Equal(t, want, n, s)
	}
	for _, s := range []string{"", "255.0.255.0", "129", "x"} {
		_, ok := prefixLength(s)
		require.False(t, ok, s)
	}
}

func TestTornNames(t *testing.T) {
	require.Equal(t, `C:\a.b\disk.torn.vhdx`, tornName(`C:\a.b\disk.vhdx`))
	require.Equal(t, `C:\a.b\disk.torn`, tornName(`C:\a.b\disk`))
}

// An earlier Lifeboat knows of no generations: what it reads tells it to leave the
// machine alone, also where the record's first generation was never written.
func TestAnEarlierVersionSeesThatThereIsARecord(t *testing.T) {
	p := newPit(t, hypervtest.Options{}, hypervtest.VMSpec{})
	require.NoError(t, p.v.Stop(context.Background(), p.id))
	for epoch := uint64(1); epoch < 4; epoch++ {
		ctx := dr.WithFences(context.Background(), map[string]uint64{"protection/p": epoch})
		require.NoError(t, p.v.Stop(ctx, p.id))
		require.NoError(t, p.fill(p.id, p.described("p"), 'a'))
		m := p.look()
		_, err := parseRecord(m.kept[recordName], m.id)
		require.ErrorIs(t, err, dr.ErrUnsupported)
		require.EqualValues(t, "p", m.record.Holds)
		generations := 0
		for name := range m.kept {
			if strings.HasPrefix(name, recordName+"@") {
				generations++
			}
		}
		require.Equal(t, 1, generations, "older ones are taken away: %v", m.kept)
	}
}

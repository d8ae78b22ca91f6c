package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestBlockSet(t *testing.T) {
	r := random(t)
	for range 200 {
		disk := dr.Disk{ID: "d", Size: 1 + r.Int64N(3*pageBlocks*dr.SumBlock)}
		blocks := (disk.Size + dr.SumBlock - 1) / dr.SumBlock
		list := changeList{"d": blockSet{}}
		want := make([]bool, blocks)
		for range r.IntN(20) {
			off := r.Int64N(disk.Size)
			n := r.Int64N(disk.Size-off+1) >> r.IntN(40)
			list["d"].add(off, n)
			for b := off / dr.SumBlock; n > 0 && b <= (off+n-1)/dr.SumBlock; b++ {
				want[b] = true
			}
		}
		got := make([]bool, blocks)
		end := int64(-1)
		for e := range list.extents("d", disk.Size) {
			require.Greater(t, e.Off, end, "ascending, and joined")
			require.Positive(t, e.Len)
			require.Zero(t, e.Off%dr.SumBlock)
			end = e.End()
			require.LessOrEqual(t, end, disk.Size)
			for b := e.Off / dr.SumBlock; b*dr.SumBlock < end; b++ {
				got[b] = true
			}
		}
		require.Equal(t, want, got)
	}
}

func FuzzChangeList(f *testing.F) {
	for _, s := range []string{"0 512\n", "a 0 512\nb 1 1", "# x\n\n", "18446744073709551615 1", "a -1 1", "0 1 2 3", "\x00 0 0"} {
		f.Add(s, int64(1<<20))
	}
	f.Fuzz(func(t *testing.T, text string, size int64) {
		disks := []dr.Disk{{ID: "a", Size: max(0, size%(1<<40))}, {ID: "b", Size: 1000}}
		for n := 1; n <= 2; n++ {
			list, err := parseChangeList("list", strings.NewReader(text), disks[:n])
			if err != nil {
				continue
			}
			for _, d := range disks[:n] {
				for e := range list.extents(d.ID, d.Size) {
					require.LessOrEqual(t, e.End(), d.Size)
				}
			}
		}
	})
}

func TestParseAge(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"72h": 72 * time.Hour, "30d": 720 * time.Hour, "1w12h": 180 * time.Hour, "1h30m5s": 5405 * time.Second, "15250w": 15250 * 7 * 24 * time.Hour,
		"": 0, "0h": 0, "5": 0, "h": 0, "5y": 0, "-1h": 0, "1.5h": 0, "1h ": 0, "99999999999999999999h": 0, "15251w": 0, "15250w15250w": 0,
	} {
		got, err := parseAge(s)
		require.Equal(t, want, got, s)
		require.Equal(t, want == 0, err != nil, s)
	}
}

package suspicion_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/suspicion"
)

// row makes a chain of points; each number is how many of 1000 blocks turned,
// -1 a point without statistics.
func row(turned ...int64) (all []dr.Point) {
	for i, n := range turned {
		p := dr.Point{ID: dr.PointID(fmt.Sprint(i))}
		if i > 0 {
			p.Parent = all[i-1].ID
		}
		if n >= 0 {
			p.Changes = dr.ChangeStats{Complete: true, Blocks: 1200, Known: 1200, Over: 1000, Turned: n, Grown: n*30_000 + 1, Shrunk: 0}
		}
		all = append(all, p)
	}
	return all
}

func since(points []dr.Point, o suspicion.Options) (ids []dr.PointID) {
	for _, v := range suspicion.Judge(points, o) {
		ids = append(ids, v.Since)
	}
	return ids
}

func TestJudge(t *testing.T) {
	quick := row(-1, 3, 0, 900, 0, 1)
	require.Equal(t, []dr.PointID{"", "", "", "3", "3", "3"}, since(quick, suspicion.Options{}), "what was encrypted stays so")
	require.Equal(t, make([]dr.PointID, 6), since(quick, suspicion.Options{Accepted: func(id dr.PointID) bool { return id == "3" }}))

	back := append(quick, row(0)...)
	back[6].ID, back[6].Parent = "back", "2"
	require.Empty(t, since(back, suspicion.Options{})[6], "written over a point from before")

	require.Equal(t, make([]dr.PointID, 3), since(row(1000, -1, -1), suspicion.Options{}), "the first copy is never flagged")
	for _, v := range suspicion.Judge(row(1000, -1, -1), suspicion.Options{}) {
		require.False(t, v.Judged, "never judged without statistics")
	}
	require.Equal(t, make([]dr.PointID, 5), since(row(-1, 2, 200, 3, 250), suspicion.Options{}), "a fifth of what was written over is work")

	slow := row(-1, 0, 1, 0, 0, 1, 0, 0)
	for i := 8; i < 16; i++ {
		p := row(0, 40)[1]
		p.ID, p.Parent = dr.PointID(fmt.Sprint(i)), slow[i-1].ID
		p.Changes.Over = 80
		slow = append(slow, p)
	}
	got := suspicion.Judge(slow, suspicion.Options{})
	require.Equal(t, dr.PointID("8"), got[15].Since, "slow encryption is dated back to its first point: %+v", got)
	require.NotEmpty(t, got[9].Reasons)
}

package health

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestSuspiciousPointsAreCritical(t *testing.T) {
	at := time.Date(2026, 5, 6, 7, 0, 0, 0, time.UTC)
	calm, hit := dr.ChangeStats{Complete: true, Blocks: 1000, Known: 1000, Over: 1000}, dr.ChangeStats{Complete: true, Blocks: 1000, Known: 1000, Over: 1000, Turned: 900, Grown: 1 << 24}
	points := []dr.Point{{ID: "a", Time: at}, {ID: "b", Parent: "a", Time: at.Add(time.Minute), Changes: hit}, {ID: "c", Parent: "b", Time: at.Add(2 * time.Minute), Changes: calm}}
	f := Facts{Protection: dr.Protection{ID: "p", State: dr.Protected, Last: points[2]}, Now: at.Add(3 * time.Minute), Points: points}
	r := Of(f)
	require.Equal(t, Critical, r.Level)
	require.Equal(t, CodeSuspicious, r.Errors[0].Code)
	require.Equal(t, at.Add(time.Minute), r.Errors[0].Time)
	require.Contains(t, r.Errors[0].Message, "since point b of 2026-05-06T07:01:00Z: 900 of 1000 blocks")

	f.Protection.Accept("b", "someone")
	require.Equal(t, Normal, Of(f).Level)
}

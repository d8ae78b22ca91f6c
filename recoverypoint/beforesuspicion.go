package recoverypoint

import (
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/suspicion"
)

// BeforeSuspicion returns those of a machine's points, as a store's List
// yields them, that [LatestBeforeSuspicion] offers: none that is suspicious,
// and none right before those of which there were no statistics, because what
// is suspicious may have begun there. The first point of a chain, which was
// written over nothing, has none by nature and is offered. Without anything
// suspicious it returns points itself; it never changes it.
func BeforeSuspicion(points []dr.Point) []dr.Point {
	verdicts := suspicion.Judge(points, suspicion.Options{})
	if !slices.ContainsFunc(verdicts, func(v suspicion.Verdict) bool { return v.Suspicious }) {
		return points
	}
	var kept []dr.Point
	tail := false // behind p, but for points without statistics, is a suspicious one
	for i, p := range slices.Backward(points) {
		v := verdicts[i]
		switch {
		case v.Suspicious:
			tail = true
		case tail && !v.Judged && p.Parent != "":
		default:
			tail = false
			kept = append(kept, p)
		}
	}
	slices.Reverse(kept)
	return kept
}

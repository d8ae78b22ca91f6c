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
// suspicious it returns points itself; it never changes it. accepted are points
// that a person found harmless (a dr.Protection's Accepted); it may be nil.
func BeforeSuspicion(points []dr.Point, accepted map[dr.PointID]string) []dr.Point {
	verdicts := judged(points, accepted)
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

// Held returns the points that retention must leave because of suspicion, with
// why, to be added to the pins that [Expired] is given. While the newest point
// is suspicious these are all that are not, since one of them may have to be
// gone back to, and those whose own statistics say so: without them, and the
// past that they are compared with, what follows would look clean. What a
// person accepted stays as long as suspicious points do that it ends. The
// result is never nil. Nobody but a person, or a machine that goes on from an
// earlier point, ends this: watch the store's room meanwhile.
func Held(points []dr.Point, accepted map[dr.PointID]string) map[dr.PointID]string {
	held := map[dr.PointID]string{}
	verdicts := judged(points, accepted)
	suspicious := len(verdicts) > 0 && verdicts[len(verdicts)-1].Suspicious
	before := false
	for i, v := range verdicts {
		_, ok := accepted[v.Point]
		switch {
		case ok && before:
			held[v.Point] = "accepted"
		case suspicious && (!v.Suspicious || v.Own):
			held[v.Point] = "suspicion since " + string(verdicts[len(verdicts)-1].Since)
		}
		before = before || verdicts[i].Suspicious
	}
	return held
}

func judged(points []dr.Point, accepted map[dr.PointID]string) []suspicion.Verdict {
	return suspicion.Judge(points, suspicion.Options{Accepted: func(id dr.PointID) bool { _, ok := accepted[id]; return ok }})
}

package health

import (
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/suspicion"
)

// suspicion finds what the newest point is suspected of. It is one finding for
// as long as the streak lasts.
func (j *judge) suspicion() {
	if len(j.Points) == 0 {
		return
	}
	accepted := func(id dr.PointID) bool { _, ok := j.Protection.Accepted[id]; return ok }
	verdicts := suspicion.Judge(j.Points, suspicion.Options{Accepted: accepted})
	last := verdicts[len(verdicts)-1]
	if !last.Suspicious {
		return
	}
	for i, v := range verdicts {
		if v.Point != last.Since {
			continue
		}
		j.add(CodeSuspicious, fmt.Sprintf("since point %s of %s: %s", v.Point, stamp(j.Points[i].Time), strings.Join(v.Reasons, "; ")), j.Points[i].Time, string(last.Since))
		return
	}
}

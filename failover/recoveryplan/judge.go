package recoveryplan

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// judgeInput is that of steps at which many meet.
type judgeInput struct {
	// Stops are earlier steps whose failure stops the run here. They are
	// optional ones: the run itself goes on to its end.
	Stops []string `json:"stops,omitempty"`
}

// judged is such a step's result.
type judged struct {
	// Stopped is why nothing more is started; "": the run goes on.
	Stopped string `json:"stopped,omitempty"`
}

// judge1 waits for nothing: that it runs is what others wait for.
func judge1(_ context.Context, c *dr.Call) (json.RawMessage, error) {
	var in judgeInput
	if err := read(c, &in); err != nil {
		return nil, err
	}
	j := judged{Stopped: stopped(c)}
	if j.Stopped == "" {
		var failed []string
		for _, s := range in.Stops {
			if _, ok := c.Results[s]; !ok {
				failed = append(failed, s)
			}
		}
		if len(failed) > 0 {
			j.Stopped = fmt.Sprintf("step %s failed", strings.Join(failed, ", "))
		}
	}
	return json.Marshal(j)
}

// stopped says why an earlier step stops the run; "" if none does.
func stopped(c *dr.Call) string {
	ids := make([]string, 0, len(c.Results))
	for id := range c.Results {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if !isJudge(id) {
			continue
		}
		var j judged
		if json.Unmarshal(c.Results[id], &j) == nil && j.Stopped != "" {
			return j.Stopped
		}
	}
	return ""
}

// isJudge reports whether the step is one at which many meet.
func isJudge(id string) bool {
	for _, end := range []string{"/ready", "/started", "/done", "/judged"} {
		if strings.HasSuffix(id, end) {
			return true
		}
	}
	return strings.HasPrefix(id, "all/")
}

// stepMachine returns the machine that a step of the stage is about.
func stepMachine(id, stage string) (dr.ProtectionID, bool) {
	m, ok := strings.CutPrefix(id, stage+"/")
	return dr.ProtectionID(m), ok
}

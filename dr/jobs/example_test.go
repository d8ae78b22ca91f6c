package jobs_test

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/jobs"
)

// A console shows a plan of two machines. The second one failed; what drives
// which run is told by who made the plan.
func ExampleOf() {
	runs := map[dr.RunID]dr.Status{
		"shop/web": {Run: "shop/web", Flow: "planned-failover", State: dr.RunDone, Steps: []dr.StepStatus{
			{ID: "start", Action: "failover.start@1", State: dr.StepDone, Attempt: 1}}},
		"shop/db": {Run: "shop/db", Flow: "planned-failover", State: dr.RunFailed, Reason: "step start: no room", Steps: []dr.StepStatus{
			{ID: "start", Action: "failover.start@1", State: dr.StepFailed, Attempt: 18, Err: "no room"}}},
	}
	plan := dr.Status{Run: "shop", Flow: "plan planned-failover", State: dr.RunDone, Steps: []dr.StepStatus{
		{ID: "web", Action: "plan.machine@1", State: dr.StepDone, Attempt: 1}, {ID: "db", Action: "plan.machine@1", State: dr.StepDone, Attempt: 1},
	}}
	job := jobs.Of(plan, jobs.Options{
		Children: func(s dr.Status, st dr.StepStatus) []dr.RunID {
			if s.Run != "shop" {
				return nil
			}
			return []dr.RunID{s.Run + "/" + dr.RunID(st.ID)}
		},
		Child: func(id dr.RunID) (dr.Status, bool) { s, ok := runs[id]; return s, ok }, // jobs.Load asks an orchestrator
	})
	show(job, "")
	// Output:
	// shop: PartiallySucceeded
	//   web: Completed
	//   shop/web: Completed
	//     start: Completed
	//   db: Completed
	//   shop/db: Failed [restart]
	//     start: Failed after 18 attempts: no room
}

func show(j jobs.Job, indent string) {
	fmt.Printf("%s%s: %s", indent, j.ID, j.State)
	if len(j.Controls) > 0 {
		fmt.Print(" ", j.Controls)
	}
	fmt.Println()
	for _, t := range j.Tasks {
		fmt.Printf("%s  %s: %s", indent, t.ID, t.State)
		for _, e := range t.Errors {
			fmt.Printf(" after %d attempts: %s", t.Attempts, e.Message)
		}
		fmt.Println()
		for _, c := range t.Jobs {
			show(c, indent+"  ")
		}
	}
}

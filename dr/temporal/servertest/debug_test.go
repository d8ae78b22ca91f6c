package servertest

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/api/enums/v1"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func (p polite) dump(q string, id dr.RunID, start time.Time) {
	fmt.Println("SLOW", q, id, "asked", start.UTC().Format("05.000"), "answered", time.Now().UTC().Format("05.000"))
	it := server.GetDefaultClient().GetWorkflowHistory(context.Background(), q+"/"+string(id), "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("   ", e.GetEventId(), e.GetEventTime().AsTime().Format("05.000"), e.GetEventType())
	}
}

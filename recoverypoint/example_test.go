package recoverypoint_test

import (
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

func ExampleChoose() {
	noon := time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)
	points := []dr.Point{
		{ID: "p1", Time: noon, Consistency: dr.ApplicationConsistent},
		{ID: "p2", Time: noon.Add(5 * time.Minute), Consistency: dr.CrashConsistent},
	}
	for _, o := range []recoverypoint.Option{recoverypoint.Latest, recoverypoint.LatestApplicationConsistent} {
		p, err := recoverypoint.Choose(points, recoverypoint.Choice{Option: o})
		fmt.Println(o, p.ID, err)
	}
	_, err := recoverypoint.Choose(points[1:], recoverypoint.Choice{Option: recoverypoint.LatestApplicationConsistent})
	fmt.Println(err)
	// Output:
	// latest p2 <nil>
	// latest-application-consistent p1 <nil>
	// choose latest-application-consistent on store: no such recovery point: the newest of 1 is p2 of 2024-05-06T12:05:00Z, crash-consistent, and none is application-consistent (choose latest-processed, or see why the guest can't be quiesced)
}

func ExampleExpired() {
	noon := time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)
	var points []dr.Point
	for day := range 5 {
		points = append(points, dr.Point{ID: dr.PointID(fmt.Sprint("day", day)), Time: noon.AddDate(0, 0, day)})
	}
	pinned := map[dr.PointID]string{"day0": "test failover"}
	fmt.Println(recoverypoint.Expired(points, recoverypoint.VMwarePolicy(), noon.AddDate(0, 0, 5), pinned))
	// Output: [day1]
}

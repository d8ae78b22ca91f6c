package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// A process that keeps all protections' points young: at most four cycles a
// site, and half of the link during office hours.
func Example() {
	home := memory.New(memory.Options{Site: "berlin"}) // a vCenter, a Hyper-V host, physical machines
	must(home.Add(dr.Machine{ID: "web", Power: dr.On, Disks: []dr.Disk{{ID: "system", Size: 1 << 30}}}))
	must(home.Write("web", "system", []byte("a boot loader, and so on"), 0))
	records := newRecords() // embedded.Engine keeps them in a file
	env := &replication.Env{Records: records, Sites: replication.Sites{
		"berlin": {Backend: home, Points: memstore.New(memstore.Options{})},
		"bonn":   {Backend: memory.New(memory.Options{Site: "bonn"}), Points: memstore.New(memstore.Options{})},
	}}
	web := replication.New("web", dr.Place{Site: "berlin", Machine: "web"}, "bonn")
	web.State, web.Policy = dr.Protected, "gold" // what replication.Protect comes to
	_, err := records.Save(context.Background(), web)
	must(err)

	ctx, stop := context.WithCancel(context.Background())
	s, err := scheduler.New(env, scheduler.Options{
		Policies: replication.Policies{"gold": {Every: time.Minute, Forward: recoverypoint.Policy{
			Keep: 72 * time.Hour, ApplicationEvery: time.Hour, RPO: 5 * time.Minute}}},
		Limits: scheduler.Limits{PerSite: 4},
		Bandwidth: []scheduler.Bandwidth{{From: "berlin", To: "bonn", Windows: []scheduler.Window{
			{Days: scheduler.Workdays(), Begin: 8 * time.Hour, End: 18 * time.Hour, Rate: 50e6}}}},
		Ramp: time.Millisecond,
		Observe: func(e scheduler.Event) {
			switch e.Kind {
			case scheduler.Ended:
				fmt.Printf("%s: point (%s-consistent), %d KiB travelled\n", e.Protection, e.Report.Point.Consistency, e.Report.Written>>10)
				stop() // a real one runs until the process ends
			case scheduler.Failed:
				fmt.Printf("%s: %v, tried again at %v\n", e.Protection, e.Err, e.Until)
			}
		},
	})
	must(err)
	if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
		fmt.Println(err)
	}
	st := s.Status()
	fmt.Printf("%d protection, %d late, %d failing\n", len(st.Protections), st.Late, st.Failing)
	// Output:
	// web: point (application-consistent), 64 KiB travelled
	// 1 protection, 0 late, 0 failing
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

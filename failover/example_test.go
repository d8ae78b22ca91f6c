package failover_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A machine is protected, its site is lost, and it is failed over, with the
// caller's own step behind the start. Memory stands in for the two platforms.
func ExampleUnplanned() {
	ctx := context.Background()
	hq, away := memory.New(memory.Options{}), memory.New(memory.Options{Site: "away"})
	must(hq.Add(dr.Machine{ID: "web", Power: dr.On, Disks: []dr.Disk{{ID: "sda", Size: 1 << 20, Boot: true}}}))
	must(hq.Write("web", "sda", []byte("orders of today"), 4096))

	engine, stop := open()
	defer stop()
	env := &replication.Env{Records: engine, Sites: replication.Sites{
		"hq":   {Backend: hq, Points: memstore.New(memstore.Options{})},
		"away": {Backend: away, Points: memstore.New(memstore.Options{})},
	}}
	own := dr.Actions{"dns.point@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
		fmt.Println("the name web now leads to away")
		return nil, nil
	}}
	actions := value(dr.Merge(replication.Actions(env), failover.Actions(env), own))
	go func() { _ = engine.Serve(ctx, actions) }()

	p := value(engine.Save(ctx, replication.New("web", dr.Place{Site: "hq", Machine: "web"}, "away")))
	run(ctx, engine, "1-protect", value(replication.Protect(p)))

	must(hq.Destroy("web")) // the disaster

	plan := value(failover.Unplanned(value(engine.Load(ctx, "web")), failover.Options{Shutdown: true}))
	plan = value(plan.InsertAfter(failover.StepStart, dr.Step{ID: "dns", Action: "dns.point@1"}))
	run(ctx, engine, "2-failover", plan)

	p = value(engine.Load(ctx, "web"))
	data := make([]byte, 15)
	_ = value(value(away.Disk(p.Active.Machine, "sda")).ReadAt(data, 4096))
	fmt.Printf("%s: %s runs at %s with the %s\n", p.State, p.Active.Machine, p.Active.Site, data)
	// Output:
	// protect: done
	// the name web now leads to away
	// shutdown failed, and the failover went on
	// final-sync failed, and the failover went on
	// measure failed, and the failover went on
	// unplanned-failover: done
	// failed-over: away-1 runs at away with the orders of today
}

// run starts a plan, waits for its end, and tells how it went.
func run(ctx context.Context, engine *embedded.Engine, id dr.RunID, plan dr.Plan) {
	must(engine.Start(ctx, id, plan))
	st := value(dr.Wait(ctx, engine, id, nil))
	for _, s := range st.Steps {
		if s.State == dr.StepFailed {
			fmt.Printf("%s failed, and the failover went on\n", s.ID)
		}
	}
	fmt.Printf("%s: %s\n", st.Flow, st.State)
}

func open() (*embedded.Engine, func()) {
	dir := value(os.MkdirTemp("", "lifeboat"))
	engine := value(embedded.Open(filepath.Join(dir, "journal.db"), embedded.Options{}))
	return engine, func() {
		must(engine.Close())
		must(os.RemoveAll(dir))
	}
}

func value[T any](v T, err error) T {
	must(err)
	return v
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

package cleanroom_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/cleanroom"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A machine was encrypted, and its newest points with it. The newest point
// that a scan calls clean is found, and a copy of the machine is started from
// it without a network, to be looked at before the machine goes back there.
func ExampleFind() {
	ctx := context.Background()
	hq, away := memory.New(memory.Options{}), memory.New(memory.Options{Site: "away"})
	points := memstore.New(memstore.Options{})
	must(hq.Add(dr.Machine{ID: "web", Power: dr.On, NICs: []dr.NIC{{Network: "production"}}, Disks: []dr.Disk{{ID: "sda", Size: 1 << 20, Boot: true}}}))
	must(hq.Write("web", "sda", []byte("orders of today"), 4096))

	dir := value(os.MkdirTemp("", "lifeboat"))
	defer os.RemoveAll(dir)
	engine := value(embedded.Open(filepath.Join(dir, "journal.db"), embedded.Options{}))
	defer engine.Close()
	env := &replication.Env{Records: engine, Sites: replication.Sites{
		"hq":   {Backend: hq, Points: memstore.New(memstore.Options{})},
		"away": {Backend: away, Points: points},
	}}
	go func() {
		_ = engine.Serve(ctx, value(dr.Merge(replication.Actions(env), failover.Actions(env))))
	}()
	run := func(id dr.RunID, plan dr.Plan) {
		must(engine.Start(ctx, id, plan))
		fmt.Println(id, value(dr.Wait(ctx, engine, id, nil)).State)
	}
	p := value(engine.Save(ctx, replication.New("web", dr.Place{Site: "hq", Machine: "web"}, "away")))
	run("protect", value(replication.Protect(p)))

	must(hq.Write("web", "sda", []byte("pay, or else!!!"), 4096)) // the attack
	for range 2 {
		_ = value(env.Replicate(ctx, "web", dr.CrashConsistent, nil))
	}

	found := value(cleanroom.Find(ctx, points, "web", func(ctx context.Context, img dr.Image) (bool, []string, error) {
		b := make([]byte, 15)
		if _, err := img.ReadAt(ctx, "sda", b, 4096); err != nil {
			return false, nil, err
		}
		if bytes.Contains(b, []byte("pay")) {
			return false, []string{"a ransom note"}, nil
		}
		return true, nil, nil
	}, cleanroom.Options{}))
	for _, e := range found.Evidence {
		fmt.Println("clean:", e.Clean, e.Findings)
	}

	choice := recoverypoint.Choice{Option: recoverypoint.Custom, Point: found.Point.ID}
	run("drill", value(failover.Test(value(engine.Load(ctx, "web")), "drill", failover.Options{Point: choice})))
	copied := value(engine.Load(ctx, "web")).Test.Place.Machine
	m := value(away.Machine(ctx, copied))
	b := make([]byte, 15)
	_ = value(value(away.Disk(copied, "sda")).ReadAt(b, 4096))
	fmt.Printf("power %s, network %q, with the %s\n", m.Power, m.NICs[0].Network, b)

	run("clean-up", value(failover.CleanUp(value(engine.Load(ctx, "web")), "no trace of the attack")))
	// Output:
	// protect done
	// clean: false [a ransom note]
	// clean: false [a ransom note]
	// clean: true []
	// drill done
	// power on, network "", with the orders of today
	// clean-up done
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

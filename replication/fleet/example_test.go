package fleet_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// Two workers, which are two processes usually, share the machines of a fleet;
// one of them is drained, before an upgrade say, and the other has them all.
func Example() {
	dir, err := os.MkdirTemp("", "fleet")
	must(err)
	defer os.RemoveAll(dir)
	records, err := embedded.Open(filepath.Join(dir, "records"), embedded.Options{}) // postgres.Open, for many processes
	must(err)
	defer records.Close()
	leases := &fleet.Memory{} // its Leases, then
	layout := fleet.Layout{Shards: 8}
	sites := replication.Sites{
		"berlin": {Backend: memory.New(memory.Options{Site: "berlin"}), Points: memstore.New(memstore.Options{})},
		"bonn":   {Backend: memory.New(memory.Options{Site: "bonn"}), Points: memstore.New(memstore.Options{})},
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	begin := func(name string) *fleet.Worker {
		w, err := fleet.New(&replication.Env{Records: fleet.Guard(records), Sites: sites},
			fleet.Options{Leases: leases, Layout: layout, Name: name, TTL: 3 * time.Second})
		must(err)
		go func() { _ = w.Run(ctx) }()
		return w
	}
	begin("ann")
	ben := begin("ben")
	until := func(a, b int) {
		for {
			v, err := leases.View(ctx)
			must(err)
			has := map[string]int{}
			for _, s := range fleet.Table(layout, v) {
				has[s.Name]++
			}
			if has["ann"] == a && has["ben"] == b {
				fmt.Printf("ann has %d shards, ben %d\n", a, b)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	until(4, 4)
	must(ben.Drain(ctx))
	until(8, 0)

	p := replication.New("web", dr.Place{Site: "berlin", Machine: "web"}, "bonn")
	shard, _ := layout.Of(p)
	fmt.Println("web belongs to", shard)
	// Output:
	// ann has 4 shards, ben 4
	// ann has 8 shards, ben 0
	// web belongs to 0001
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

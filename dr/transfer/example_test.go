package transfer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/transfer"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A protection leaves the engine's file for another place: here another
// engine's, usually a database.
func ExampleMove() {
	dir, err := os.MkdirTemp("", "transfer")
	check(err)
	defer os.RemoveAll(dir)
	ctx := context.Background()
	old, err := embedded.Open(filepath.Join(dir, "old"), embedded.Options{})
	check(err)
	defer old.Close()
	next, err := embedded.Open(filepath.Join(dir, "next"), embedded.Options{}) // postgres.Open(ctx, ...)
	check(err)
	defer next.Close()

	leaving := transfer.Leaving(old) // what this process uses from now on
	_, err = leaving.Save(ctx, replication.New("web", dr.Place{Site: "berlin", Machine: "web"}, "bonn"))
	check(err)

	r, err := transfer.Move(ctx, leaving, next, transfer.Options{To: "next"}) // Hold: env.Hold
	check(err)
	fmt.Println(r.Moved, "moved,", len(r.Held), "held by runs")
	p, err := next.Load(ctx, "web")
	check(err)
	fmt.Println(p.ID, "is at", p.Active.Site)
	_, err = leaving.Save(ctx, p)
	fmt.Println(err)
	// Output:
	// 1 moved, 0 held by runs
	// web is at berlin
	// protection web: not allowed in this state: its record has moved to next
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

package postgres_test

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr/postgres"
)

// Records and claims of a fleet in one database. The password comes from
// ~/.pgpass or the environment, as libpq's does.
func ExampleOpen() {
	ctx := context.Background()
	store, err := postgres.Open(ctx, postgres.Options{
		DSN: "postgres://lifeboat@db1.example,db2.example/recovery?sslmode=verify-full&pool_max_conns=8",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	// embedded.Options and temporal.Options take it as Claims, replication.Env as
	// Records, and fleet.Options have its Leases.
	for p, err := range store.Protections(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(p.ID, p.State, "at", p.Active.Site)
	}
}

// The owner of the schema runs this once, and again after an upgrade.
func ExampleGrants() {
	fmt.Println(postgres.Grants("lifeboat", "worker"))
}

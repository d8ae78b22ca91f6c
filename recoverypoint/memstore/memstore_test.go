package memstore_test

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/pointstoretest"
)

func TestStoreKeepsThePromises(t *testing.T) {
	for name, o := range map[string]memstore.Options{"at once": {}, "deferred": {Deferred: true}} {
		t.Run(name, func(t *testing.T) {
			pointstoretest.Run(t, pointstoretest.Harness{
				Open: func(testing.TB) recoverypoint.PointStore { return memstore.New(o) },
				Reopen: func(_ testing.TB, s recoverypoint.PointStore) recoverypoint.PointStore {
					s.(*memstore.Store).Crash()
					return s
				},
			})
		})
	}
}

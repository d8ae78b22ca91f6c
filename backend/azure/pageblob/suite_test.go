package pageblob

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/pointstoretest"
)

func TestStoreKeepsThePromises(t *testing.T) {
	for _, s := range []service{simulated, emulated} {
		t.Run(s.name, func(t *testing.T) {
			histories := 0
			if s.name == emulated.name {
				histories = 2
			}
			pointstoretest.Run(t, pointstoretest.Harness{
				Open: func(t testing.TB) recoverypoint.PointStore {
					return New(s.start(t)(nil), plainOptions)
				},
				Reopen: func(_ testing.TB, s recoverypoint.PointStore) recoverypoint.PointStore {
					return New(s.(*Store).c, plainOptions)
				},
				Histories: histories,
			})
		})
	}
}

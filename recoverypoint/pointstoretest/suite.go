// Package pointstoretest is what every recoverypoint.PointStore must pass:
// each promise that the contracts of store, image and draft make, as a subtest
// of its own, and random histories compared with a model.
//
// Stores of this project and of others run it from their tests:
//
//	func TestStore(t *testing.T) {
//		pointstoretest.Run(t, pointstoretest.Harness{
//			Open: func(t testing.TB) recoverypoint.PointStore { return mystore.New(t.TempDir()) },
//		})
//	}
//
// The suite proves itself on stores that lie, in its own tests. What only one
// store promises (a format, damage, encryption) does not belong here.
package pointstoretest

import (
	"slices"
	"testing"

	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Harness gives the suite its stores.
type Harness struct {
	// Open returns a new and empty store, and arranges by t.Cleanup for what
	// is to be closed. It fails t if it can't.
	Open func(t testing.TB) recoverypoint.PointStore

	// Reopen returns s as another process finds it after the one that used
	// it was killed. The suite touches no draft or image of s after that.
	// nil: what crashes promise is not tested.
	Reopen func(t testing.TB, s recoverypoint.PointStore) recoverypoint.PointStore

	// Histories is how many random histories are run; 0: 30, under -short 5.
	Histories int
	// Seed makes the histories of an earlier run again; 0: a new one, which
	// is logged.
	Seed uint64
}

// promise is one sentence of the contract. check reports on k, and may assume
// a new store.
type promise struct {
	name  string
	check func(k *kit)
}

func promises() []promise {
	return slices.Concat(pointPromises, deletePromises, contentPromises, sumPromises, changePromises, resumePromises)
}

// Run tests the promises one by one, then random histories.
func Run(t *testing.T, h Harness) {
	for _, p := range promises() {
		t.Run(p.name, func(t *testing.T) { p.check(newKit(t, h)) })
	}
	t.Run("random histories", func(t *testing.T) { histories(t, h) })
}

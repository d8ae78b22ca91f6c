package replication_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// BenchmarkGroupFreeze tells how long a group's machines are held when the
// platform costs nothing: what the coordination itself takes.
func BenchmarkGroupFreeze(b *testing.B) {
	for _, n := range []int{2, 10, 50} {
		b.Run(fmt.Sprint(n, " machines"), func(b *testing.B) {
			f := newFleet(b, n, memory.Options{}, memstore.Options{}, nil)
			var frozen float64
			cycles := 0
			for b.Loop() {
				r := f.replicate(b.Context(), dr.CrashConsistent, replication.GroupOptions{})
				require.NoError(b, r.Why)
				frozen += float64(r.Frozen.Microseconds())
				cycles++
			}
			b.ReportMetric(frozen/float64(cycles), "µs-frozen/op")
		})
	}
}

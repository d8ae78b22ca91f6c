package embedded

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// BenchmarkSteps runs plans whose steps do nothing: an operation is a step,
// journaled before and after.
func BenchmarkSteps(b *testing.B) {
	for _, runs := range []int{1, 10, 100} {
		b.Run(fmt.Sprint("runs=", runs), func(b *testing.B) {
			e := open(b, journal(b), Options{})
			each := max(1, b.N/runs)
			left, all := atomic.Int64{}, make(chan struct{})
			left.Store(int64(each * runs))
			serve(b, e, dr.Actions{"do": func(context.Context, *dr.Call) (json.RawMessage, error) {
				if left.Add(-1) == 0 {
					close(all)
				}
				return nil, nil
			}})
			b.ReportAllocs()
			b.ResetTimer()
			for i := range runs {
				require.NoError(b, e.Start(b.Context(), dr.RunID(fmt.Sprint("r", i)), chain(each)))
			}
			<-all // before anybody watches: a watcher costs more than a step
			for i := range runs {
				require.Equal(b, dr.RunDone, wait(b, e, dr.RunID(fmt.Sprint("r", i))).State)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}

// chain is a plan of n steps one after the other.
func chain(n int) dr.Plan {
	p := dr.Plan{Flow: "chain"}
	for i := range n {
		s := dr.Step{ID: fmt.Sprint("s", i), Action: "do"}
		if i > 0 {
			s.After = []string{fmt.Sprint("s", i-1)}
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

// BenchmarkOpen opens a journal of open runs, as after a crash: an operation
// is a run that lives again.
func BenchmarkOpen(b *testing.B) {
	path := journal(b)
	e := open(b, path, Options{})
	for i := range b.N {
		require.NoError(b, e.Start(b.Context(), dr.RunID(fmt.Sprint("r", i)), chain(10)))
	}
	require.NoError(b, e.Close())
	b.ReportAllocs()
	b.ResetTimer()
	open(b, path, Options{})
}

package memory_test

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
)

func TestConformance(t *testing.T) {
	for name, o := range map[string]memory.Options{
		"every ability":  {},
		"fine tracker":   {Granularity: 512},
		"coarse tracker": {Granularity: 192 << 10},
		"no ability": {
			NoTracker: true, NoMap: true, NoSums: true, NoZero: true, NoResume: true, NoList: true,
			NoShutdown: true, NoQuiesce: true, NoSweep: true, NoProbe: true, NoPreflight: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := memory.New(o)
			h := backendtest.Simulated(b, b)
			h.Granularity = o.Granularity
			if h.Granularity == 0 {
				h.Granularity = 64 << 10
			}
			if name != "every ability" {
				h.Histories = 4
			}
			backendtest.Run(t, h)
		})
	}
}

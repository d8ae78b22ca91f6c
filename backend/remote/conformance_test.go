package remote

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
)

func remoteMemory(t testing.TB, o memory.Options) backendtest.Harness {
	b := memory.New(o)
	a := serve(t, b, ServeOptions{})
	c := a.dial(DialOptions{})
	h := backendtest.Simulated(c, b)
	h.Granularity = o.Granularity
	if h.Granularity == 0 {
		h.Granularity = 64 << 10
	}
	h.Histories = 4
	h.Inventory = backendtest.Simulated(b, b).Inventory // the platform's, whoever asks
	h.Reopen = func() (backend.Backend, error) {
		b.Crash()
		if err := c.Close(); err != nil {
			return nil, err
		}
		c = a.dial(DialOptions{})
		return c, nil
	}
	return h
}

// Whatever memory can do, it can do from afar.
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
		t.Run(name, func(t *testing.T) { backendtest.Run(t, remoteMemory(t, o)) })
	}
}

package hyperv

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

// hypervEnd is a host as a site. Nothing of ours is left on what came home to it.
func hypervEnd(t *testing.T, name string) roundtriptest.End {
	s := newSite(t, hypervtest.Options{Name: "HV-" + name})
	return roundtriptest.End{Harness: s.harness(), Name: name, Clean: func(t *testing.T, id dr.MachineID) {
		m, err := s.connect().find(context.Background(), id)
		require.NoError(t, err)
		require.Empty(t, m.others, "checkpoints are left")
		require.Empty(t, m.record.Captures)
		require.LessOrEqual(t, len(m.record.Epochs), maxEpochs)
		vm, err := s.vm(id)
		require.NoError(t, err)
		require.Len(t, vm.ReferencePoints(), len(m.record.Epochs), "reference points are left")
	}}
}

func memoryEnd(_ *testing.T, name string) roundtriptest.End {
	b := memory.New(memory.Options{Site: name})
	return roundtriptest.End{Harness: backendtest.Simulated(b, b), Name: name}
}

// The whole cycle, with Hyper-V on either side and on both, and a guest that
// writes all the time.
func TestRoundTrip(t *testing.T) {
	type end = func(*testing.T, string) roundtriptest.End
	for name, ends := range map[string][2]end{
		"from Hyper-V":  {hypervEnd, memoryEnd},
		"to Hyper-V":    {memoryEnd, hypervEnd},
		"between hosts": {hypervEnd, hypervEnd},
	} {
		t.Run(name, func(t *testing.T) { roundtriptest.Run(t, ends[0](t, "home"), ends[1](t, "far")) })
	}
}

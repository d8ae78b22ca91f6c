package azure_test

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
)

// generous lets the suites make what they want: quotas are tested elsewhere.
var generous = azuretest.Limits{Cores: -1, FamilyCores: map[string]int{"standardDSv5Family": 1 << 20}}

// The whole contract again where disks are uploaded to directly.
func TestContractWithDirectUpload(t *testing.T) {
	r := newRig(t, azuretest.Options{Limits: generous})
	h := r.harness(t)
	h.Place = func(p backend.Placement) backend.Placement {
		if p.Options == nil && p.Original == "" {
			p.Options = []byte(`{"upload":"direct"}`)
		}
		return p
	}
	h.Histories = 3
	backendtest.Run(t, h)
}

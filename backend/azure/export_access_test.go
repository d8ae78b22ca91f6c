package azure

import (
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// MachineName is the name that Azure gets for a machine's.
var MachineName = machineName

// ParseOptions reads placement options.
var ParseOptions = parseOptions

// Explain is what is said of Azure's failures.
var Explain = explain

// Unfit says why a size won't do for a machine.
func Unfit(s *armcompute.ResourceSKU, like dr.Machine, o PlacementOptions) string {
	return readSize(s).fits(like, o, 1)
}

// CPUs and cores of quota of a size.
func CPUs(s *armcompute.ResourceSKU) (guest, quota int) {
	z := readSize(s)
	return z.cpus, z.cores
}

package azuretest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// SKU is a size that machines can have.
type SKU struct {
	Name                  string // Standard_D2s_v5
	Family                string // of quotas: standardDSv5Family
	VCPUs                 int
	MemoryGB              float64
	MaxDataDisks          int
	MaxNICs               int
	Generations           string // V1, V2, or V1,V2
	PremiumIO             bool
	AcceleratedNetworking bool
	TrustedLaunchDisabled bool
	// Restricted says that the subscription may not use it in the region, or
	// only not in these zones.
	Restricted      bool
	RestrictedZones []string
}

// DefaultSKUs returns sizes with the figures that Azure gives them: one of them
// boots only generation 1, Standard_D8s_v5 is restricted in zone 3, and
// Standard_M128 in the region.
func DefaultSKUs() []SKU {
	const both = "V1,V2"
	return []SKU{
		{Name: "Standard_A2_v2", Family: "standardAv2Family", VCPUs: 2, MemoryGB: 4, MaxDataDisks: 4, MaxNICs: 2, Generations: "V1", TrustedLaunchDisabled: true},
		{Name: "Standard_B2ms", Family: "standardBSFamily", VCPUs: 2, MemoryGB: 8, MaxDataDisks: 4, MaxNICs: 3, Generations: both, PremiumIO: true},
		{Name: "Standard_D2s_v5", Family: "standardDSv5Family", VCPUs: 2, MemoryGB: 8, MaxDataDisks: 4, MaxNICs: 2, Generations: both, PremiumIO: true, AcceleratedNetworking: true},
		{Name: "Standard_D4s_v5", Family: "standardDSv5Family", VCPUs: 4, MemoryGB: 16, MaxDataDisks: 8, MaxNICs: 2, Generations: both, PremiumIO: true, AcceleratedNetworking: true},
		{Name: "Standard_D8s_v5", Family: "standardDSv5Family", VCPUs: 8, MemoryGB: 32, MaxDataDisks: 16, MaxNICs: 4, Generations: both, PremiumIO: true, AcceleratedNetworking: true, RestrictedZones: []string{"3"}},
		{Name: "Standard_E4s_v5", Family: "standardESv5Family", VCPUs: 4, MemoryGB: 32, MaxDataDisks: 8, MaxNICs: 2, Generations: both, PremiumIO: true, AcceleratedNetworking: true},
		{Name: "Standard_M128", Family: "standardMSFamily", VCPUs: 128, MemoryGB: 2048, MaxDataDisks: 64, MaxNICs: 8, Generations: both, Restricted: true},
	}
}

// sku finds a size, of which the case does not matter.
func (c *Cloud) sku(name string) (SKU, bool) {
	i := slices.IndexFunc(c.o.SKUs, func(s SKU) bool { return alike(s.Name, name) })
	if i < 0 {
		return SKU{}, false
	}
	return c.o.SKUs[i], true
}

// boots tells whether the size boots a disk of a generation.
func (s SKU) boots(generation armcompute.HyperVGeneration) bool {
	return slices.Contains(strings.Split(s.Generations, ","), string(generation))
}

// available refuses what the subscription may not use.
func (s SKU) available(zones []*string, location string) error {
	restricted := s.Restricted || slices.ContainsFunc(zones, func(z *string) bool { return slices.Contains(s.RestrictedZones, val(z)) })
	if restricted {
		return refuse(http.StatusConflict, "SkuNotAvailable",
			"The requested VM size %s is currently not available in location '%s' zones '%s'.", s.Name, location, zoneNames(zones))
	}
	return nil
}

func zoneNames(zones []*string) string {
	var list []string
	for _, z := range zones {
		list = append(list, val(z))
	}
	return strings.Join(list, ",")
}

func (s SKU) view(location string, zones []string) armcompute.ResourceSKU {
	number := func(n int) string { return strconv.Itoa(n) }
	flag := func(b bool) string { return strings.ToUpper(strconv.FormatBool(b)[:1]) + strconv.FormatBool(b)[1:] }
	var capabilities []*armcompute.ResourceSKUCapabilities
	for _, p := range [][2]string{
		{"vCPUs", number(s.VCPUs)}, {"MemoryGB", strconv.FormatFloat(s.MemoryGB, 'f', -1, 64)},
		{"MaxDataDiskCount", number(s.MaxDataDisks)}, {"MaxNetworkInterfaces", number(s.MaxNICs)},
		{"HyperVGenerations", s.Generations}, {"PremiumIO", flag(s.PremiumIO)},
		{"AcceleratedNetworkingEnabled", flag(s.AcceleratedNetworking)}, {"CpuArchitectureType", "x64"},
	} {
		capabilities = append(capabilities, &armcompute.ResourceSKUCapabilities{Name: to.Ptr(p[0]), Value: to.Ptr(p[1])})
	}
	if s.TrustedLaunchDisabled { // where it is not, Azure does not say so
		capabilities = append(capabilities, &armcompute.ResourceSKUCapabilities{Name: to.Ptr("TrustedLaunchDisabled"), Value: to.Ptr("True")})
	}
	m := armcompute.ResourceSKU{
		Name: to.Ptr(s.Name), Family: to.Ptr(s.Family), ResourceType: to.Ptr("virtualMachines"), Tier: to.Ptr("Standard"),
		Size: to.Ptr(strings.TrimPrefix(s.Name, "Standard_")), Locations: []*string{&location}, Capabilities: capabilities,
		LocationInfo: []*armcompute.ResourceSKULocationInfo{{Location: &location, Zones: pointers(zones)}},
	}
	restrict := func(kind armcompute.ResourceSKURestrictionsType, zones []string) {
		m.Restrictions = append(m.Restrictions, &armcompute.ResourceSKURestrictions{
			Type: &kind, Values: []*string{&location},
			ReasonCode:      to.Ptr(armcompute.ResourceSKURestrictionsReasonCodeNotAvailableForSubscription),
			RestrictionInfo: &armcompute.ResourceSKURestrictionInfo{Locations: []*string{&location}, Zones: pointers(zones)},
		})
	}
	if s.Restricted {
		restrict(armcompute.ResourceSKURestrictionsTypeLocation, nil)
	}
	if len(s.RestrictedZones) > 0 {
		restrict(armcompute.ResourceSKURestrictionsTypeZone, s.RestrictedZones)
	}
	return m
}

func pointers(list []string) []*string {
	var out []*string
	for _, s := range list {
		out = append(out, &s)
	}
	return out
}

package azuretest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

func usageRoutes() []route {
	return []route{
		handle("GET", inSubscription+"/providers/Microsoft.Compute/locations/*/usages", (*Cloud).listUsage),
		handle("GET", inSubscription+"/providers/Microsoft.Compute/skus", (*Cloud).listSKUs),
	}
}

// used counts the cores of machines that have a host or are about to.
func (c *Cloud) used() (cores int, families map[string]int, vms int) {
	families = map[string]int{}
	for _, v := range all[*vm](c, nil) {
		vms++
		if v.allocated() {
			cores += v.size.VCPUs
			families[v.size.Family] += v.size.VCPUs
		}
	}
	return cores, families, vms
}

func (l Limits) family(name string) int {
	n, ok := l.FamilyCores[name]
	switch {
	case !ok:
		return 100
	case n < 0:
		return 1 << 30
	}
	return n
}

// quota refuses one more machine of a size.
func (c *Cloud) quota(s SKU, another bool) error {
	cores, families, vms := c.used()
	l := c.o.Limits
	exceeded := func(what string, limit, used, more int) error {
		if used+more <= limit {
			return nil
		}
		return notAllowed("Operation could not be completed as it results in exceeding approved %s quota. Location: %s, Current Limit: %d, Current Usage: %d, Additional Required: %d.",
			what, c.o.Location, limit, used, more)
	}
	if another {
		if err := exceeded("Virtual Machines", l.VMs, vms, 1); err != nil {
			return err
		}
	}
	if err := exceeded("Total Regional Cores", l.Cores, cores, s.VCPUs); err != nil {
		return err
	}
	return exceeded(s.Family+" Cores", l.family(s.Family), families[s.Family], s.VCPUs)
}

func (c *Cloud) listUsage(q *request) (reply, error) {
	if !alike(q.name(), c.o.Location) {
		return reply{}, refuse(http.StatusBadRequest, "NoRegisteredProviderFound", "location '%s' is not available", q.name())
	}
	cores, families, vms := c.used()
	var list []*armcompute.Usage
	add := func(name, text string, used, limit int) {
		list = append(list, &armcompute.Usage{
			CurrentValue: to.Ptr(int32(used)), Limit: to.Ptr(int64(limit)), Unit: to.Ptr("Count"),
			Name: &armcompute.UsageName{Value: &name, LocalizedValue: &text},
		})
	}
	sets := len(all[*availabilitySet](c, nil))
	add("availabilitySets", "Availability Sets", sets, 2500)
	add("cores", "Total Regional vCPUs", cores, c.o.Limits.Cores)
	add("virtualMachines", "Virtual Machines", vms, c.o.Limits.VMs)
	known := map[string]bool{}
	for _, s := range c.o.SKUs {
		known[s.Family] = true
	}
	for _, f := range slices.Sorted(maps.Keys(known)) {
		add(f, f+" vCPUs", families[f], c.o.Limits.family(f))
	}
	// Disks are counted by the names of their storage.
	kinds := map[string]int{"StandardDiskCount": 0, "StandardSSDDiskCount": 0, "PremiumDiskCount": 0}
	for _, d := range all[*disk](c, nil) {
		kinds[strings.SplitN(string(val(d.model.SKU.Name)), "_", 2)[0]+"DiskCount"]++
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		add(k, k, kinds[k], c.o.Limits.Disks)
	}
	return ok(map[string]any{"value": list})
}

func (c *Cloud) listSKUs(q *request) (reply, error) {
	if filter := q.query.Get("$filter"); filter != "" {
		want := fmt.Sprintf("location eq '%s'", c.o.Location)
		if !alike(strings.Join(strings.Fields(filter), " "), want) {
			return ok(map[string]any{"value": []any{}})
		}
	}
	var list []armcompute.ResourceSKU
	for _, s := range c.o.SKUs {
		list = append(list, s.view(c.o.Location, c.o.Zones))
	}
	for _, name := range []string{"Standard_LRS", "StandardSSD_LRS", "Premium_LRS"} { // not only machines are listed
		list = append(list, armcompute.ResourceSKU{Name: to.Ptr(name), ResourceType: to.Ptr("disks"), Locations: []*string{&c.o.Location}})
	}
	return ok(map[string]any{"value": list})
}

// bucket is how many writes of a machine are left, as of a time.
type bucket struct {
	left float64
	at   time.Time
}

// throttle takes one from the machine's bucket, or refuses.
func (c *Cloud) throttle(id string) error {
	l := c.o.Limits
	if l.VMWrites >= 1<<30 {
		return nil
	}
	now, key := c.o.Clock(), cleanID(id)
	b := c.buckets[key]
	if b == nil {
		b = &bucket{left: float64(l.VMWrites), at: now}
		c.buckets[key] = b
	}
	b.left = min(float64(l.VMWrites), b.left+now.Sub(b.at).Minutes()*float64(l.VMWritesAMinute))
	b.at = now
	if b.left < 1 {
		return &armError{status: http.StatusTooManyRequests, code: "OperationNotAllowed", retryAfter: "1",
			message: "The server rejected the request because too many requests have been received for this subscription."}
	}
	b.left--
	return nil
}

package azure

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// size is a kind of machine that the region offers.
type size struct {
	name, family string
	cpus         int   // that a guest sees
	cores        int   // that count against quotas
	memory       int64 // bytes
	dataDisks    int
	cards        int
	generations  []string // "V1", "V2"
	premium      bool
	trusted      bool
	zones        []string // in which it is to be had
	foreign      string   // why a disk that was copied there won't start on it
	barred       string   // why the subscription can't have it, "" if it can
	barredZones  []string
}

// sizeTable is what the region offers, which changes rarely and is long.
type sizeTable struct {
	mu    sync.Mutex
	at    time.Time
	sizes []size
}

// sizesStay is for how long the table is believed.
const sizesStay = 15 * time.Minute

func (t *sizeTable) all(ctx context.Context, a *Azure) ([]size, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sizes != nil && time.Since(t.at) < sizesStay {
		return t.sizes, nil
	}
	var sizes []size
	pages := a.skus.NewListPager(&armcompute.ResourceSKUsClientListOptions{Filter: to.Ptr("location eq '" + a.opts.Location + "'")})
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		for _, s := range page.Value {
			if strings.EqualFold(deref(s.ResourceType), "virtualMachines") && slices.ContainsFunc(s.Locations, func(l *string) bool { return strings.EqualFold(deref(l), a.opts.Location) }) {
				sizes = append(sizes, readSize(s))
			}
		}
	}
	t.sizes, t.at = sizes, time.Now()
	return sizes, nil
}

func (t *sizeTable) of(ctx context.Context, a *Azure, name string) (size, error) {
	all, err := t.all(ctx, a)
	if err != nil {
		return size{}, err
	}
	i := slices.IndexFunc(all, func(s size) bool { return strings.EqualFold(s.name, name) })
	if i < 0 {
		return size{}, remedied(fmt.Errorf("%w: size %q is not offered in %s", dr.ErrInvalid, name, a.opts.Location), "choose another (placement option size)")
	}
	return all[i], nil
}

func readSize(s *armcompute.ResourceSKU) size {
	z := size{name: deref(s.Name), family: deref(s.Family), cards: 1, generations: []string{"V1"}, trusted: true}
	for _, c := range s.Capabilities {
		v := deref(c.Value)
		n, _ := strconv.Atoi(v) // 0 for what is no number
		switch deref(c.Name) {
		case "vCPUs":
			z.cores = n
			if z.cpus == 0 {
				z.cpus = n
			}
		case "vCPUsAvailable": // of constrained sizes
			if n > 0 {
				z.cpus = n
			}
		case "MemoryGB":
			if f, err := strconv.ParseFloat(v, 64); err == nil {
				z.memory = int64(f * (1 << 30))
			}
		case "MaxDataDiskCount":
			z.dataDisks = n
		case "MaxNetworkInterfaces":
			z.cards = n
		case "HyperVGenerations":
			z.generations = strings.Split(strings.ReplaceAll(v, " ", ""), ",")
		case "PremiumIO":
			z.premium = strings.EqualFold(v, "true")
		case "CpuArchitectureType":
			if !strings.EqualFold(v, "x64") {
				z.foreign = "its processors are " + v
			}
		case "DiskControllerTypes":
			if !strings.Contains(strings.ToUpper(v), "SCSI") {
				z.foreign = "it takes disks by " + v + " only"
			}
		case "ConfidentialComputingType":
			z.foreign = "it is for confidential machines"
		case "TrustedLaunchDisabled":
			z.trusted = !strings.EqualFold(v, "true")
		}
	}
	for _, l := range s.LocationInfo {
		for _, zone := range l.Zones {
			z.zones = append(z.zones, deref(zone))
		}
	}
	for _, r := range s.Restrictions {
		if deref(r.Type) == armcompute.ResourceSKURestrictionsTypeZone && r.RestrictionInfo != nil {
			for _, zone := range r.RestrictionInfo.Zones {
				z.barredZones = append(z.barredZones, deref(zone))
			}
		} else {
			z.barred = "the subscription can't have it here (" + string(deref(r.ReasonCode)) + ")"
		}
	}
	return z
}

// fits says why a size won't do, or "".
func (z size) fits(like dr.Machine, o PlacementOptions, cards int) string {
	gen := string(*generation(like.Firmware))
	switch {
	case z.barred != "":
		return z.barred
	case z.foreign != "":
		return z.foreign
	case len(like.Disks)-1 > z.dataDisks:
		return fmt.Sprintf("it takes %d data disks, and the machine has %d", z.dataDisks, len(like.Disks)-1)
	case cards > z.cards:
		return fmt.Sprintf("it takes %d cards, and the machine has %d", z.cards, cards)
	case !slices.Contains(z.generations, gen):
		return fmt.Sprintf("it runs generations %s, and the machine's firmware makes it %s", strings.Join(z.generations, ", "), gen)
	case strings.HasPrefix(o.DiskType, "Premium") && !z.premium:
		return "it takes no premium disks"
	case o.Security == "TrustedLaunch" && !z.trusted:
		return "it can't be launched trusted"
	case o.Zone != "" && (!slices.Contains(z.zones, o.Zone) || slices.Contains(z.barredZones, o.Zone)):
		return "zone " + o.Zone + " doesn't offer it"
	}
	return ""
}

// choose is the size that is asked for, or else the smallest that has the
// processors and the memory of the machine: of families for general use first.
func (a *Azure) choose(ctx context.Context, like dr.Machine, o PlacementOptions, cards int) (string, error) {
	if o.Size != "" {
		z, err := a.sizes.of(ctx, a, o.Size)
		if err != nil {
			return "", err
		}
		if why := z.fits(like, o, cards); why != "" {
			return "", remedied(fmt.Errorf("%w: size %s: %s", dr.ErrInvalid, z.name, why), "choose another (placement options size, zone)")
		}
		u, err := a.usages(ctx)
		if err == nil {
			err = a.quota(u, z)
		}
		return z.name, err
	}
	all, err := a.sizes.all(ctx, a)
	if err != nil {
		return "", err
	}
	var fit []size
	for _, z := range all {
		if z.cpus >= max(1, like.CPUs) && z.memory >= like.Memory && z.fits(like, o, cards) == "" {
			fit = append(fit, z)
		}
	}
	slices.SortStableFunc(fit, func(x, y size) int {
		return cmp.Or(cmp.Compare(x.cpus, y.cpus), cmp.Compare(x.memory, y.memory), cmp.Compare(rank(x), rank(y)), strings.Compare(y.name, x.name))
	})
	u, err := a.usages(ctx)
	if err != nil {
		return "", err
	}
	var first error
	for _, z := range fit {
		err := a.quota(u, z)
		if err == nil {
			return z.name, nil
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return "", first
	}
	return "", remedied(fmt.Errorf("%w: no size of %s has %d processors and %d MiB of memory, takes %d disks and %d cards, and fits what is asked for", dr.ErrInvalid, a.opts.Location, like.CPUs, like.Memory>>20, len(like.Disks), cards), "name one (placement option size), or give up the zone or the kind of disks")
}

// rank puts families for general use before others.
func rank(z size) int {
	switch {
	case strings.HasPrefix(z.name, "Standard_D"):
		return 0
	case strings.HasPrefix(z.name, "Standard_E"), strings.HasPrefix(z.name, "Standard_F"):
		return 1
	}
	return 2
}

// usages are the subscription's quotas in the region, and what is used of them.
func (a *Azure) usages(ctx context.Context) ([]*armcompute.Usage, error) {
	var all []*armcompute.Usage
	for pages := a.usage.NewListPager(a.opts.Location, nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		all = append(all, page.Value...)
	}
	return all, nil
}

// quota refuses what the subscription's quota won't take.
func (a *Azure) quota(usages []*armcompute.Usage, z size) error {
	for _, u := range usages {
		if u.Name == nil {
			continue
		}
		need := int64(0)
		switch name := deref(u.Name.Value); {
		case strings.EqualFold(name, "cores"), z.family != "" && strings.EqualFold(name, z.family):
			need = int64(z.cores)
		case strings.EqualFold(name, "virtualMachines"):
			need = 1
		}
		if free := deref(u.Limit) - int64(deref(u.CurrentValue)); need > free {
			return remedied(fmt.Errorf("%w: quota %s of %s: %d of %d are used, and size %s needs %d", errRefused, deref(u.Name.Value), a.opts.Location, deref(u.CurrentValue), deref(u.Limit), z.name, need), remedies["QuotaExceeded"].remedy)
		}
	}
	return nil
}

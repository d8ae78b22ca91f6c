package fleet

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Shard names a part of the fleet's protections, which one worker keeps at a
// time: "AREA/0007", or "0007" in an area without a name.
type Shard string

// Resource is the shard's name among those that are fenced: see
// dr.WithFences.
func (s Shard) Resource() string { return fencePrefix + string(s) }

const fencePrefix = "shard/"

// Layout says how a fleet's protections are shared out to shards. All workers
// of a fleet have the same one. To change it, raise Generation and start the
// workers anew with it, in any order: as soon as a worker of the new generation
// has joined, those of older ones take no shards any more and give back what
// they have, as they do when they drain; the new ones begin when nothing of an
// older generation is held. Going back is one more generation.
type Layout struct {
	Generation uint64 `json:"generation,omitempty"`
	// Shards are how many there are in an area that doesn't say; 0: 64. A shard
	// of about 100 machines is a good size: much smaller costs leases, much
	// larger makes what moves at once large.
	Shards int `json:"shards,omitempty"`
	// Areas part the sites; none: one area of all. They are for workers that
	// don't reach all sites.
	Areas []Area `json:"areas,omitempty"`
}

// Area is a set of sites between which machines are replicated. A protection
// belongs to the first that has both of its sites, whichever is the active one,
// so that a failover changes nothing. Sites whose machines share replication
// groups belong in one area: a group is kept by one worker.
type Area struct {
	Name string `json:"name,omitempty"`
	// Sites by name; none: every site.
	Sites []string `json:"sites,omitempty"`
	// Shards are how many; 0: as the layout says.
	Shards int `json:"shards,omitempty"`
}

// areas returns them with what they don't say filled in.
func (l Layout) areas() []Area {
	all := slices.Clone(l.Areas)
	if len(all) == 0 {
		all = []Area{{}}
	}
	for i := range all {
		all[i].Shards = l.shards(all[i])
	}
	return all
}

// maxShards is how many shards a layout may have: View and Renew speak of all
// of them.
const maxShards = 10_000

// Validate refuses a layout that makes no sense, with dr.ErrInvalid.
func (l Layout) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: fleet: "+format, append([]any{dr.ErrInvalid}, args...)...)
	}
	seen := map[string]bool{}
	n := 0
	if l.Shards < 0 {
		return bad("%d shards", l.Shards)
	}
	for _, a := range l.areas() {
		switch {
		case seen[a.Name]:
			return bad("two areas are called %q", a.Name)
		case strings.ContainsAny(a.Name, "/\x00"):
			return bad("area %q: a name with a slash or a zero", a.Name)
		case a.Shards < 0:
			return bad("area %q: %d shards", a.Name, a.Shards)
		}
		seen[a.Name] = true
		n += a.Shards
	}
	if n > maxShards {
		return bad("%d shards, want %d at most", n, maxShards)
	}
	return nil
}

// All returns the shards, by area in the layout's order.
func (l Layout) All() []Shard {
	var all []Shard
	for _, a := range l.areas() {
		all = append(all, a.All()...)
	}
	return all
}

// Reached returns the areas, with their shards counted, of which all sites are
// among those given; none given: all areas.
func (l Layout) Reached(sites []string) []Area {
	return slices.DeleteFunc(l.areas(), func(a Area) bool { return !a.reachedBy(Member{Sites: sites}) })
}

// All returns the area's shards: as many as Shards says.
func (a Area) All() []Shard {
	var all []Shard
	for i := range a.Shards {
		all = append(all, a.shard(i))
	}
	return all
}

func (a Area) shard(i int) Shard {
	if a.Name == "" {
		return Shard(fmt.Sprintf("%04d", i))
	}
	return Shard(fmt.Sprintf("%s/%04d", a.Name, i))
}

// Of returns the shard of a protection; false if no area has both its sites.
// All machines of a replication group of an area are in one shard. It depends
// on the layout, the group, or without one the ID, and the pair of sites.
func (l Layout) Of(p dr.Protection) (Shard, bool) {
	key := "group/" + p.Group
	if p.Group == "" {
		key = "protection/" + string(p.ID)
	}
	return l.place(key, p.Active.Site, p.Standby.Site)
}

// OfStore returns the shard whose worker prunes the site's store.
func (l Layout) OfStore(site string) (Shard, bool) { return l.place("store/"+site, site, site) }

// place finds the shard of a key in the first area that has both sites.
func (l Layout) place(key, one, other string) (Shard, bool) {
	if len(l.Areas) == 0 {
		return Area{}.shard(jump(sum(key), l.shards(Area{}))), true
	}
	for _, a := range l.Areas {
		if a.has(one) && a.has(other) {
			return a.shard(jump(sum(key), l.shards(a))), true
		}
	}
	return "", false
}

// shards is how many an area has.
func (l Layout) shards(a Area) int { return cmp.Or(a.Shards, l.Shards, 64) }

func (a Area) has(site string) bool { return len(a.Sites) == 0 || slices.Contains(a.Sites, site) }

// Digest tells two layouts apart, whatever their generation says.
func (l Layout) Digest() string {
	h := fnv.New64a()
	for _, a := range l.areas() {
		sites := slices.Clone(a.Sites)
		slices.Sort(sites)
		fmt.Fprintf(h, "%q %q %d\n", a.Name, sites, a.Shards)
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

// sum hashes a name; its bits are mixed, as FNV's upper ones hardly differ in
// names that differ at their end.
func sum(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// jump is the jump consistent hash of Lamping and Veach (2014): of n+1 shards
// instead of n, it moves one key of n+1.
func jump(key uint64, n int) int {
	var b, j int64 = -1, 0
	for j < int64(n) {
		b = j
		key = key*2862933555777941757 + 1
		j = int64(float64(b+1) * (float64(int64(1)<<31) / float64(key>>33+1)))
	}
	return int(b)
}

package replication

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Site is a place where machines run or are recovered: a platform, and the
// store of the points that are kept there. Points of a direction are kept at
// the site that the machines would be recovered to.
type Site struct {
	Backend backend.Backend
	Points  recoverypoint.PointStore
}

// Sites resolves the names that plans and records hold. Every process that
// serves runs has its own; a run may go on in another process.
type Sites map[string]Site

// Site returns the site of that name, or an error that names those there are.
func (s Sites) Site(name string) (Site, error) {
	if site, ok := s[name]; ok {
		return site, nil
	}
	names := make([]string, 0, len(s))
	for n := range s {
		names = append(names, n)
	}
	return Site{}, fmt.Errorf("%w: site %q; this process knows %q", dr.ErrNotFound, name, names)
}

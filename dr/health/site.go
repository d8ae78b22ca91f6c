package health

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// SiteReport is how well a site is, rolled up from its protections.
type SiteReport struct {
	Entity Entity `json:"entity"`
	Level  Level  `json:"level"` // that of its worst protection
	// Protections counts those that have the site on either side; Normal,
	// Warning and Critical count them by their level.
	Protections int           `json:"protections"`
	Normal      int           `json:"normal"`
	Warning     int           `json:"warning"`
	Critical    int           `json:"critical"`
	RPO         time.Duration `json:"rpo"` // the worst of the protections that have one; -1: none has
	// Errors hold one a code that was found, worst first and then the most
	// frequent. Inner are those it sums up, worst first, 20 at most.
	Errors []Error   `json:"errors,omitempty"`
	Time   time.Time `json:"time"`
}

// maxSummed is how many findings a site's finding lists.
const maxSummed = 20

// Site rolls up the reports of those protections that have the site on either
// side; the others are passed over. An error of many protections becomes one of
// the site that counts them, so that an outage is one row and not a thousand.
func Site(name string, reports []Report, now time.Time) SiteReport {
	s := SiteReport{Entity: Entity{Kind: KindSite, ID: name}, RPO: -1, Time: now}
	byCode := map[string][]Error{}
	for _, r := range reports {
		if !slices.Contains(r.Sites, name) {
			continue
		}
		s.Protections++
		switch r.Level {
		case Normal:
			s.Normal++
		case Warning:
			s.Warning++
		default:
			s.Critical++
		}
		s.Level, s.RPO = max(s.Level, r.Level), max(s.RPO, r.RPO)
		for _, e := range r.Errors {
			byCode[e.Code] = append(byCode[e.Code], e)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(byCode)) {
		s.Errors = append(s.Errors, s.sum(byCode[code]))
	}
	slices.SortStableFunc(s.Errors, func(a, b Error) int {
		return cmp.Or(int(b.Level)-int(a.Level), len(byCode[b.Code])-len(byCode[a.Code]))
	})
	return s
}

// sum makes one finding of the site of all that have one code.
func (s SiteReport) sum(all []Error) Error {
	slices.SortStableFunc(all, func(a, b Error) int {
		return cmp.Or(int(b.Level)-int(a.Level), a.Time.Compare(b.Time), cmp.Compare(a.Entity.ID, b.Entity.ID))
	})
	about := map[Entity]bool{}
	e := all[0]
	for _, o := range all {
		about[o.Entity] = true
		if o.Time.Before(e.Time) {
			e.Time = o.Time
		}
	}
	e.ID, e.Entity = ID(e.Code, s.Entity), s.Entity
	e.Message = fmt.Sprintf("%d of %d protections: the worst, %s: %s", len(about), s.Protections, all[0].Entity, all[0].Message)
	e.Message = clip(e.Message)
	e.Inner = slices.Clone(all[:min(len(all), maxSummed)])
	for i := range e.Inner {
		e.Inner[i].Inner = nil // the protection's own report tells
	}
	return e
}

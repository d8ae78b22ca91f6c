package replication

import "github.com/lifeboat-dr/lifeboat/dr"

// locate joins a place with an error that may know its place already: what the
// cause says itself is kept, what it left out is filled in, and nothing is
// said twice.
func locate(at *dr.Error) error {
	cause, ok := at.Err.(*dr.Error)
	if !ok {
		return at
	}
	e := *cause
	if e.Op == "" {
		e.Op = at.Op
	}
	if e.Side == "" {
		e.Side = at.Side
	}
	if e.Site == "" {
		e.Site = at.Site
	}
	if e.Machine == "" {
		e.Machine = at.Machine
	}
	if e.Point == "" {
		e.Point = at.Point
	}
	if e.Disk == "" {
		e.Disk, e.Off = at.Disk, at.Off
	}
	if e.Remedy == "" {
		e.Remedy = at.Remedy
	}
	return &e
}

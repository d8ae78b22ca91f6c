package cleanroom

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Scan says whether an image is clean, and what it found. An error says that it
// couldn't tell. It must not keep the image.
type Scan func(ctx context.Context, img dr.Image) (clean bool, findings []string, err error)

// Options are how points are looked for. The zero value walks back over all
// points from before suspicion.
type Options struct {
	// All looks at suspicious points too, newest first.
	All bool
	// Accepted are suspicious points that a person found harmless, as
	// dr.Protection has them.
	Accepted map[dr.PointID]string
	// Monotonic says that every point behind an infected one is infected, and
	// every point before a clean one clean. Then the points are bisected: of a
	// thousand, eleven are scanned. Where it isn't so an older point than
	// the newest clean one may be found, never one that a scan called infected.
	Monotonic bool
	// Most bounds the scans; 0: none.
	Most int
	// Now is the clock of the evidence; nil: time.Now.
	Now func() time.Time
}

// Evidence is what one scan said, for the report of a drill.
type Evidence struct {
	Point    dr.PointID    `json:"point"`
	Time     time.Time     `json:"time"` // of the point
	Clean    bool          `json:"clean"`
	Findings []string      `json:"findings,omitempty"`
	Error    string        `json:"error,omitempty"` // the scan couldn't tell
	Scanned  time.Time     `json:"scanned"`
	Took     time.Duration `json:"took"`
}

// Result is what was found.
type Result struct {
	Machine  dr.MachineID `json:"machine"`
	Point    dr.Point     `json:"point"` // the newest that a scan called clean
	Evidence []Evidence   `json:"evidence"`
}

// Find scans points of the machine until one is clean. A point that can't be
// opened or that a scan couldn't tell of counts as not clean, and the evidence
// says why. If none is clean the error wraps dr.ErrNoPoint; the evidence is
// there also then, and when ctx ends. It starts nothing, changes nothing and
// closes what it opens. The machine's points should be kept from retention
// meanwhile: one that is gone by then is one that can't be opened.
func Find(ctx context.Context, s recoverypoint.PointStore, m dr.MachineID, scan Scan, o Options) (Result, error) {
	r := Result{Machine: m}
	var points []dr.Point
	for p, err := range s.List(ctx, m) {
		if err != nil {
			return r, &dr.Error{Op: "list points for the clean room", Side: dr.StoreSide, Machine: m, Err: err}
		}
		points = append(points, p)
	}
	if !o.All {
		points = recoverypoint.BeforeSuspicion(points, o.Accepted)
	}
	points = slices.DeleteFunc(slices.Clone(points), func(p dr.Point) bool { return p.Base })
	// Of [low, high) it isn't known; what is before is clean.
	low, high := 0, len(points)
	for low < high && (o.Most == 0 || len(r.Evidence) < o.Most) {
		i := high - 1
		if o.Monotonic && len(r.Evidence) > 0 {
			i = low + (high-low)/2
		}
		e, err := look(ctx, s, points[i], scan, o)
		if err != nil {
			return r, err
		}
		r.Evidence = append(r.Evidence, e)
		if !e.Clean {
			high = i
			continue
		}
		r.Point, low = points[i], i+1
		if !o.Monotonic {
			break
		}
	}
	if r.Point.ID == "" {
		return r, &dr.Error{Op: "find a clean point", Side: dr.StoreSide, Machine: m,
			Err:    fmt.Errorf("%w: of %d points %d were scanned, and none is clean", dr.ErrNoPoint, len(points), len(r.Evidence)),
			Remedy: "read the findings; look for older points in another store"}
	}
	return r, nil
}

// look scans one point. Its error is only that ctx has ended.
func look(ctx context.Context, s recoverypoint.PointStore, p dr.Point, scan Scan, o Options) (Evidence, error) {
	now := o.Now
	if now == nil {
		now = time.Now
	}
	e := Evidence{Point: p.ID, Time: p.Time, Scanned: now()}
	img, err := s.Open(ctx, p.Machine.ID, p.ID)
	if err == nil {
		e.Clean, e.Findings, err = scan(ctx, img)
		if cl := img.Close(); err == nil {
			err = cl
		}
	}
	if ctx.Err() != nil {
		return e, &dr.Error{Op: "scan", Side: dr.StoreSide, Machine: p.Machine.ID, Point: p.ID, Err: ctx.Err()}
	}
	if err != nil {
		e.Clean, e.Error = false, err.Error()
	}
	e.Took = now().Sub(e.Scanned)
	return e, nil
}

package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// MaxFences is how many resources' epochs are remembered beside one machine,
// those of the present call not counted. A machine is in one protection, seldom
// in two; more are of protections that are long gone.
const MaxFences = 8

// Fences is what a backend remembers beside a machine of who has changed it: by
// resource the highest epoch, those raised last at the end. It is kept as JSON,
// or as the backend likes. The zero value remembers nothing. A Fences is never
// changed in place, so it may be shared.
type Fences []Fence

// Fence is one resource's epoch, as dr.Claims gave it.
type Fence struct {
	Resource string `json:"resource"`
	Epoch    uint64 `json:"epoch"`
}

// Admit decides about a call that is made with ctx, of which f is what the
// machine's record says. It returns what must be remembered, durably, before
// the call has any effect; raised says that this differs from f, so that there
// is something to write. A call under a lower epoch than a remembered one is
// dr.ErrFenced: the caller's claim was taken over. Calls without fences are
// always admitted, and raise nothing.
//
// Beyond [MaxFences] the resources that were raised the longest ago are
// forgotten. Whoever still acts for one of those isn't refused any more.
func (f Fences) Admit(ctx context.Context) (next Fences, raised bool, err error) {
	asked := dr.Fences(ctx)
	if len(asked) == 0 {
		return f, false, nil
	}
	var up []Fence
	for _, resource := range slices.Sorted(maps.Keys(asked)) {
		epoch, known := f.epoch(resource)
		switch {
		case asked[resource] < epoch:
			return f, false, fmt.Errorf("%w: this acts for epoch %d of %q, and the machine was changed under epoch %d since: "+
				"another worker has taken over and goes on; if there is none, claims were lost and the new ones' clock is behind: raise their epoch to %d (dr.EpochRaiser), and begin a new run",
				dr.ErrFenced, asked[resource], resource, epoch, epoch)
		case !known || asked[resource] > epoch:
			up = append(up, Fence{resource, asked[resource]})
		}
	}
	if len(up) == 0 {
		return f, false, nil
	}
	var others, mine []Fence
	for _, x := range f {
		switch _, ours := asked[x.Resource]; {
		case !ours:
			others = append(others, x)
		case x.Epoch == asked[x.Resource]:
			mine = append(mine, x)
		}
	}
	return slices.Concat(others[max(0, len(others)-MaxFences):], mine, up), true, nil
}

// Passed tells whether what was begun under the fences of asked, a draft for
// one, may go on now that the machine's record says f: dr.ErrFenced if another
// has raised one of them meanwhile. Resources that f doesn't know don't count.
func (f Fences) Passed(asked map[string]uint64) error {
	_, _, err := f.Admit(dr.WithFences(context.Background(), asked))
	return err
}

func (f Fences) epoch(resource string) (uint64, bool) {
	for _, x := range f {
		if x.Resource == resource {
			return x.Epoch, true
		}
	}
	return 0, false
}

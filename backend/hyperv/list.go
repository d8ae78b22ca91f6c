package hyperv

import (
	"context"
	"iter"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Machines implements backend.Lister, node by node. A machine that can't be read
// is an error of its own: the others follow.
func (v *HyperV) Machines(ctx context.Context) iter.Seq2[dr.Machine, error] {
	return func(yield func(dr.Machine, error) bool) {
		for _, n := range v.nodes {
			all, err := n.conn.Query(ctx, "SELECT * FROM "+classSystem)
			if err != nil {
				if !yield(dr.Machine{}, fail("list machines of host "+n.name, "", "", -1, err)) {
					return
				}
				continue
			}
			for _, o := range all {
				// Captions are localized; only machines have a GUID for a name.
				id := dr.MachineID(strings.ToLower(o.Props.String("Name")))
				if !guidLike.MatchString(string(id)) {
					continue
				}
				d, err := v.Machine(ctx, id)
				if isNotFound(err) {
					continue // gone meanwhile
				}
				if !yield(d, err) {
					return
				}
			}
		}
	}
}

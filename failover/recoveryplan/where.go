package recoveryplan

import (
	"fmt"
	"maps"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/networks"
)

// where says how the machine is made: what the plan's network mapping resolves
// to, under what the machine's own entry says.
func (in machineInput) where(r dr.Protection) (failover.Where, error) {
	drill := in.Flow == FlowTest || in.Flow == FlowDrill
	home := in.Home
	if in.Flow == FlowReprotect {
		home = !r.AtHome() // it replicates to the side that it left
	}
	own := in.Machine.where(home, drill)
	m, ok, err := mapping(in.Networks, r, in.Machine.Alternate)
	if err != nil || !ok || len(r.Last.Machine.NICs) == 0 {
		return own, err
	}
	w, err := m.Resolve(r.Last.Machine, drill)
	if err != nil {
		return own, fmt.Errorf("protection %s: %w", r.ID, err)
	}
	w.Name, w.Options = own.Name, own.Options
	maps.Copy(w.Networks, own.Networks)
	for id, c := range own.Cards {
		w.Cards[id] = c
	}
	// Of a card whose network the machine's entry maps by hand only the address
	// is left to the mapping.
	for _, nic := range r.Last.Machine.NICs {
		_, byHand := own.Networks[nic.Network]
		if _, whole := own.Cards[nic.ID]; byHand && !whole {
			delete(w.Cards, nic.ID)
		}
	}
	return w, nil
}

// mapping picks the one of the machine's way, if there is one.
func mapping(all []networks.Mapping, r dr.Protection, alternate bool) (networks.Mapping, bool, error) {
	for _, m := range all {
		if m.From == r.Active.Site && m.To == r.Standby.Site {
			return m, true, nil
		}
	}
	for _, m := range all {
		if m.From == r.Standby.Site && m.To == r.Active.Site && (r.Standby.Machine == "" || alternate) {
			back, err := m.Reverse()
			if err != nil {
				err = fmt.Errorf("protection %s: the network mapping from %s to %s, reversed: %w", r.ID, m.From, m.To, err)
			}
			return back, true, err
		}
	}
	return networks.Mapping{}, false, nil
}

// where lays a drill's wishes over those of the direction.
func (m Machine) where(home, drill bool) failover.Where {
	w := m.Out
	if home {
		w = m.Home
	}
	if !drill {
		return w
	}
	if m.Drill.Name != "" {
		w.Name = m.Drill.Name
	}
	if m.Drill.Networks != nil {
		w.Networks = m.Drill.Networks
	}
	if m.Drill.Cards != nil {
		w.Cards = m.Drill.Cards
	}
	if m.Drill.Options != nil {
		w.Options = m.Drill.Options
	}
	return w
}

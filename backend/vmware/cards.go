package vmware

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// checkCards refuses what vSphere can't do of a placement's cards, and what the
// options say of the same card.
func checkCards(p backend.Placement, o PlaceOptions) error {
	if err := p.CheckCards(); err != nil {
		return err
	}
	for _, n := range p.Machine.NICs {
		c := p.Cards[n.ID]
		if _, twice := o.Gateways[n.ID]; twice && c.Addressing() {
			return &explained{fmt.Errorf("%w: card %s: the placement's cards and its option gateways both speak of it", dr.ErrInvalid, n.ID), "say it in one place"}
		}
		if c.Subnet != "" {
			return &explained{fmt.Errorf("%w: card %s: subnet %q: networks of vSphere have none by name", dr.ErrUnsupported, n.ID, c.Subnet), "name the network alone"}
		}
	}
	_, err := guestNetFor(p, o, nil) // an unusable address is refused before anything is looked up
	return err
}

// keepsMAC tells whether a card is to have the hardware address that it had.
func keepsMAC(c backend.Card, o PlaceOptions) bool {
	if c.MAC != "" {
		return c.MAC == backend.KeepMAC
	}
	return o.KeepMAC == nil || *o.KeepMAC
}

// asks tells whether the guest must be told something for the cards' sake.
func asks(p backend.Placement) bool {
	return slices.ContainsFunc(p.Machine.NICs, func(n dr.NIC) bool { return !p.Cards[n.ID].Satisfied(n) })
}

// guestNetFor is what the guest is to be told: by the options, and by the cards,
// which win. vSphere sets all cards at once, so that those of which nothing is
// said are told what they have; nil if there is nothing to tell. DNS servers are
// the guest's, not a card's: it gets those of all cards.
func guestNetFor(p backend.Placement, o PlaceOptions, s *saved) (*guestNet, error) {
	if !o.Addresses && !asks(p) {
		return nil, nil
	}
	m := p.Machine
	m.NICs = slices.Clone(m.NICs)
	var dns, search []string
	gateways := map[string][]string{}
	for id, g := range o.Gateways {
		gateways[id] = g
	}
	static := false
	for i, n := range m.NICs {
		c := p.Cards[n.ID]
		switch {
		case c.DHCP:
			m.NICs[i].DHCP, m.NICs[i].Addresses = true, nil
		case len(c.Addresses) > 0:
			m.NICs[i].DHCP, m.NICs[i].Addresses = false, nil
			for _, a := range c.Addresses {
				m.NICs[i].Addresses = append(m.NICs[i].Addresses, a.String())
			}
			// A gateway of another subnet is none: what it had does not count.
			gateways[n.ID] = texts(c.Gateways)
		}
		static = static || !m.NICs[i].DHCP && len(m.NICs[i].Addresses) > 0
		dns, search = join(dns, texts(c.DNS)), join(search, c.Search)
	}
	if len(dns) > 0 {
		o.DNS = dns
	}
	if len(search) > 0 {
		o.Search = search
	}
	o.Gateways = gateways
	if !static && asks(p) { // from static to DHCP is something to tell, too
		return guestNetOfAll(m, o, s)
	}
	return guestNetOf(m, o, s)
}

// reconnect brings the connections of a replica's cards to what the placement's
// cards say now; what they don't speak of stays.
func (v *VSphere) reconnect(ctx context.Context, m *machine, p backend.Placement, o PlaceOptions) ([]types.BaseVirtualDeviceConfigSpec, error) {
	if !slices.ContainsFunc(p.Machine.NICs, func(n dr.NIC) bool { c := p.Cards[n.ID]; return c.Network != "" || c.Unconnected }) {
		return nil, nil
	}
	s, err := parseSaved(p.Machine.Config)
	if err != nil {
		return nil, err
	}
	t, err := v.place(ctx, p, o, s)
	if err != nil {
		return nil, err
	}
	have := cardsOf(m.config.Hardware.Device)
	var changes []types.BaseVirtualDeviceConfigSpec
	for i, n := range p.Machine.NICs {
		c := p.Cards[n.ID]
		if c.Network == "" && !c.Unconnected {
			continue
		}
		if i >= len(have) {
			return nil, &explained{fmt.Errorf("%w: card %s: the replica was made without it", dr.ErrConflict, n.ID), "remove the replica; the next one is made anew"}
		}
		card := have[i].GetVirtualEthernetCard()
		on := card.Connectable != nil && card.Connectable.StartConnected
		if want := t.cards[i]; want == nil {
			if !on {
				continue
			}
		} else {
			to, known := networkRef(&types.VirtualEthernetCard{VirtualDevice: types.VirtualDevice{Backing: want}})
			at, _ := networkRef(card)
			if on && known && at == to {
				continue
			}
			card.Backing = want
		}
		card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: t.cards[i] != nil, AllowGuestControl: t.cards[i] != nil}
		dev, ok := have[i].(types.BaseVirtualDevice)
		if !ok {
			return nil, fmt.Errorf("card %s is no device", n.ID)
		}
		changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: dev})
	}
	return changes, nil
}

// join adds what isn't there yet. The order stays: the first is asked first.
func join(all, more []string) []string {
	for _, s := range more {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func texts(all []netip.Addr) []string {
	var out []string
	for _, a := range all {
		out = append(out, a.String())
	}
	return out
}

// tell notes in r what the guest of a machine that is there is to be told when it
// starts next. Where the cards ask for nothing, r stays as it is.
func (v *VSphere) tell(m *machine, p backend.Placement, o PlaceOptions, r *record) error {
	if !slices.ContainsFunc(p.Machine.NICs, func(n dr.NIC) bool { return p.Cards[n.ID].Addressing() }) {
		return nil
	}
	s, err := parseSaved(p.Machine.Config)
	if err != nil {
		return err
	}
	o.Addresses = o.Addresses && p.Original == ""
	g, err := guestNetFor(p, o, s)
	if err != nil {
		return err
	}
	was, _ := json.Marshal(r.Guest)
	if now, _ := json.Marshal(g); string(now) != string(was) {
		r.Guest = g
	}
	return nil
}

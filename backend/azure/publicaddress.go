package azure

import (
	"context"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// PublicAddress is the result of ActionPublicAddress.
type PublicAddress struct {
	Address string `json:"address"`
	ID      string `json:"id"`
}

// publicAddress is the code of ActionPublicAddress. A card that has an address
// keeps it, whoever gave it.
func (a *Azure) publicAddress(ctx context.Context, m *machine, _ AccessInput, c *dr.Call) (any, error) {
	at := place{m.at.group, m.at.name + "-address"}
	if c.Undo {
		return nil, a.dropAddress(ctx, m.id, at)
	}
	cardAt, card, err := a.firstCard(ctx, m)
	if err != nil {
		return nil, err
	}
	if has := card.Properties.IPConfigurations[0].Properties.PublicIPAddress; has != nil {
		if at, err = parseID(deref(has.ID)); err != nil {
			return nil, err
		}
		p, err := a.publics.Get(ctx, at.group, at.name, nil)
		return toldAddress(p.PublicIPAddress), explain(err)
	}
	have, err := a.publics.Get(ctx, at.group, at.name, nil)
	if err == nil && deref(have.Tags[tagMachine]) != string(m.id) {
		return nil, taken("public address", at)
	}
	if err != nil && !isNotFound(err) {
		return nil, explain(err)
	}
	want := armnetwork.PublicIPAddress{Location: m.vm.Location, Zones: m.vm.Zones, Tags: a.ownTags(m), SKU: &armnetwork.PublicIPAddressSKU{Name: to.Ptr(armnetwork.PublicIPAddressSKUNameStandard)},
		Properties: &armnetwork.PublicIPAddressPropertiesFormat{PublicIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic), DeleteOption: to.Ptr(armnetwork.DeleteOptionsDelete)}}
	p, err := a.publics.BeginCreateOrUpdate(ctx, at.group, at.name, want, nil)
	made, err := await(ctx, a, p, err)
	if err != nil {
		return nil, explain(err)
	}
	err = a.changeCard(ctx, cardAt, func(p *armnetwork.InterfacePropertiesFormat) bool {
		p.IPConfigurations[0].Properties.PublicIPAddress = &armnetwork.PublicIPAddress{ID: made.ID}
		return true
	})
	return toldAddress(made.PublicIPAddress), err
}

func toldAddress(p armnetwork.PublicIPAddress) PublicAddress {
	out := PublicAddress{ID: deref(p.ID)}
	if p.Properties != nil {
		out.Address = deref(p.Properties.IPAddress)
	}
	return out
}

// taken refuses a name that somebody else's resource has.
func taken(what string, at place) error {
	return remedied(fmt.Errorf("%w: there is a %s %s of somebody else in resource group %s", dr.ErrExists, what, at.name, at.group), "rename or remove it")
}

// dropAddress takes a public address that was made for a machine off its card,
// and deletes it. One that isn't there, or is another's, is no error.
func (a *Azure) dropAddress(ctx context.Context, id dr.MachineID, at place) error {
	have, err := a.publics.Get(ctx, at.group, at.name, nil)
	if isNotFound(err) || err == nil && deref(have.Tags[tagMachine]) != string(id) {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	if p := have.Properties; p != nil && p.IPConfiguration != nil {
		// ".../networkInterfaces/NAME/ipConfigurations/NAME"
		if parts := strings.Split(strings.Trim(deref(p.IPConfiguration.ID), "/"), "/"); len(parts) == 10 && strings.EqualFold(parts[6], "networkInterfaces") {
			err := a.changeCard(ctx, place{parts[3], parts[7]}, func(p *armnetwork.InterfacePropertiesFormat) (changed bool) {
				for _, c := range p.IPConfigurations {
					if c.Properties != nil && c.Properties.PublicIPAddress != nil && sameID(deref(c.Properties.PublicIPAddress.ID), deref(have.ID)) {
						c.Properties.PublicIPAddress, changed = nil, true
					}
				}
				return changed
			})
			if err != nil && !isNotFound(err) {
				return err
			}
		}
	}
	p, err := a.publics.BeginDelete(ctx, at.group, at.name, nil)
	if _, err = await(ctx, a, p, err); err != nil && !isNotFound(err) {
		return explain(err)
	}
	return nil
}

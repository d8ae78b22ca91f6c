package azuretest

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
)

// publicIP is a public address.
type publicIP struct {
	entry
	model armnetwork.PublicIPAddress
	addr  string // "" while a dynamic one is not in use
	guid  string
}

func publicIPRoutes() []route {
	const at = network + "publicIPAddresses/*"
	return slices.Concat(listRoutes[*publicIP]("Microsoft.Network/publicIPAddresses"), []route{
		handle("GET", at, show[*publicIP]),
		handle("PUT", at, (*Cloud).putPublicIP),
		handle("DELETE", at, (*Cloud).deletePublicIP),
	})
}

// user returns the IP configuration that has the address, if any.
func (p *publicIP) user(c *Cloud) (n *nic, config string) {
	for _, n := range all[*nic](c, nil) {
		for _, a := range n.addresses {
			if a.public == p {
				return n, n.id + "/ipConfigurations/" + a.name
			}
		}
	}
	return nil, ""
}

func (p *publicIP) view(c *Cloud) any {
	m, props := p.model, *p.model.Properties
	m.ID, m.Name, m.Type, m.Location, m.Tags, m.Zones, m.Properties = &p.id, &p.name, &p.kind, &p.location, p.tags, p.zones, &props
	props.ProvisioningState, props.ResourceGUID = p.provisioned(), &p.guid
	if p.addr != "" {
		props.IPAddress = &p.addr
	}
	if n, config := p.user(c); n != nil {
		props.IPConfiguration = &armnetwork.IPConfiguration{ID: &config}
	}
	return m
}

func (c *Cloud) putPublicIP(q *request) (reply, error) {
	m, err := decode[armnetwork.PublicIPAddress](q)
	if err != nil {
		return reply{}, err
	}
	if m.Properties == nil {
		m.Properties = &armnetwork.PublicIPAddressPropertiesFormat{}
	}
	m.Properties.PublicIPAllocationMethod = either(m.Properties.PublicIPAllocationMethod, armnetwork.IPAllocationMethodDynamic)
	static := *m.Properties.PublicIPAllocationMethod == armnetwork.IPAllocationMethodStatic
	if m.SKU == nil {
		m.SKU = &armnetwork.PublicIPAddressSKU{Name: to.Ptr(armnetwork.PublicIPAddressSKUNameBasic)}
	}
	if val(m.SKU.Name) == armnetwork.PublicIPAddressSKUNameStandard && !static {
		return reply{}, refuse(http.StatusBadRequest, "StandardSkuPublicIPAddressesMustBeStatic", "Standard sku publicIp %s must have AllocationMethod set to Static.", q.name())
	}
	p, had := look[*publicIP](c, q.id)
	if had {
		if err := c.free(&p.entry); err != nil {
			return reply{}, err
		}
	} else {
		e, err := c.entry(q, "Microsoft.Network/publicIPAddresses", m.Location, m.Tags, m.Zones)
		if err != nil {
			return reply{}, err
		}
		p = &publicIP{entry: e, guid: c.newID()}
	}
	op := c.accept(q, "Updating", &p.entry)
	if op.code == "" || !had {
		p.model, p.tags = m, m.Tags
		if static && p.addr == "" {
			c.count++
			p.addr = fmt.Sprintf("203.0.113.%d", 1+c.count%254) // for documentation: nobody's
		}
	}
	if !had {
		c.put(p)
	}
	return reply{status: created(had), body: p.view(c), op: op}, nil
}

// attachPublic finds a public address for an interface.
func (c *Cloud) attachPublic(n *nic, id string) (*publicIP, error) {
	p, err := refer[*publicIP](c, id, n.id)
	if err != nil {
		return nil, err
	}
	if other, config := p.user(c); other != nil && other != n {
		return nil, refuse(http.StatusBadRequest, "PublicIPAddressInUse", "Resource %s is referencing public IP address %s that is already allocated to resource %s.", n.id, p.id, config)
	}
	return p, nil
}

func (c *Cloud) deletePublicIP(q *request) (reply, error) {
	p, had := look[*publicIP](c, q.id)
	if !had {
		return gone()
	}
	if err := c.free(&p.entry); err != nil {
		return reply{}, err
	}
	if n, config := p.user(c); n != nil {
		return reply{}, refuse(http.StatusBadRequest, "PublicIPAddressCannotBeDeleted", "Public IP address %s can not be deleted since it is still allocated to resource %s.", p.id, config)
	}
	op := c.accept(q, "Deleting", &p.entry)
	op.end = func() { c.drop(p) }
	return accepted(op)
}

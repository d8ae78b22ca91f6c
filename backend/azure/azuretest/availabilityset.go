package azuretest

import (
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// availabilitySet spreads machines within a data centre.
type availabilitySet struct {
	entry
	model armcompute.AvailabilitySet
}

func availabilitySetRoutes() []route {
	const at = compute + "availabilitySets/*"
	return slices.Concat(listRoutes[*availabilitySet]("Microsoft.Compute/availabilitySets"), []route{
		handle("GET", at, show[*availabilitySet]),
		handle("PUT", at, (*Cloud).putAvailabilitySet),
		handle("DELETE", at, (*Cloud).deleteAvailabilitySet),
	})
}

func (s *availabilitySet) members(c *Cloud) []*vm {
	return all(c, func(v *vm) bool { return alike(reference(v.model.Properties.AvailabilitySet), s.id) })
}

func (s *availabilitySet) view(c *Cloud) any {
	m, p := s.model, armcompute.AvailabilitySetProperties{}
	if m.Properties != nil {
		p = *m.Properties
	}
	m.ID, m.Name, m.Type, m.Location, m.Tags, m.Properties = &s.id, &s.name, &s.kind, &s.location, s.tags, &p
	p.VirtualMachines = []*armcompute.SubResource{}
	for _, v := range s.members(c) {
		p.VirtualMachines = append(p.VirtualMachines, &armcompute.SubResource{ID: &v.id})
	}
	return m
}

func (c *Cloud) putAvailabilitySet(q *request) (reply, error) {
	m, err := decode[armcompute.AvailabilitySet](q)
	if err != nil {
		return reply{}, err
	}
	if s, had := look[*availabilitySet](c, q.id); had {
		s.tags = m.Tags
		return ok(s.view(c))
	}
	e, err := c.entry(q, "Microsoft.Compute/availabilitySets", m.Location, m.Tags, nil)
	if err != nil {
		return reply{}, err
	}
	e.state = "Succeeded"
	s := &availabilitySet{e, m}
	c.put(s)
	return ok(s.view(c))
}

func (c *Cloud) deleteAvailabilitySet(q *request) (reply, error) {
	s, had := look[*availabilitySet](c, q.id)
	if !had {
		return gone()
	}
	if len(s.members(c)) > 0 {
		return reply{}, notAllowed("Availability Set '%s' cannot be deleted. Before deleting an Availability Set please ensure that it does not contain any VM.", s.name)
	}
	c.drop(s)
	return reply{status: 200}, nil
}

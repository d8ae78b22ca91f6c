package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// enrolment says which machines get a record. One of Machine and All is given;
// All are all machines of the site that have none yet and that no failover made.
type enrolment struct {
	ID      dr.ProtectionID `json:"id,omitempty"` // "": the machine's
	Name    string          `json:"name,omitempty"`
	From    string          `json:"from"`
	Machine dr.MachineID    `json:"machine,omitempty"`
	All     bool            `json:"all,omitempty"`
	To      string          `json:"to"`
	Policy  string          `json:"policy,omitempty"`
	Group   string          `json:"group,omitempty"`
}

// addProtections makes records. A machine that has one keeps it: asking again is
// safe. They are protected by runs of the flow "protect".
func (w *worker) addProtections(p *plant, r *http.Request) (any, error) {
	e, err := read[enrolment](r)
	if err != nil {
		return nil, err
	}
	from, err := p.env.Sites.Site(e.From)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", dr.ErrInvalid, err)
	}
	if _, err := p.env.Sites.Site(e.To); err != nil || e.From == e.To {
		return nil, fmt.Errorf("%w: to %q: want another site that this worker reaches", dr.ErrInvalid, e.To)
	}
	if (e.Machine == "") != e.All || e.All && e.ID != "" {
		return nil, fmt.Errorf("%w: want machine, or all without an id", dr.ErrInvalid)
	}
	if _, err := w.sites.Policies.Policy(e.Policy); err != nil {
		return nil, err
	}
	var added []dr.ProtectionID
	add := func(m dr.Machine) error {
		d := replication.New(dr.ProtectionID(m.ID), dr.Place{Site: e.From, Machine: m.ID}, e.To)
		d.Name, d.Policy, d.Group = m.Name, e.Policy, e.Group
		if e.ID != "" {
			d.ID = e.ID
		}
		if e.Name != "" {
			d.Name = e.Name
		}
		if _, err := p.env.Records.Load(r.Context(), d.ID); !errors.Is(err, dr.ErrNotFound) {
			return err
		}
		_, err := p.env.Records.Save(r.Context(), d)
		if errors.Is(err, dr.ErrConflict) { // another asked the same
			return nil
		}
		added = append(added, d.ID)
		return err
	}
	if !e.All {
		m, err := from.Backend.Machine(r.Context(), e.Machine)
		if err == nil {
			err = add(m)
		}
		return map[string]any{"added": added}, err
	}
	lister, ok := dr.As[backend.Lister](from.Backend)
	if !ok {
		return nil, fmt.Errorf("%w: site %s doesn't list its machines", dr.ErrUnsupported, e.From)
	}
	made, err := w.replicas(p, r)
	if err != nil {
		return nil, err
	}
	for m, err := range lister.Machines(r.Context()) {
		if err == nil && !made[dr.Place{Site: e.From, Machine: m.ID}] {
			err = add(m)
		}
		if err != nil {
			return nil, err
		}
	}
	return map[string]any{"added": added}, nil
}

// replicas are the machines that records name: none of them wants another.
func (w *worker) replicas(p *plant, r *http.Request) (map[dr.Place]bool, error) {
	made := map[dr.Place]bool{}
	for d, err := range p.engine.records.Protections(r.Context()) {
		if err != nil {
			return nil, err
		}
		for _, at := range []dr.Place{d.Active, d.Standby} {
			made[dr.Place{Site: at.Site, Machine: at.Machine}] = true
		}
	}
	return made, nil
}

// listProtections returns the records, ?state= and ?site= (where they run)
// choosing some.
func (w *worker) listProtections(p *plant, r *http.Request) (any, error) {
	all := []dr.Protection{}
	state, site := dr.State(r.FormValue("state")), r.FormValue("site")
	for d, err := range p.engine.records.Protections(r.Context()) {
		if err != nil {
			return nil, err
		}
		if (state == "" || d.State == state) && (site == "" || d.Active.Site == site) {
			all = append(all, d)
		}
	}
	return all, nil
}

func (w *worker) showProtection(p *plant, r *http.Request) (any, error) {
	d, err := p.env.Records.Load(r.Context(), dr.ProtectionID(r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	return map[string]any{"protection": d, "health": w.health(p, d)}, nil
}

func (w *worker) pause(p *plant, r *http.Request) (any, error) {
	id := dr.ProtectionID(r.PathValue("id"))
	if err := p.env.Pause(r.Context(), id); err != nil {
		return nil, err
	}
	return p.env.Records.Load(r.Context(), id)
}

func (w *worker) resume(p *plant, r *http.Request) (any, error) {
	id := dr.ProtectionID(r.PathValue("id"))
	if err := p.env.Resume(r.Context(), id); err != nil {
		return nil, err
	}
	if p.repl != nil {
		p.repl.Poke(id)
	}
	return p.env.Records.Load(r.Context(), id)
}

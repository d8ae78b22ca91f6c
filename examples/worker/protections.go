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
// All are all machines of the site that have none yet and that no failover or drill
// made.
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
// safe. One whose ID is that of another machine's record gets none, and is told:
// dr.ErrExists, and of all, what is refused. They are protected by runs of the flow
// "protect".
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
	has, err := w.recorded(p, r)
	if err != nil {
		return nil, err
	}
	added, refused := []dr.ProtectionID{}, map[dr.MachineID]string{}
	add := func(m dr.Machine) error {
		place := dr.Place{Site: e.From, Machine: m.ID}
		d := replication.New(dr.ProtectionID(m.ID), place, e.To)
		d.Name, d.Policy, d.Group = m.Name, e.Policy, e.Group
		if e.ID != "" {
			d.ID = e.ID
		}
		if e.Name != "" {
			d.Name = e.Name
		}
		if id := has[place]; id != "" {
			if e.ID != "" && id != e.ID {
				return fmt.Errorf("machine %s of site %s: %w: it has protection %s", m.ID, e.From, dr.ErrExists, id)
			}
			return nil
		}
		_, err := p.env.Records.Save(r.Context(), d)
		if err == nil {
			added = append(added, d.ID)
		}
		if !errors.Is(err, dr.ErrConflict) {
			return err
		}
		// Somebody asked the same, or the name is another machine's: that of another
		// site, say. That one's record must not be taken for this one's.
		now, err := p.env.Records.Load(r.Context(), d.ID)
		if err == nil && !names(now, place) {
			err = fmt.Errorf("machine %s of site %s: %w: protection %s is of machine %s of site %s; enrol it by itself with an id of its own",
				m.ID, e.From, dr.ErrExists, d.ID, now.Active.Machine, now.Active.Site)
		}
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
	for m, err := range lister.Machines(r.Context()) {
		if err == nil {
			err = add(m)
		}
		if errors.Is(err, dr.ErrExists) {
			refused[m.ID], err = err.Error(), nil
		}
		if err != nil {
			return nil, err
		}
	}
	return map[string]any{"added": added, "refused": refused}, nil
}

// places are the machines of a record: the one that is protected, and those that a
// failover or a drill made of it.
func places(d dr.Protection) []dr.Place {
	all := []dr.Place{d.Active, d.Standby}
	if d.Test != nil {
		all = append(all, d.Test.Place)
	}
	return all
}

// names reports whether a record names the machine as one of its own.
func names(d dr.Protection, at dr.Place) bool {
	for _, x := range places(d) {
		if x.Site == at.Site && x.Machine == at.Machine {
			return true
		}
	}
	return false
}

// recorded are the machines that records name: none of them wants another.
func (w *worker) recorded(p *plant, r *http.Request) (map[dr.Place]dr.ProtectionID, error) {
	has := map[dr.Place]dr.ProtectionID{}
	for d, err := range p.engine.records.Protections(r.Context()) {
		if err != nil {
			return nil, err
		}
		for _, at := range places(d) {
			has[dr.Place{Site: at.Site, Machine: at.Machine}] = d.ID
		}
	}
	return has, nil
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

package replication

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// sharedCycle is one cycle of a group that several of its members asked for.
type sharedCycle struct {
	done   chan struct{}
	report GroupReport // when done is closed
	err    error
	why    error // it was stopped: the end of its context, of whoever asked first

	mu    sync.Mutex
	heard map[*KeepOptions]func(dr.Progress) // of those that wait for it
}

// hear has a caller told of the cycle's progress from now on, whichever machine's it
// is: one that waits while others are copied lives as well, and who watches over it
// stops what is silent for long.
func (s *sharedCycle) hear(o *KeepOptions) (leave func()) {
	if o.Progress == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard = map[*KeepOptions]func(dr.Progress){}
	}
	s.heard[o] = o.Progress
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.heard, o)
	}
}

// progress tells all of them, one at a time.
func (s *sharedCycle) progress(_ dr.ProtectionID, p dr.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tell := range s.heard {
		tell(p)
	}
}

// KeepGroup is ReplicateBy for protections that may be of a replication group:
// then the cycle is one of all its members ([Env.ReplicateGroup]), whichever
// asks first, and those that ask meanwhile wait for it, hear of its progress, and
// get their own part. So every member may be kept on a schedule of its own, and the
// group's points still share their moments. A member whose newest point is younger than nine
// tenths of its policy's interval has been served by the others: that point is
// returned, with Report.Existed. That the group has no common moment is logged;
// points are ordinary then.
//
// The cycle ends with the context of whoever asked first; those that waited for it
// get dr.ErrBusy then. All of a process must use one Env.
func (e *Env) KeepGroup(ctx context.Context, id dr.ProtectionID, policies Policies, o KeepOptions) (Report, error) {
	p, err := e.Records.Load(ctx, id)
	if err != nil {
		return Report{}, err
	}
	if p.Group == "" {
		return e.ReplicateBy(ctx, id, policies, o)
	}
	if err := p.Allow(dr.OpReplicate); err != nil {
		return Report{}, err
	}
	_, every, err := policies.Of(p)
	if err != nil {
		return Report{}, err
	}
	if age := e.Time().Sub(p.Last.Time); p.Last.ID != "" && p.Replication != dr.ResyncRequired && age >= 0 && age < every-every/10 {
		return Report{Point: p.Last, Existed: true}, nil
	}
	e.mu.Lock()
	s := e.shared[p.Group]
	first := s == nil
	if first {
		s = &sharedCycle{done: make(chan struct{})}
		if e.shared == nil {
			e.shared = map[string]*sharedCycle{}
		}
		e.shared[p.Group] = s
	}
	e.mu.Unlock()
	defer s.hear(&o)()
	if first {
		e.lead(ctx, s, p, policies, o)
	} else {
		select {
		case <-s.done:
		case <-ctx.Done():
			return Report{}, ctx.Err()
		}
	}
	stopped := func(err error) error {
		if first || s.why == nil || err == nil {
			return err
		}
		// Nothing of this one's: the other's lease may be over, and its site paused.
		return fmt.Errorf("protection %s: %w: the cycle of replication group %q that it waited for was stopped: %v", id, dr.ErrBusy, p.Group, err)
	}
	if s.err != nil {
		return Report{}, stopped(s.err)
	}
	for _, m := range s.report.Machines {
		if m.Protection == id {
			return m.Report, stopped(m.Err)
		}
	}
	return Report{}, fmt.Errorf("protection %s: %w: it joined replication group %q while a cycle of the group was under way", id, dr.ErrBusy, p.Group)
}

// lead runs the cycle for all that wait for it. Whatever happens they are let go,
// and the next asks anew.
func (e *Env) lead(ctx context.Context, s *sharedCycle, p dr.Protection, policies Policies, o KeepOptions) {
	s.err = fmt.Errorf("replication group %q: its cycle came to no end", p.Group)
	defer func() {
		e.mu.Lock()
		delete(e.shared, p.Group)
		e.mu.Unlock()
		close(s.done)
	}()
	s.report, s.err = e.groupCycle(ctx, s, p, policies, o)
	s.why = context.Cause(ctx)
}

func (e *Env) groupCycle(ctx context.Context, s *sharedCycle, p dr.Protection, policies Policies, o KeepOptions) (GroupReport, error) {
	ids, err := e.groupIDs(ctx, p)
	if err != nil {
		return GroupReport{}, err
	}
	want := o.Want
	if want == 0 {
		if want, err = e.want(ctx, p, policies); err != nil {
			return GroupReport{}, err
		}
	}
	g := GroupOptions{Limits: o.Limits, Progress: s.progress}
	began := e.Time()
	r, err := e.ReplicateGroup(ctx, ids, want, g)
	if err == nil && r.Why != nil {
		e.Logger().WarnContext(ctx, "a replication group has no common moment", "group", p.Group, "why", r.Why, "took", e.Time().Sub(began).Round(time.Millisecond))
	}
	return r, err
}

// groupListing is how long one listing of the records tells who is in which group:
// with thousands of machines in hundreds of groups, a listing for each cycle would be
// more work than the cycles.
const groupListing = 10 * time.Second

// groupIDs are the members of p's group by a listing that may be a little old. Who
// has left since is not among them, and who has joined is as soon as it asks for a
// cycle itself.
func (e *Env) groupIDs(ctx context.Context, p dr.Protection) ([]dr.ProtectionID, error) {
	e.mu.Lock()
	age := e.Time().Sub(e.grouped)
	ids := slices.Clone(e.groups[p.Group])
	e.mu.Unlock()
	if age >= 0 && age < groupListing && slices.Contains(ids, p.ID) {
		left := false
		for _, id := range ids {
			m, err := e.Records.Load(ctx, id)
			if left = err != nil || m.Group != p.Group; left {
				break
			}
		}
		if !left {
			return ids, nil
		}
	}
	lister, ok := dr.As[dr.RecordLister](e.Records)
	if !ok {
		return nil, fmt.Errorf("members of replication group %q: %w: the records can't be listed", p.Group, dr.ErrUnsupported)
	}
	began, groups := e.Time(), map[string][]dr.ProtectionID{}
	for m, err := range lister.Protections(ctx) {
		if err != nil {
			return nil, fmt.Errorf("members of replication group %q: %w", p.Group, err)
		}
		if m.Group != "" {
			groups[m.Group] = append(groups[m.Group], m.ID)
		}
	}
	if len(groups[p.Group]) == 0 {
		return nil, fmt.Errorf("members of replication group %q: %w", p.Group, dr.ErrNotFound)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.groups, e.grouped = groups, began
	return slices.Clone(groups[p.Group]), nil
}

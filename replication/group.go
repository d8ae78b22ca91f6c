package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/backend"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// GroupFreeze is how long a group's machines are held at most, if nothing else
// is said: what Windows grants a shadow copy between freeze and thaw.
const GroupFreeze = 10 * time.Second

// GroupOptions are the knobs of one cycle of a group. The zero value freezes
// for ten seconds at most, and copies four machines at a time.
type GroupOptions struct {
	// Freeze bounds the time from the first machine's quiesce to the last
	// one's thaw; 0: GroupFreeze. When it is over all machines thaw, and the
	// moment isn't common. The platforms' own limits count too.
	Freeze time.Duration
	// Parallel is how many machines are copied at once; 0: 4. All are
	// captured at once, whatever it says.
	Parallel int
	// Limits bound each machine's copy, beside those of Env.Copy.
	Limits []*rate.Limiter
	// Progress, if set, is called often, by several goroutines at a time. It
	// must not block.
	Progress func(dr.ProtectionID, dr.Progress)
}

// GroupReport is what one cycle of a group did.
type GroupReport struct {
	// Mark is that of the common moment; zero if it wasn't earned.
	Mark dr.GroupMark `json:"mark,omitzero"`
	// Why the mark was not earned; nil if it was.
	Why error `json:"-"`
	// Whole says that every machine's point of the mark is in its store: only
	// then can it be chosen.
	Whole bool `json:"whole"`
	// Consistency is the least of the machines' at the common moment.
	Consistency dr.Consistency `json:"consistency,omitempty"`
	// Frozen is the time from the first quiesce's call to the last thaw's
	// return; no machine was held for longer. 0: none was held.
	Frozen   time.Duration `json:"frozen"`
	Machines []GroupResult `json:"machines"` // in the order asked for
}

// Err joins the errors of the machines that got no point.
func (r GroupReport) Err() error {
	var all []error
	for _, m := range r.Machines {
		all = append(all, m.Err)
	}
	return errors.Join(all...)
}

// GroupResult is what became of one machine.
type GroupResult struct {
	Protection dr.ProtectionID `json:"protection"`
	// Report is that of the machine's new point. It has the group's mark, or it
	// is an ordinary one.
	Report Report `json:"report"`
	// Resumed, if set, is that of a point which an earlier cycle had begun.
	Resumed *Report `json:"resumed,omitempty"`
	// Frozen is how long the machine may have been held.
	Frozen time.Duration `json:"frozen"`
	// Err says why there is no new point.
	Err error `json:"-"`
}

// ReplicateGroup runs one cycle of a replication group, named by all of its
// protections: every machine is quiesced, all are captured, all thaw, and then
// they are copied. Their points share a dr.GroupMark, which is earned only if
// every capture began after the last quiesce and before the first thaw, and
// every thaw said that its machine had been held until then.
//
// That the mark can't be earned is no failure: a machine that may not be
// replicated now, a platform that can't quiesce, a deadline that was missed, a
// rule that the group breaks ([ValidateGroup]). The other machines get ordinary
// points then, and GroupReport.Why says what it was. A machine that gets none
// has an error of its own in its result. ReplicateGroup itself only returns
// dr.ErrInvalid, for IDs that make no sense.
//
// A cycle that was interrupted when the captures were taken is gone on with by
// the next, also by an ordinary one of a single machine: the mark stays with
// the drafts in the stores, and a capture that is of another moment doesn't
// get it. Only then is a new moment taken.
//
// The context's end thaws what is held. Each machine's part is a cycle of its
// own to Hold and Pause, which break the common moment and end that machine's
// copy, not the others'. Call it in place of Replicate for every protection
// with a Group; it takes as long as its slowest machine.
func (e *Env) ReplicateGroup(ctx context.Context, ids []dr.ProtectionID, want dr.Consistency, o GroupOptions) (GroupReport, error) {
	if err := distinct(ids); err != nil {
		return GroupReport{}, err
	}
	if o.Freeze < 0 || o.Parallel < 0 {
		return GroupReport{}, fmt.Errorf("replicate a group: %w: Freeze %v, Parallel %d: want none below 0", dr.ErrInvalid, o.Freeze, o.Parallel)
	}
	g := &groupCycle{env: e, want: want, o: o, slots: make(chan struct{}, cmp.Or(o.Parallel, 4))}
	g.moment = newMoment(ctx, len(ids), cmp.Or(o.Freeze, GroupFreeze), e.Time)
	for _, id := range ids {
		g.members = append(g.members, e.member(ctx, id))
	}
	g.check()
	var all sync.WaitGroup
	for _, m := range g.members {
		all.Go(func() { m.run(g) })
	}
	all.Wait()
	g.moment.close()
	return g.report(), nil
}

// groupCycle is one ReplicateGroup.
type groupCycle struct {
	*moment
	env     *Env
	want    dr.Consistency
	o       GroupOptions
	members []*member
	mark    dr.GroupMark // but for its ID; final when the machines run
	slots   chan struct{}
}

// member is a machine of the group. It is its own goroutine's.
type member struct {
	id       dr.ProtectionID
	ctx      context.Context // ends also when a flow holds the protection
	leave    func()
	p        dr.Protection
	machine  dr.MachineID
	cycle    *Cycle
	quiescer backend.Quiescer
	refused  error // why it may not be replicated now

	report  Report
	resumed *Report
	frozen  time.Duration
	err     error
}

// member loads a protection and enters its cycle.
func (e *Env) member(ctx context.Context, id dr.ProtectionID) *member {
	m := &member{id: id, ctx: ctx, leave: func() {}}
	within, leave, err := e.enter(ctx, id) // before looking at the record, as in Replicate
	if err != nil {
		m.refused = err
		return m
	}
	m.ctx, m.leave = within, leave
	if m.p, err = e.Records.Load(ctx, id); err == nil {
		err = m.p.Allow(dr.OpReplicate)
	}
	if err == nil {
		m.machine = m.p.Active.Machine
		m.cycle, err = e.cycle(m.p)
	}
	m.refused = err
	return m
}

// check finds what keeps the group from a common moment before anything is
// frozen.
func (g *groupCycle) check() {
	var ps []dr.Protection
	for _, m := range g.members {
		if m.refused != nil {
			g.fail(m.refused)
			return
		}
		ps = append(ps, m.p)
		g.mark.Members = append(g.mark.Members, m.machine)
	}
	g.mark.Group = ps[0].Group
	if err := ValidateGroup(ps); err != nil {
		g.fail(err)
		return
	}
	for _, m := range g.members {
		if err := m.quiescerOf(); err != nil {
			g.fail(err)
			return
		}
	}
}

func (m *member) run(g *groupCycle) {
	defer m.leave()
	if m.err = m.refused; m.err == nil {
		m.err = m.replicate(g)
	}
	if m.err != nil {
		g.fail(m.err) // no machine waits for one that has ended
		if cause := context.Cause(m.ctx); cause != nil && !errors.Is(m.err, cause) {
			m.err = errors.Join(cause, m.err)
		}
	}
}

func (m *member) replicate(g *groupCycle) error {
	if err := m.finishEarlier(g); err != nil {
		return err
	}
	o := CycleOptions{Have: resync(m.p), Limits: g.o.Limits, begun: g.turn, Progress: m.progress(g)}
	name, why := dr.PointID(""), error(nil)
	if live, err := m.capturesLive(); err != nil {
		g.fail(err)
	} else if live {
		if done, err := m.replicateLive(g, o.Progress); done || err != nil {
			return err
		}
	} else if o.image, why = m.common(g); why == nil {
		o.Group = g.marked()
	}
	if o.image != nil {
		name = g.called()
	}
	rep, err := m.cycle.ReplicateAs(m.ctx, m.machine, name, g.want, o)
	m.report = rep
	if err != nil {
		return err
	}
	return g.env.noteLast(m.ctx, m.p, rep.Point, g.want)
}

// finishEarlier goes on with what an interrupted cycle has begun: a new moment's
// cycle would throw it away.
func (m *member) finishEarlier(g *groupCycle) error {
	known, err := m.cycle.processed(m.ctx, m.machine)
	if err != nil || known.unfinished() == "" {
		return err
	}
	rep, err := m.cycle.ReplicateAs(m.ctx, m.machine, "", g.want, CycleOptions{Have: resync(m.p), Limits: g.o.Limits, begun: g.turn, Progress: m.progress(g)})
	m.resumed = &rep
	if err != nil {
		return err
	}
	return g.env.noteLast(m.ctx, m.p, rep.Point, g.want)
}

// common captures the machine at the moment that it shares with the others.
// With an error there is no such moment; there may be an image all the same.
func (m *member) common(g *groupCycle) (dr.Image, error) {
	if err := m.await(g); err != nil {
		return nil, err
	}
	for _, s := range []stage{copied, ready} {
		if err := g.meet(m.ctx, s); err != nil {
			return nil, err
		}
	}
	return m.freeze(m.ctx, g.moment, g.want)
}

// await returns when the moment has a name, and nothing of that name is at the
// source.
func (m *member) await(g *groupCycle) error {
	known, err := m.cycle.look(m.ctx, m.machine)
	if err != nil {
		return g.fail(err)
	}
	g.follow(known.lastNamed)
	if err := g.meet(m.ctx, looked); err != nil {
		return err
	}
	// Capture finds what there is under a name, and a clock that was set back
	// gives names again: from here on there is nothing of this one.
	if err := m.cycle.release(m.ctx, m.machine, g.called()); err != nil {
		return g.fail(err)
	}
	return nil
}

// marked is the mark of the common moment, once that has its name.
func (g *groupCycle) marked() dr.GroupMark {
	mark, name := g.mark, g.called()
	mark.ID = string(name)
	mark.Time, _ = cycleTime(name)
	return mark
}

// turn waits until fewer machines than Parallel are being copied. Their drafts
// are begun by then: what was captured is found again after a crash.
func (g *groupCycle) turn(ctx context.Context) (func(), error) {
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (m *member) progress(g *groupCycle) func(dr.Progress) {
	if g.o.Progress == nil {
		return nil
	}
	return func(p dr.Progress) { g.o.Progress(m.id, p) }
}

func (g *groupCycle) report() GroupReport {
	var r GroupReport
	r.Frozen, r.Why = g.verdict()
	if r.Why == nil {
		r.Mark, r.Whole = g.marked(), true
	}
	for _, m := range g.members {
		r.Machines = append(r.Machines, GroupResult{Protection: m.id, Report: m.report, Resumed: m.resumed, Frozen: m.frozen, Err: m.err})
		if r.Why != nil {
			continue
		}
		if p := m.report.Point; p.ID == "" || p.Group.ID != r.Mark.ID {
			r.Whole = false
		} else if r.Consistency == 0 || p.Consistency < r.Consistency {
			r.Consistency = p.Consistency
		}
	}
	if !r.Whole {
		r.Consistency = 0
	}
	return r
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// protector makes a recovery point of each machine, round by round.
type protector struct {
	*options
	v      *vmware.VSphere
	points *vault.Store
	cycle  *replication.Cycle
	screen *screen

	mu    sync.Mutex
	notes map[dr.MachineID]int // findings that refuse nothing
}

func newProtector(o *options, v *vmware.VSphere, points *vault.Store, s *screen, log *slog.Logger) *protector {
	return &protector{
		options: o, v: v, points: points, screen: s, notes: map[dr.MachineID]int{},
		// The cycle copies what changed since the newest point of the machine,
		// goes on with what was interrupted, and sweeps snapshots of ours that
		// nobody needs any more.
		cycle: &replication.Cycle{Source: v, Points: points, SourceSite: o.vcenter.options.URL.Host, StoreSite: o.store.dir,
			Copy: replication.CopyOptions{Limit: o.limit}, Log: log},
	}
}

// rounds makes one round, or one in every interval until ctx ends. A mistyped
// machine, or a server that can't list them, ends it in the first round only:
// later it may pass.
func (p *protector) rounds(ctx context.Context) error {
	for n := 1; ; n++ {
		start := time.Now()
		machines, err := p.selection.find(ctx, p.v)
		if err != nil && n == 1 {
			return err
		}
		if err == nil {
			err = p.round(ctx, machines)
		}
		if n == 1 && ctx.Err() == nil {
			p.hint()
		}
		if p.every == 0 || ctx.Err() != nil {
			return err
		}
		if err != nil {
			fmt.Fprintf(p.screen, "%s: round %d: %v\n", program, n, err)
		}
		select {
		case <-ctx.Done():
			return err // between rounds nothing is interrupted
		case <-time.After(time.Until(start.Add(time.Duration(p.every)))):
		}
	}
}

// outcome is what a round came to for one machine.
type outcome struct {
	machine dr.Machine
	report  replication.Report
	newest  dr.Point // that is in the store now
	expired int
	err     error
}

// round makes a point of each machine. A machine that fails holds up no other.
func (p *protector) round(ctx context.Context, machines []dr.Machine) error {
	start, before := time.Now(), p.store.occupied()
	all := make([]outcome, len(machines))
	var g errgroup.Group
	g.SetLimit(p.parallel)
	for i, m := range machines {
		g.Go(func() error {
			all[i] = p.protect(ctx, m)
			return nil
		})
	}
	_ = g.Wait()

	var freed int64
	if slices.ContainsFunc(all, func(o outcome) bool { return o.expired > 0 }) && ctx.Err() == nil {
		var err error
		if freed, err = p.points.Prune(ctx); err != nil {
			return err
		}
	}
	printRound(all, time.Since(start), freed, p.store.occupied(), before)
	return verdict(ctx, all)
}

// verdict is a round's error.
func verdict(ctx context.Context, all []outcome) error {
	failed, busy := 0, 0
	for _, o := range all {
		if o.err != nil {
			failed++
		}
		if errors.Is(o.err, dr.ErrBusy) {
			busy++
		}
	}
	switch {
	case failed == 0:
		return nil // a signal that came after the last interrupted nothing
	case ctx.Err() != nil:
		return ctx.Err()
	case busy == len(all):
		return fmt.Errorf("%w: see above; does another process write to the folder?", dr.ErrBusy)
	case failed == len(all):
		return errors.New("every machine failed")
	}
	return fmt.Errorf("%w: %d of %s failed", errIncomplete, failed, plural(len(all), "machine", "machines"))
}

// protect makes a recovery point of one machine, and lets old ones expire.
func (p *protector) protect(ctx context.Context, m dr.Machine) outcome {
	o := outcome{machine: m}
	if o.err = ctx.Err(); o.err != nil {
		return o // its turn never came
	}
	c := p.screen.begin(m)
	if o.err = p.fit(ctx, m); o.err == nil {
		o.report, o.err = p.cycle.ReplicateAs(ctx, m.ID, "", p.consistency, replication.CycleOptions{Progress: c.show})
	}
	if o.err == nil {
		o.expired, o.err = p.expire(ctx, m.ID)
	}
	after := context.WithoutCancel(ctx)
	if ctx.Err() != nil && !p.keepSnapshots {
		if err := p.giveUp(after, m.ID); err != nil {
			o.err = errors.Join(o.err, err)
		}
	}
	var err error
	if o.newest, err = recoverypoint.Newest(after, p.points, m.ID); err != nil && !errors.Is(err, dr.ErrNoPoint) {
		o.err = cmp.Or(o.err, err)
	}
	c.end(o)
	return o
}

// fit refuses machines whose capture would fail, or lie.
func (p *protector) fit(ctx context.Context, m dr.Machine) error {
	found, err := p.v.Preflight(ctx, m.ID)
	if err != nil {
		return err
	}
	var no []string
	for _, f := range blockers(found) {
		no = append(no, finding(f))
	}
	p.mu.Lock()
	p.notes[m.ID] = len(found) - len(no)
	p.mu.Unlock()
	if no != nil {
		return fmt.Errorf("%w: %s", dr.ErrUnsupported, strings.Join(no, "; "))
	}
	return nil
}

// hint says where findings can be read that refuse nothing.
func (p *protector) hint() {
	machines, notes := 0, 0
	for _, n := range p.notes {
		if n > 0 {
			machines, notes = machines+1, notes+n
		}
	}
	if notes > 0 {
		fmt.Fprintf(p.screen, "%s on %s: --list prints them\n", plural(notes, "note", "notes"), plural(machines, "machine", "machines"))
	}
}

// expire deletes the points that the policy doesn't keep.
func (p *protector) expire(ctx context.Context, id dr.MachineID) (n int, err error) {
	var points []dr.Point
	for x, err := range p.points.List(ctx, id) {
		if err != nil {
			return 0, err
		}
		points = append(points, x)
	}
	for _, x := range recoverypoint.Expired(points, p.policy, time.Now(), nil) {
		if err := p.points.Delete(ctx, id, x); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// giveUp removes the snapshot of a copy that was interrupted, and what was
// copied, which only that snapshot could complete.
func (p *protector) giveUp(ctx context.Context, id dr.MachineID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var begun []dr.PointID
	for x, err := range p.points.Pending(ctx, id) {
		if err != nil {
			return err
		}
		begun = append(begun, x.ID)
	}
	for _, name := range begun {
		if err := p.cycle.Abandon(ctx, id, "", name); err != nil {
			return err
		}
	}
	return nil
}

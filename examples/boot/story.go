package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/bootproof"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// taken is a recovery point, and what the machine had counted to before and after
// it: what is recovered of it must lie between.
type taken struct {
	point         dr.PointID
	before, after uint64
}

func (t taken) check(s guest.Status) error {
	switch {
	case s.Recovered < t.before:
		return fmt.Errorf("the machine has lost numbers: it came up with %d, and had given %d away before the point", s.Recovered, t.before)
	case s.Recovered > t.after:
		return fmt.Errorf("the machine came up with %d, and had %d when the point was taken", s.Recovered, t.after)
	case s.Ring == "" || s.Ring[0] != 'o':
		return fmt.Errorf("the machine's records are damaged: %s", s.Ring)
	}
	return nil
}

func (w *world) tell(ctx context.Context) error {
	if err := w.client.Start(ctx, app); err != nil {
		return err
	}
	page, err := w.guestAt(ctx, hq)
	if err != nil {
		return err
	}
	s, err := ask(ctx, page)
	if err != nil {
		return err
	}
	w.say("%s runs at %s: Linux %s, %s, its disk is %s", app, hq, s.Kernel, s.Firmware, s.Root)

	if _, err := w.engine.Save(ctx, replication.New(protection, dr.Place{Site: hq, Machine: app}, refuge)); err != nil {
		return err
	}
	var last taken
	for i := range w.points {
		if last, err = w.replicate(ctx, i, page); err != nil {
			return err
		}
	}
	if err := w.drill(ctx, last); err != nil {
		return err
	}

	s, err = ask(ctx, page)
	if err != nil {
		return err
	}
	if err := w.loseSite(); err != nil {
		return err
	}
	w.say("\n%s is lost, killed at number %d", hq, s.Counter)

	if err := w.instant(ctx, last); err != nil {
		return err
	}
	if err := w.failOver(ctx, last); err != nil {
		return err
	}
	return w.comeHome(ctx)
}

// replicate makes a point of the running machine.
func (w *world) replicate(ctx context.Context, i int, page string) (t taken, err error) {
	before, err := w.work(ctx, page)
	if err != nil {
		return t, err
	}
	began := time.Now()
	var rep replication.Report
	if i == 0 {
		err = w.flow(ctx, "protect", replication.Protect, "replicate", &rep)
	} else {
		rep, err = w.env.Replicate(ctx, protection, dr.CrashConsistent, nil)
	}
	if err != nil {
		return t, err
	}
	took := time.Since(began)
	after, err := ask(ctx, page)
	if err != nil {
		return t, err
	}
	w.say("point %s: %s sent in %s, while it counted from %d to %d", rep.Point.ID, size(rep.Written), round(took), before.Counter, after.Counter)
	return taken{rep.Point.ID, before.Counter, after.Counter}, nil
}

// work lets the machine count on for a while.
func (w *world) work(ctx context.Context, page string) (s guest.Status, err error) {
	for from := uint64(0); err == nil; {
		if s, err = ask(ctx, page); err != nil {
			break
		}
		if from == 0 {
			from = max(1, s.Counter)
		}
		if s.Counter >= from+5 {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
	return s, err
}

// drill boots the newest point beside production, which notices nothing.
func (w *world) drill(ctx context.Context, t taken) error {
	img, err := w.vaults[refuge].Open(ctx, app, t.point)
	if err != nil {
		return err
	}
	defer img.Close()
	r, err := bootproof.Prove(ctx, img, w.proof())
	if err != nil {
		return err
	}
	name := w.path("screen.png")
	if err := os.WriteFile(name, r.Screenshot, 0o600); err != nil {
		return err
	}
	w.say("a drill of it, beside production: it boots from the vault in %s, reading %s of it; its screen: %d bytes of PNG", round(r.Took), size(r.BytesRead), len(r.Screenshot))
	return nil
}

// instant is what the demonstration is for: from the call to a service that answers.
func (w *world) instant(ctx context.Context, t taken) error {
	began := time.Now()
	img, err := w.vaults[refuge].Open(ctx, app, t.point)
	if err != nil {
		return err
	}
	defer img.Close()
	m, err := bootproof.Boot(ctx, img, w.proof())
	if err != nil {
		return err
	}
	err = func() error {
		if err := m.Wait(ctx, evidence...); err != nil {
			return err
		}
		took := time.Since(began)
		page, err := m.Port(ctx, guestPort)
		if err != nil {
			return err
		}
		s, err := ask(ctx, page)
		if err != nil {
			return err
		}
		w.say("its last point boots from the vault, nothing was copied: THE SERVICE ANSWERS AFTER %s\n  with number %d, of a point taken between %d and %d; its journal was replayed: %v; its records: %s",
			round(took), s.Recovered, t.before, t.after, s.Replayed, s.Ring)
		return t.check(s)
	}()
	return errors.Join(err, m.Close())
}

func (w *world) proof() bootproof.Options {
	return bootproof.Options{Evidence: evidence, Folder: w.dir, Type: "pc"}
}

// failOver is the same as an ordinary flow: a machine of its own at the other site.
func (w *world) failOver(ctx context.Context, t taken) error {
	began := time.Now()
	var r failover.Report
	err := w.flow(ctx, "failover", func(p dr.Protection) (dr.Plan, error) {
		return failover.Unplanned(p, failover.Options{Point: recoverypoint.Choice{Option: recoverypoint.Custom, Point: t.point}})
	}, failover.StepFinish, &r)
	if err != nil {
		return err
	}
	took := time.Since(began)
	page, err := w.guestAt(ctx, refuge)
	if err != nil {
		return err
	}
	s, err := ask(ctx, page)
	if err != nil {
		return err
	}
	w.say("failed over: it runs at %s, %s after the call, with number %d; %s were written", refuge, round(took), s.Recovered, size(r.Copied.Written))
	if err := t.check(s); err != nil {
		return err
	}
	return w.flow(ctx, "commit", func(p dr.Protection) (dr.Plan, error) {
		return failover.Commit(p, failover.CommitOptions{})
	}, "", nil)
}

// comeHome rebuilds hq, protects the machine there and fails it back.
func (w *world) comeHome(ctx context.Context) error {
	if _, err := w.startSite(w.addr); err != nil {
		return err
	}
	w.say("\n%s is there again, with the disk that it had", hq)
	if err := w.flow(ctx, "reprotect", func(p dr.Protection) (dr.Plan, error) {
		return failback.Reprotect(p, failback.ReprotectOptions{})
	}, "", nil); err != nil {
		return err
	}
	page, err := w.guestAt(ctx, refuge)
	if err != nil {
		return err
	}
	gone, err := ask(ctx, page)
	if err != nil {
		return err
	}
	began := time.Now()
	var r failover.Report
	if err := w.flow(ctx, "failback", func(p dr.Protection) (dr.Plan, error) {
		return failback.Failback(p, failback.Options{})
	}, failover.StepFinish, &r); err != nil {
		return err
	}
	took := time.Since(began)
	if page, err = w.guestAt(ctx, hq); err != nil {
		return err
	}
	s, err := ask(ctx, page)
	if err != nil {
		return err
	}
	w.say("failed back: it was shut down at %s and runs at %s, %s after the call, with number %d; journal replayed: %v; lost: %v; %s were written",
		refuge, hq, round(took), s.Recovered, s.Replayed, !r.Loss.None, size(r.Copied.Written))
	if s.Recovered < gone.Counter || !r.Loss.None || s.Replayed {
		return fmt.Errorf("it gave %d away at %s, and has %d at home", gone.Counter, refuge, s.Recovered)
	}
	return w.flow(ctx, "commit-home", func(p dr.Protection) (dr.Plan, error) {
		return failover.Commit(p, failover.CommitOptions{})
	}, "", nil)
}

// guestAt is the machine's page where it runs now, once it answers.
func (w *world) guestAt(ctx context.Context, site string) (page string, err error) {
	if site == hq {
		page, err = w.hear(ctx, saysGuest)
	} else {
		var p dr.Protection
		if p, err = w.engine.Load(ctx, protection); err == nil {
			page, err = w.refuge.page(ctx, p.Active.Machine)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for err == nil {
		_, e := ask(ctx, page)
		if e == nil {
			return page, nil
		}
		if ctx.Err() != nil {
			return page, fmt.Errorf("%w: %w", ctx.Err(), e)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return page, err
}

// flow runs a flow to its end, and reads what one of its steps has left.
func (w *world) flow(ctx context.Context, name string, plan func(dr.Protection) (dr.Plan, error), step string, result any) error {
	p, err := w.engine.Load(ctx, protection)
	if err != nil {
		return err
	}
	pl, err := plan(p)
	if err != nil {
		return err
	}
	if err := w.engine.Start(ctx, dr.RunID(name), pl); err != nil {
		return err
	}
	st, err := dr.Wait(ctx, w.engine, dr.RunID(name), nil)
	if err != nil {
		return err
	}
	if err := st.Err(); err != nil || step == "" {
		return err
	}
	s, ok := st.Step(step)
	if !ok {
		return fmt.Errorf("flow %s has no step %s", name, step)
	}
	return json.Unmarshal(s.Result, result)
}

func (w *world) say(format string, args ...any) { fmt.Fprintf(w.out, format+"\n", args...) }

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

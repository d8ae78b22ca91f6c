package physical

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// thawLimit bounds a thaw hook. It doesn't end with its caller: a machine that
// stays frozen is worse than anything that waits for it.
const thawLimit = time.Minute

// freezer allows one freeze of a machine at a time.
type freezer struct {
	m   *machine
	mu  sync.Mutex
	now *frozen
}

// frozen is one freeze. It ends by thaw or at its deadline, whichever is first.
type frozen struct {
	f      *freezer
	shared bool      // by Quiesce: the machine's captures may use it
	at     time.Time // when the hook had returned: from here on it is frozen
	said   string    // by the freeze hook; set before the timer is

	mu    sync.Mutex
	got   dr.Consistency // the thaw hook may lower it
	told  dr.Consistency // what it was before the thaw
	began time.Time      // when the hook was called, or said so: from here on it may be frozen
	ended time.Time      // when the thaw hook said so; zero: it didn't
	timer *time.Timer
	over  bool          // thawed or thawing
	hangs bool          // its hook has not returned yet, though it is over
	early error         // why it thawed before it should have
	done  chan struct{} // closed when it has thawed
	err   error         // of the thaw hook; read after done
	took  time.Duration // frozen for; read after done
}

// possible tells whether the machine can be frozen at all.
func (f *freezer) possible() bool {
	h := f.m.host.cfg.Hooks
	return h.Freeze != nil && h.Thaw != nil
}

// freeze returns when the machine is frozen. Whoever gets the freeze must thaw
// it.
func (f *freezer) freeze(ctx context.Context, want dr.Consistency, shared bool) (*frozen, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx) // nothing was frozen, and nothing must be thawed
	}
	cfg := &f.m.host.cfg
	fr := &frozen{f: f, shared: shared, got: max(min(want, cfg.Freezes), dr.CrashConsistent), done: make(chan struct{})}
	f.mu.Lock()
	if f.now != nil {
		f.mu.Unlock()
		return nil, fmt.Errorf("%w: another capture has frozen it, or the freeze hook of an earlier one hangs", dr.ErrBusy)
	}
	f.now = fr
	f.mu.Unlock()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := func(limit time.Duration) *time.Timer {
		return time.AfterFunc(limit, func() {
			cancel(fmt.Errorf("freezing took longer than %v: %w", limit, context.DeadlineExceeded))
		})
	}
	limit := late(cfg.PrepareLimit)
	fr.began = time.Now()
	returned := make(chan error, 1)
	want = fr.got
	go func() {
		said, err := f.m.call(ctx, "freeze", cfg.Hooks.Freeze, want, func(e *Event) {
			e.Held = func(on bool) {
				fr.mu.Lock()
				defer fr.mu.Unlock()
				if on && limit.Stop() {
					fr.began, limit = time.Now(), late(cfg.FreezeLimit)
				}
			}
			e.Reached = fr.reached
		})
		fr.said = said
		returned <- err
	}()
	defer func() {
		fr.mu.Lock()
		defer fr.mu.Unlock()
		limit.Stop()
	}()
	var err error
	select {
	case err = <-returned:
	case <-ctx.Done():
		// The hook was told by the same context. It may hang because it waits
		// for a disk that it froze: only a thaw can free it.
		err = context.Cause(ctx)
		fr.mu.Lock()
		fr.hangs = true
		fr.mu.Unlock()
		fr.end(err)
		go func() {
			<-returned
			// It may have frozen something after the thaw, whatever it says.
			// Until here no other freeze can have begun that this would end.
			f.thawHook(nil)
			f.leave(fr)
		}()
	}
	if err != nil {
		fr.end(err)
		<-fr.done
		return nil, errors.Join(fmt.Errorf("%w: %w", dr.ErrNotConsistent, err), fr.err)
	}
	fr.at = time.Now()
	fr.mu.Lock()
	fr.told = fr.got
	fr.timer = time.AfterFunc(cfg.FreezeLimit-fr.at.Sub(fr.began), func() {
		fr.end(fmt.Errorf("it was frozen for %v, which is the limit", cfg.FreezeLimit))
	})
	fr.mu.Unlock()
	return fr, nil
}

// join returns the freeze that Quiesce holds, if there is one.
func (f *freezer) join() *frozen {
	f.mu.Lock()
	fr := f.now
	f.mu.Unlock()
	if fr == nil || !fr.shared || fr.lost() != nil {
		return nil
	}
	fr.mu.Lock()
	defer fr.mu.Unlock()
	if fr.timer == nil {
		return nil // still freezing
	}
	return fr
}

// stop thaws whatever is frozen.
func (f *freezer) stop() error {
	f.mu.Lock()
	fr := f.now
	f.mu.Unlock()
	if fr == nil {
		return nil
	}
	fr.end(errors.New("the host was closed"))
	<-fr.done
	return fr.err
}

// lost tells why the machine is no longer frozen; nil: it is.
func (fr *frozen) lost() error {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	switch {
	case fr.early != nil:
		return fmt.Errorf("%w: the machine thawed before the last pass was read: %w", dr.ErrNotConsistent, fr.early)
	case fr.over:
		return fmt.Errorf("%w: the machine was thawed before the last pass was read", dr.ErrNotConsistent)
	}
	return nil
}

// reached takes what a hook says of the consistency.
func (fr *frozen) reached(c dr.Consistency) {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	fr.got = max(min(fr.got, c), dr.CrashConsistent)
}

// consistency is what was reached; after a thaw, what was held until then.
func (fr *frozen) consistency() dr.Consistency {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	return fr.got
}

// thaw ends the freeze and tells whether it had lasted until now. The second
// call tells the same.
func (fr *frozen) thaw() error {
	fr.end(nil)
	<-fr.done
	fr.mu.Lock()
	early, got := fr.early, fr.got
	fr.mu.Unlock()
	if early != nil {
		return errors.Join(fmt.Errorf("%w: the machine thawed too early: %w", dr.ErrNotConsistent, early), fr.err)
	}
	if fr.err != nil {
		// Whether it was frozen until now, or is still, can't be known.
		return fmt.Errorf("%w: %w (see that the machine is thawed)", dr.ErrNotConsistent, fr.err)
	}
	if fr.shared && got < fr.told {
		// The points that were taken meanwhile say more already.
		return fmt.Errorf("%w: it was quiesced to be %v-consistent, and the thaw hook says that it was %v-consistent only", dr.ErrNotConsistent, fr.told, got)
	}
	return nil
}

// end thaws; why is nil if everything that had to be read was. Only the first
// call does anything, and the thaw hook is called after the freeze is marked
// as over, never before.
func (fr *frozen) end(why error) {
	fr.mu.Lock()
	if fr.over {
		fr.mu.Unlock()
		return
	}
	fr.over, fr.early = true, why
	if fr.timer != nil {
		fr.timer.Stop()
	}
	fr.mu.Unlock()

	f, log := fr.f, fr.f.m.host.cfg.Log
	fr.err = f.thawHook(func(e *Event) {
		e.Reached = fr.reached
		e.Held = func(on bool) {
			fr.mu.Lock()
			defer fr.mu.Unlock()
			if !on && fr.ended.IsZero() {
				fr.ended = time.Now()
			}
		}
	})
	fr.mu.Lock()
	if fr.ended.IsZero() {
		fr.ended = time.Now()
	}
	fr.took = fr.ended.Sub(fr.began)
	said := ""
	if fr.timer != nil {
		said = fr.said
	}
	fr.mu.Unlock()
	if fr.err != nil {
		log.Error("thaw failed", "machine", f.m.id, "frozen", fr.took, "error", fr.err, "said", said)
	} else if why != nil {
		log.Warn("thawed early", "machine", f.m.id, "frozen", fr.took, "reason", why, "said", said)
	} else {
		log.Info("thawed", "machine", f.m.id, "frozen", fr.took, "said", said)
	}
	fr.mu.Lock()
	hangs := fr.hangs
	fr.mu.Unlock()
	if !hangs {
		f.leave(fr)
	}
	close(fr.done)
}

// leave lets the next freeze begin.
func (f *freezer) leave(fr *frozen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == fr {
		f.now = nil
	}
}

func (f *freezer) thawHook(more func(*Event)) error {
	ctx, cancel := context.WithTimeout(context.Background(), thawLimit)
	defer cancel()
	_, err := f.m.call(ctx, "thaw", f.m.host.cfg.Hooks.Thaw, 0, more)
	return err
}

// Quiesce implements [backend.Quiescer]. A stopped machine is quiet as it is.
// Beyond the contract: a capture of the machine that comes to its last pass
// meanwhile (see Settle of its image) uses this freeze, so that captures
// of several machines can be of one moment: copy all of them until little is
// dirty, quiesce all, settle and copy their last passes, settle again, thaw.
func (q quiescer) Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	m, err := q.h.machine("quiesce", id)
	if err != nil {
		return 0, nil, err
	}
	fail := func(err error) error { return &dr.Error{Op: "quiesce", Machine: id, Err: err} }
	rec := m.record()
	if rec == nil {
		return 0, nil, fail(dr.ErrNotFound)
	}
	if rec.Power == dr.Off {
		gen := m.generation()
		return rec.quiet(want), func(context.Context) error {
			if m.generation() != gen {
				return fail(fmt.Errorf("%w: the machine was started or written meanwhile", dr.ErrNotConsistent))
			}
			return nil
		}, nil
	}
	fr, err := m.freeze.freeze(ctx, want, true)
	if err != nil {
		return 0, nil, fail(err)
	}
	stop := context.AfterFunc(ctx, func() { fr.end(context.Cause(ctx)) })
	return fr.told, func(context.Context) error {
		stop()
		err := fr.thaw()
		if lost := m.settle(ctx); lost != nil {
			q.h.cfg.Log.Warn("a point's changes will be found by comparing", "machine", id, "error", lost)
		}
		if err != nil {
			return fail(err)
		}
		return nil
	}, nil
}

// CapturesLive implements [backend.LiveCapturer]: whatever isn't known to be
// stopped, and has no snapshots, is.
func (q quiescer) CapturesLive(ctx context.Context, id dr.MachineID) (bool, error) {
	m, err := q.h.machine("capture", id)
	if err != nil {
		return false, err
	}
	rec := m.record()
	if rec == nil {
		return false, &dr.Error{Op: "capture", Side: dr.SourceSide, Machine: id, Err: dr.ErrNotFound}
	}
	if rec.Power == dr.Off {
		return false, nil
	}
	copies, err := m.snapshots(ctx, rec)
	if err != nil {
		return false, &dr.Error{Op: "capture", Side: dr.SourceSide, Machine: id, Err: err}
	}
	return !copies, nil
}

// quiet is what a stopped machine's disks are consistent with: what its
// content was known to be, or what a clean shutdown leaves, else as after a
// power cut.
func (r *record) quiet(want dr.Consistency) dr.Consistency {
	got := dr.CrashConsistent
	if r.Clean {
		got = dr.ApplicationConsistent
	}
	for _, h := range r.Held {
		got = max(got, h.Consistency)
	}
	return max(min(want, got), dr.CrashConsistent)
}

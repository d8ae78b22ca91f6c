package vmware

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

//go:embed guestfreeze.sh
var freezeScript string

const (
	// hookLimit bounds all programs of freeze.d together.
	hookLimit = time.Minute
	// thawLimit bounds how long a thaw is waited for, with its programs.
	thawLimit = time.Minute
)

// Unwrap shows dr.As the abilities that need a way into guests.
func (v *VSphere) Unwrap() any {
	if v.options.GuestAuth == nil {
		return nil
	}
	return quiescer{v}
}

type quiescer struct{ v *VSphere }

var _ backend.Quiescer = quiescer{}

// Quiesce implements [backend.Quiescer], for Linux guests: a script freezes all
// their file systems and holds them, no longer than Options.FreezeLimit; a
// Capture of the machine meanwhile makes a snapshot as it is, which says what
// was reached. Windows is dr.ErrUnsupported: its shadow copies hold writes for
// at most ten seconds, and let no program outside of them choose the moment. A
// machine that is off is quiet as long as it is off.
func (q quiescer) Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	got, thaw, err := q.v.quiesce(ctx, id, want)
	if err != nil {
		return 0, nil, fail("quiesce", id, "", -1, err)
	}
	return got, func(ctx context.Context) error { return fail("thaw", id, "", -1, thaw(ctx)) }, nil
}

func (v *VSphere) quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	m, err := v.findAny(ctx, id)
	if err != nil {
		return 0, nil, err
	}
	if m.off() {
		return dr.CrashConsistent, func(ctx context.Context) error { return v.stillOff(ctx, id) }, nil
	}
	if m.describe().OS == windows {
		return 0, nil, &explained{fmt.Errorf("%w: Windows can't be held: its shadow copies keep writes for ten seconds at most, and at a moment of their own", dr.ErrUnsupported),
			"take application-consistent points of this machine alone, or put it into no group"}
	}
	d, err := v.enter(ctx, m)
	if err != nil {
		return 0, nil, err
	}
	h := &hold{d: d}
	if !v.held.take(id, h) {
		return 0, nil, fmt.Errorf("%w: the machine is being quiesced", dr.ErrBusy)
	}
	if err := h.freeze(ctx, want); err != nil {
		v.held.drop(id, h)
		return 0, nil, err
	}
	thaw := sync.OnceValue(func() error {
		defer v.held.drop(id, h)
		return h.thaw()
	})
	gone := context.AfterFunc(ctx, func() {
		if err := thaw(); err != nil {
			v.options.Log.WarnContext(ctx, "a guest was thawed because nobody waits for it any more", "machine", id, "error", err)
		}
	})
	last := sync.OnceValue(func() error {
		inTime := gone()
		if err := thaw(); err != nil || inTime {
			return err
		}
		return fmt.Errorf("%w: the machine was thawed early: %w", dr.ErrNotConsistent, context.Cause(ctx))
	})
	return h.got, func(context.Context) error { return last() }, nil
}

func (v *VSphere) stillOff(ctx context.Context, id dr.MachineID) error {
	m, err := v.findAny(ctx, id)
	if err == nil && !m.off() {
		err = fmt.Errorf("%w: the machine was started meanwhile", dr.ErrNotConsistent)
	}
	return err
}

// held are the machines that are frozen by this process.
type held struct {
	mu  sync.Mutex
	all map[dr.MachineID]*hold
}

func (h *held) take(id dr.MachineID, x *hold) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all[id] != nil {
		return false
	}
	if h.all == nil {
		h.all = map[dr.MachineID]*hold{}
	}
	h.all[id] = x
	return true
}

func (h *held) drop(id dr.MachineID, x *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all[id] == x {
		delete(h.all, id)
	}
}

// still tells what a machine is consistent with, if it is frozen now and will
// be for a moment; 0: it isn't.
func (h *held) still(id dr.MachineID) dr.Consistency {
	h.mu.Lock()
	defer h.mu.Unlock()
	x := h.all[id]
	if x == nil || x.got == 0 || !time.Now().Before(x.ends) {
		return 0
	}
	return x.got
}

// hold is one freeze of one guest.
type hold struct {
	d     *door
	dir   string
	pid   int64 // as vSphere knows it
	state frozen

	got  dr.Consistency // set, with ends, when all is frozen
	ends time.Time      // the guest can't have thawed by itself before
}

// freeze returns when the guest is frozen. If it fails, nothing is.
func (h *hold) freeze(ctx context.Context, want dr.Consistency) (err error) {
	v := h.d.v
	limit := v.options.FreezeLimit.Truncate(time.Second)
	ctx, cancel := context.WithTimeoutCause(ctx, hookLimit+limit+thawLimit, errors.New("the guest did not freeze in time"))
	defer cancel()
	if err := h.place(ctx); err != nil {
		return err
	}
	hooks := ""
	if want >= dr.ApplicationConsistent {
		hooks = v.options.FreezeHooks
	}
	mounts := "/proc/self/mountinfo"
	if v.mounts != "" {
		mounts = v.mounts
	}
	head := fmt.Sprintf("dir=%s mounts=%s hooks=%s limit=%d patience=%d\n", h.dir, mounts, hooks, int(limit.Seconds()), int(hookLimit.Seconds()))
	if err := h.d.put(ctx, h.dir+"/run.sh", []byte(head+freezeScript)); err != nil {
		h.d.tidy(ctx, h.dir)
		return err
	}
	h.ends = time.Now().Add(limit)
	h.pid, err = h.d.start(ctx, &types.GuestProgramSpec{ProgramPath: "/bin/sh", Arguments: h.dir + "/run.sh"})
	if err != nil && faultOf(err) != nil { // an answer: it was not started
		h.d.tidy(ctx, h.dir)
		return err
	}
	if err == nil {
		err = h.await(ctx)
	}
	if err == nil {
		err = h.whole()
	}
	if err != nil {
		return errors.Join(err, h.undo())
	}
	h.d.v.held.mu.Lock()
	defer h.d.v.held.mu.Unlock()
	h.got = h.state.got(want)
	return nil
}

// place makes the folder, in memory: nothing else can be written later.
func (h *hold) place(ctx context.Context) (err error) {
	for _, place := range []string{"/dev/shm", "/run"} {
		if h.dir, err = h.d.folder(ctx, place); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// await waits until the script says that it has frozen everything.
func (h *hold) await(ctx context.Context) error {
	limit := h.d.v.options.FreezeLimit.Truncate(time.Second)
	for wait := firstAsk; ; wait = min(wait*3/2, time.Second) {
		asked := time.Now()
		f, err := h.read(ctx)
		if err == nil {
			h.state = f
			if !f.holding { // the time that it may take begins after this look
				h.ends = asked.Add(limit)
			}
			switch {
			case f.why != "":
				return f.reason()
			case f.asked || f.over || f.thawed:
				return fmt.Errorf("%w: the guest did not freeze within %s", dr.ErrNotConsistent, limit)
			}
			if f.done {
				return nil
			}
		} else if !isNotFound(err) {
			return err
		}
		list, err := h.d.list(ctx, h.pid)
		switch {
		case err != nil:
			return err
		case len(list) == 0 || list[0].EndTime != nil:
			if f, err := h.read(ctx); err == nil && f.why != "" {
				h.state = f
				return f.reason()
			}
			return fmt.Errorf("%w: the script in the guest ended before it froze anything", dr.ErrNotConsistent)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (h *hold) read(ctx context.Context) (frozen, error) {
	p, _, err := h.d.get(ctx, h.dir+"/state")
	if err != nil {
		return frozen{}, err
	}
	return parseFrozen(p)
}

// whole refuses a freeze beside which writes go on.
func (h *hold) whole() error {
	if loose := h.state.loose(); len(loose) > 0 {
		return &explained{fmt.Errorf("%w: the guest can't freeze %s", dr.ErrUnsupported, strings.Join(loose[:min(len(loose), 5)], ", ")),
			"unmount it, mount it read-only, or move what is written to it"}
	}
	if len(h.state.froze) == 0 && len(h.state.synced) == 0 {
		return fmt.Errorf("%w: the guest shows no file system that could be frozen", dr.ErrNotConsistent)
	}
	return nil
}

// startLimit is how long a script may take to say its first word.
const startLimit = 5 * time.Second

// undo ends what a freeze that failed has begun. Its folder is removed only
// when nothing can run in it any more.
func (h *hold) undo() error {
	limit := thawLimit
	if h.state.pid == 0 {
		limit = startLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if !h.state.early() {
		// A script that nobody has heard of yet ends when it finds this.
		stop := h.d.put(ctx, h.dir+"/over", []byte("x"))
		asked := h.ask(ctx)
		if f, err := h.end(ctx); err != nil || !f.thawed {
			return fmt.Errorf("whether the guest has thawed is not known; it does so by itself: %w", errors.Join(stop, asked, err))
		}
	}
	h.d.tidy(context.Background(), h.dir)
	return nil
}

// ask has the script thaw. Which process holds the freeze is its own to say:
// the one that was started may be a shell around it. When an answer is lost it
// is asked again, and need not be there any more.
func (h *hold) ask(ctx context.Context) (err error) {
	for n := 1; n <= retries; n++ {
		for _, pid := range []int64{h.state.pid, h.pid} {
			if pid == 0 {
				continue
			}
			err = h.d.terminate(ctx, pid)
			if err == nil || n > 1 && isNotFound(err) {
				return nil
			}
			if !isNotFound(err) {
				break
			}
		}
	}
	return err
}

// end waits until the script has said its last.
func (h *hold) end(ctx context.Context) (frozen, error) {
	for wait := firstAsk; ; wait = min(2*wait, time.Second) {
		f, err := h.read(ctx)
		if err == nil && (f.thawed || f.early()) {
			return f, nil
		}
		if isNotFound(err) && h.state.pid != 0 {
			return f, fmt.Errorf("what the guest has said of the freeze is gone: %w", err)
		}
		if f.pid != 0 && h.state.pid == 0 { // heard of only now
			h.state.pid = f.pid
			_ = h.ask(ctx)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return f, fmt.Errorf("the guest does not say that it has thawed: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// thaw thaws the guest, and tells whether it was frozen all the while.
func (h *hold) thaw() error {
	ctx, cancel := context.WithTimeout(context.Background(), thawLimit)
	defer cancel()
	asked := h.ask(ctx)
	f, err := h.end(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", dr.ErrNotConsistent, errors.Join(asked, err))
	case f.over:
		err = fmt.Errorf("%w: the guest had thawed by itself after %s", dr.ErrNotConsistent, h.d.v.options.FreezeLimit)
	case asked != nil || !f.asked:
		err = fmt.Errorf("%w: the guest had thawed before it was asked to", errors.Join(dr.ErrNotConsistent, asked))
	}
	for _, hook := range f.failed {
		h.d.v.options.Log.WarnContext(ctx, "a program in the guest failed", "machine", h.d.m.id, "hook", hook)
	}
	h.d.tidy(ctx, h.dir)
	return err
}

package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// releaseGrace is how long letting go of a capture may take when the cycle's
// own context has ended. A capture left behind costs the source space, and on
// some platforms speed.
const releaseGrace = 30 * time.Second

// Cycle makes recovery points: it captures a machine, copies into a store what
// differs from the newest point there, and lets go of the capture. It is a
// [Replicator]. It must not be copied after first use, and is safe for
// concurrent use; of one machine it runs one cycle at a time, and a second is
// dr.ErrBusy. Other processes are kept away by claims, not by the Cycle.
//
// A cycle that was interrupted, by a crash, the end of ctx or an error that
// may pass, leaves its capture and what it copied if both sides can go on with
// them: the store is a recoverypoint.Pender and the image no dr.Settler. The
// next cycle then goes on, or sweeps them. In all other cases nothing is left
// at the source. [Cycle.Abandon] gives up for good.
//
// A store that receives first and makes points later (recoverypoint.Processor)
// processes at the end of a cycle, when the capture has been let go of: that it
// can't then is told to the log, as the data is safe. It processes at the next
// cycle's beginning at the latest, which needs what was received as its parent.
type Cycle struct {
	Source backend.Source
	Points recoverypoint.PointStore
	// SourceSite and StoreSite name the places in errors; may be empty.
	SourceSite, StoreSite string
	// Copy holds the options of each copy; Have and Measure are set by the cycle.
	Copy CopyOptions
	// Keep, if set, names captures that others need: sweeping spares them,
	// and those that the store has pending drafts of. Needed where captures
	// of one machine go to two stores, or are taken for other ends.
	Keep func(dr.MachineID, dr.PointID) bool
	// Now is the clock that points are named after; nil: time.Now.
	Now func() time.Time
	// Log may be nil. It is told what doesn't fail a cycle but should be
	// known: a sweep that failed, changes that were lost.
	Log *slog.Logger

	mu   sync.Mutex
	busy map[dr.MachineID]bool
}

var _ Replicator = (*Cycle)(nil)

// CycleOptions are what one cycle does otherwise than usual.
type CycleOptions struct {
	// Parent is the point in the store to write over; "": the newest there,
	// a base among them. One that is not there is dr.ErrNotFound.
	Parent dr.PointID
	// Have, if set, is what is known of the parent's content; nil: that the
	// machine descends from it. It is for stores and machines that have gone
	// different ways since a common point, and then wants Parent set; a zero
	// History, which any parent may have, makes the cycle compare whole disks.
	// Over nothing it is ignored.
	Have *History
	// Machine, if set, describes the point in place of the machine that is
	// captured; its ID is then the one under which the store keeps the point.
	// The disks are always those that were captured.
	Machine *dr.Machine
	// Base makes a base of the point (dr.Point.Base).
	Base bool
	// Group marks the point. It is the caller who vouches for it.
	Group dr.GroupMark
	// Progress, if set, replaces that of Cycle.Copy.
	Progress func(dr.Progress)
	// Limits bound the copy, beside those of Cycle.Copy.
	Limits []*rate.Limiter
	// Full replaces Cycle.Copy's if true.
	Full bool

	// image is a capture that was taken under the point's name; nil: the cycle
	// captures. The cycle closes it, whatever happens.
	image dr.Image
	// begun, if set, is called when the draft is there and nothing is copied
	// yet, and leave when all is.
	begun func(ctx context.Context) (leave func(), err error)
}

// Replicate makes a recovery point of the machine, named after the time of the
// cycle's beginning: names sort as the points do. A cycle that was
// interrupted, and whose capture the source still has, is gone on with
// instead. Once the point is committed it is returned also together with an
// error, which then says that the capture could not be let go of.
//
// If ctx ends so does the cycle, as soon as the call under way returns; only
// letting go of the capture may take up to half a minute longer.
func (c *Cycle) Replicate(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Point, error) {
	r, err := c.ReplicateAs(ctx, id, "", want, CycleOptions{})
	return r.Point, err
}

// ReplicateAs makes the point of that name, once: if the store has it already
// it is returned, with Report.Existed. So a step that derives the name from
// its key may be repeated. With an empty name it does what Replicate does.
// A capture of that name that somebody has taken before is used as it is.
func (c *Cycle) ReplicateAs(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency, o CycleOptions) (Report, error) {
	start := time.Now()
	leave, err := c.enter(id)
	if err != nil {
		return Report{}, err
	}
	defer leave()
	r, err := c.replicate(ctx, id, name, want, o)
	r.Took = time.Since(start)
	return r, err
}

// Abandon gives up a point that was begun under the name: its capture is let
// go of, and what was copied of it is thrown away. A point that is committed
// stays. Abandoning what isn't there is no error. line is the machine under
// which the store keeps the point; "": id.
func (c *Cycle) Abandon(ctx context.Context, id, line dr.MachineID, name dr.PointID) error {
	leave, err := c.enter(id)
	if err != nil {
		return err
	}
	defer leave()
	if line == "" {
		line = id
	}
	err = c.release(ctx, id, name)
	known, seeErr := c.look(ctx, line)
	if seeErr != nil {
		return join(err, seeErr)
	}
	if _, begun := known.pending[name]; begun {
		if del := c.Points.Delete(ctx, line, name); del != nil {
			err = join(err, c.fail("discard draft", dr.StoreSide, line, name, del, ""))
		}
	}
	return err
}

func (c *Cycle) replicate(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency, o CycleOptions) (Report, error) {
	line := id
	if o.Machine != nil {
		line = o.Machine.ID
	}
	known, err := c.processed(ctx, line)
	if err != nil {
		if o.image != nil {
			// No draft of it was begun: nobody could go on with it.
			err = join(err, c.letGo(ctx, o.image, id, name))
		}
		return Report{}, err
	}
	if p, ok := known.points[name]; ok && name != "" {
		if o.image != nil {
			_ = o.image.Close()
		}
		return Report{Point: p, Existed: true}, c.release(ctx, id, name)
	}
	auto := name == ""
	if auto {
		if name = known.unfinished(); name == "" {
			name = c.newName(known)
		}
	}
	known.dropStale(name)
	swept := c.sweep(ctx, id, line, name, known)

	img := o.image
	if img == nil {
		_, found := known.pending[name]
		if img, err = c.capture(ctx, id, name, want, found || !o.Group.IsZero()); err != nil {
			return Report{Swept: swept}, err
		}
	}
	if begun, ok := known.pending[name]; ok && auto && !begun.SameMoment(img.Point()) {
		// The source has let go of that moment: a new one has a new name.
		if err := c.drop(ctx, img, id, line, name); err != nil {
			return Report{Swept: swept}, err
		}
		name = c.newName(known)
		if img, err = c.capture(ctx, id, name, want, false); err != nil {
			return Report{Swept: swept}, err
		}
	}
	r, begun, err := c.keep(ctx, img, line, name, known, o)
	r.Swept = swept
	if cl := img.Close(); cl != nil && err == nil {
		c.log().WarnContext(ctx, "close of a capture", "machine", id, "point", name, "error", cl)
	}
	if err != nil && c.resumable(img, begun, auto, err) {
		return r, err
	}
	if err := join(err, c.release(ctx, id, name)); err != nil {
		return r, err
	}
	// The next cycle asks what has changed since this point; but a base is what a
	// machine has that was left: the history it shares with the other is older.
	if f, ok := dr.As[backend.Forgetter](c.Source); ok && !o.Base {
		if err := f.Forget(ctx, id, name); err != nil {
			c.log().WarnContext(ctx, "what the tracker keeps of older points", "machine", id, "point", name, "error", err)
		}
	}
	// The data is safe: that it isn't a point that can be listed yet is no
	// failure. Whoever asks for the latest point, and the next cycle, see to it.
	if err := Process(ctx, c.Points, line); err != nil {
		c.log().WarnContext(ctx, "what the store has received is not processed yet", "machine", line, "point", name, "error", err)
	}
	return r, nil
}

// resumable says whether the capture should stay for the next attempt.
func (c *Cycle) resumable(img dr.Image, begun, auto bool, err error) bool {
	if !begun {
		// Somebody else writes a point of this machine. If it is this very
		// one, the capture is theirs.
		return !auto && errors.Is(err, dr.ErrBusy)
	}
	_, pender := dr.As[recoverypoint.Pender](c.Points)
	return pender && !isLive(img) && !dr.IsPermanent(err)
}

// keep copies the image into the store. begun says that there is a draft.
func (c *Cycle) keep(ctx context.Context, img dr.Image, line dr.MachineID, name dr.PointID, known *known, o CycleOptions) (r Report, begun bool, err error) {
	p := img.Point()
	parent, err := c.parent(line, p, known, o)
	if err != nil {
		return Report{}, false, err
	}
	p.Parent, p.Base, p.Group = parent.ID, o.Base, o.Group
	if begun, ok := known.pending[p.ID]; ok && p.Group.IsZero() && begun.SameMoment(p) && !isLive(img) {
		// A group's mark was earned before its draft was begun, and is of this
		// very moment: whoever goes on with the draft keeps it.
		p.Group = begun.Group
	}
	if o.Machine != nil {
		disks := p.Machine.Disks
		p.Machine = *o.Machine
		p.Machine.Disks = disks
	}
	opts := c.Copy
	if o.Progress != nil {
		opts.Progress = o.Progress
	}
	opts.Limits = slices.Concat(opts.Limits, o.Limits)
	opts.Full = opts.Full || o.Full
	opts.Measure = true
	switch {
	case parent.ID == "":
		opts.Have = History{Blank: true}
	case o.Have == nil:
		opts.Have = History{Common: parent}
	case o.Have.Blank, o.Have.Common.ID != "" && o.Parent == "":
		return Report{}, false, c.fail("copy", dr.StoreSide, line, name, fmt.Errorf("%w: the history given isn't that of point %s, which is written over", dr.ErrInvalid, parent.ID), "")
	default:
		opts.Have = *o.Have
	}
	draft, err := c.Points.Create(ctx, p)
	if err != nil {
		if errors.Is(err, dr.ErrExists) {
			if done, ok := c.received(ctx, line, name); ok {
				return Report{Point: done, Existed: true}, false, nil
			}
		}
		// One that an earlier cycle began is there still, and so must be what it
		// is a copy of.
		earlier, ok := known.pending[name]
		return Report{}, ok && earlier.SameMoment(p), c.fail("create point", dr.StoreSide, line, name, err, remedy(err))
	}
	r, err = c.copy(ctx, draft, img, opts, o)
	cl := draft.Close()
	if err != nil {
		return r, true, c.placed(err, line, name)
	}
	if cl != nil {
		c.log().WarnContext(ctx, "close of a committed draft", "machine", line, "point", name, "error", cl)
	}
	if len(r.Full) > 0 && !opts.Full {
		c.log().WarnContext(ctx, "changes were lost, whole disks were compared", "machine", line, "point", name, "disks", r.Full)
	}
	p.Time, p.Consistency, p.Cursors, p.Changes = r.Point.Time, r.Point.Consistency, r.Point.Cursors, r.Point.Changes
	r.Point = p
	return r, true, nil
}

// parent chooses what to write over. A draft that goes on keeps its parent.
func (c *Cycle) parent(line dr.MachineID, p dr.Point, known *known, o CycleOptions) (dr.Point, error) {
	if o.Parent != "" {
		parent, ok := known.points[o.Parent]
		if !ok {
			return dr.Point{}, c.fail("find parent", dr.StoreSide, line, o.Parent, dr.ErrNotFound, "")
		}
		return parent, nil
	}
	if begun, ok := known.pending[p.ID]; ok && begun.SameMoment(p) {
		if parent, ok := known.points[begun.Parent]; ok || begun.Parent == "" {
			return parent, nil
		}
	}
	return known.newest, nil
}

// received finds a point that is committed but not processed yet.
func (c *Cycle) received(ctx context.Context, line dr.MachineID, name dr.PointID) (dr.Point, bool) {
	pr, ok := dr.As[recoverypoint.Processor](c.Points)
	if !ok || pr.Process(ctx, line) != nil {
		return dr.Point{}, false
	}
	known, err := c.look(ctx, line)
	if err != nil {
		return dr.Point{}, false
	}
	p, ok := known.points[name]
	return p, ok
}

// capture freezes or finds the moment. earlier says that the capture was made
// earlier, so that a failure to open it is no reason to let go of it.
func (c *Cycle) capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency, earlier bool) (dr.Image, error) {
	img, err := c.Source.Capture(ctx, id, name, want)
	if err == nil {
		return img, nil
	}
	err = c.fail("capture", dr.SourceSide, id, name, err, remedy(err))
	if !earlier {
		// It may have happened all the same.
		err = join(err, c.release(ctx, id, name))
	}
	return nil, err
}

// isLive says that an image's moment can't be captured a second time.
func isLive(img dr.Image) bool {
	_, live := dr.As[dr.Settler](img)
	return live
}

// copy is Copy, once it is this point's turn.
func (c *Cycle) copy(ctx context.Context, draft dr.Draft, img dr.Image, opts CopyOptions, o CycleOptions) (Report, error) {
	if o.begun != nil {
		leave, err := o.begun(ctx)
		if err != nil {
			return Report{}, err
		}
		defer leave()
	}
	return Copy(ctx, draft, img, opts)
}

// letGo closes and releases a capture that nobody will go on with.
func (c *Cycle) letGo(ctx context.Context, img dr.Image, id dr.MachineID, name dr.PointID) error {
	err := img.Close()
	if err != nil {
		err = c.fail("close capture", dr.SourceSide, id, name, err, "")
	}
	return join(err, c.release(ctx, id, name))
}

// drop lets go of a capture that nobody will go on with, and of its draft.
func (c *Cycle) drop(ctx context.Context, img dr.Image, id, line dr.MachineID, name dr.PointID) error {
	err := c.letGo(ctx, img, id, name)
	if del := c.Points.Delete(ctx, line, name); del != nil {
		err = join(err, c.fail("discard draft", dr.StoreSide, line, name, del, ""))
	}
	return err
}

// release lets go of a capture, also when ctx has ended.
func (c *Cycle) release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), releaseGrace)
		defer cancel()
	}
	if err := c.Source.Release(ctx, id, name); err != nil {
		return c.fail("release capture", dr.SourceSide, id, name, err, "it is removed by the next cycle, if the backend can sweep; else remove it by hand")
	}
	return nil
}

func (c *Cycle) enter(id dr.MachineID) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[id] {
		return nil, c.fail("replicate", "", id, "", fmt.Errorf("%w: a cycle of this machine is under way", dr.ErrBusy), "wait for it to end")
	}
	if c.busy == nil {
		c.busy = map[dr.MachineID]bool{}
	}
	c.busy[id] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.busy, id)
	}, nil
}

// newName names a point after the clock, later than any named so before.
func (c *Cycle) newName(known *known) dr.PointID {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	known.lastNamed = laterName(now(), known.lastNamed)
	return known.lastNamed
}

// laterName is the name of a point of that time, or of the first moment after
// the point of the name last.
func laterName(t time.Time, last dr.PointID) dr.PointID {
	name := CycleName(t)
	if name <= last {
		t, _ := cycleTime(last)
		name = CycleName(t.Add(1))
	}
	return name
}

// cycleTime is the inverse of CycleName.
func cycleTime(id dr.PointID) (time.Time, bool) {
	t, err := time.Parse("20060102T150405.000000000Z", string(id))
	return t, err == nil && CycleName(t) == id
}

func (c *Cycle) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}

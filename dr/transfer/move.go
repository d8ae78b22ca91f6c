package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Options say how records move.
type Options struct {
	// To is the new place's name, for people: it stays in the old records.
	// Required; one word.
	To string

	// Hold stops what this process does with a protection outside of runs, such
	// as a replication cycle, and returns when it has stopped: replication's
	// Env.Hold. Nil: nothing goes on in this process.
	Hold func(ctx context.Context, id dr.ProtectionID) error

	// Wait is how often records that runs hold are looked at again, until all
	// have moved. 0: they are left, and reported. Those that a move to another
	// place has marked are not waited for.
	Wait time.Duration

	// Each is told of every record that has moved. Nil: nobody is.
	Each func(dr.ProtectionID)

	// Log gets what a person may want to know. Nil: nothing is logged.
	Log *slog.Logger
}

// Report is what a move came to.
type Report struct {
	Moved   int // now
	Already int // before
	// Held are those that a run holds, by ID, with the run. They have not moved.
	Held map[dr.ProtectionID]dr.RunID
}

// Move moves the records of the old place to a new one, which must be a
// dr.RecordImporter, one after another. What has moved already is passed over,
// so that it can be called again after whatever ended it. Several Moves to the
// same place may run at once.
//
// dr.ErrBusy: some are held by runs, see Report.Held; all others have moved.
// dr.ErrExists: the new place has a record of that ID which didn't come from
// here; nothing was done to either. Other errors end the move at the record that
// they name.
func Move(ctx context.Context, from *Old, to dr.Records, o Options) (Report, error) {
	m := &mover{from: from.r, to: to, o: o, log: o.Log}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	var ok bool
	if m.importer, ok = dr.As[dr.RecordImporter](to); !ok {
		return Report{}, fmt.Errorf("%w: %T can't import records", dr.ErrUnsupported, to)
	}
	l, ok := dr.As[dr.RecordLister](from.r)
	if !ok {
		return Report{}, fmt.Errorf("%w: %T can't list its records", dr.ErrUnsupported, from.r)
	}
	if o.To == "" || strings.ContainsAny(o.To, " \t\r\n") {
		return Report{}, fmt.Errorf("%w: the new place is called %q: one word is needed", dr.ErrInvalid, o.To)
	}
	var report Report
	for {
		// The last look is what counts; what moved in an earlier one is kept.
		pass, err := m.pass(ctx, l)
		report = Report{Moved: report.Moved + pass.Moved, Already: max(0, pass.Already-report.Moved), Held: pass.Held}
		if err != nil {
			return report, err
		}
		if len(pass.Held) == 0 {
			return report, nil
		}
		if o.Wait <= 0 || elsewhere(pass.Held) {
			return report, m.busy(pass.Held)
		}
		m.log.Info("records wait for their runs to end", "records", len(pass.Held))
		t := time.NewTimer(o.Wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return report, errors.Join(m.busy(pass.Held), ctx.Err())
		}
	}
}

// elsewhere tells whether all that is held is by the marks of moves to other
// places: that doesn't end by itself.
func elsewhere(held map[dr.ProtectionID]dr.RunID) bool {
	for _, run := range held {
		if !strings.HasPrefix(string(run), movingMark) && !strings.HasPrefix(string(run), movedMark) {
			return false
		}
	}
	return true
}

// Abort takes the marks away of records that were about to move when a Move was
// ended for good. Those that have moved stay moved; to bring them back move them
// the other way. It must not run together with a Move.
func Abort(ctx context.Context, from *Old) error {
	l, ok := dr.As[dr.RecordLister](from.r)
	if !ok {
		return fmt.Errorf("%w: %T can't list its records", dr.ErrUnsupported, from.r)
	}
	for p, err := range l.Protections(ctx) {
		for err == nil && strings.HasPrefix(string(p.Run), movingMark) {
			p.Run = ""
			if _, err = from.r.Save(ctx, p); errors.Is(err, dr.ErrConflict) {
				p, err = from.r.Load(ctx, p.ID)
			}
		}
		if err != nil {
			return fmt.Errorf("abort the move: %w", err)
		}
	}
	return nil
}

type mover struct {
	from, to dr.Records
	importer dr.RecordImporter
	o        Options
	log      *slog.Logger
}

func (m *mover) busy(held map[dr.ProtectionID]dr.RunID) error {
	var all []string
	for id, run := range held {
		all = append(all, fmt.Sprintf("protection %s by run %s", id, run))
	}
	slices.Sort(all)
	return fmt.Errorf("%w: %s", dr.ErrBusy, strings.Join(all, ", "))
}

// pass tries to move each record once.
func (m *mover) pass(ctx context.Context, l dr.RecordLister) (Report, error) {
	report := Report{Held: map[dr.ProtectionID]dr.RunID{}}
	// Listing while saving could show a record again.
	var ids []dr.ProtectionID
	for p, err := range l.Protections(ctx) {
		if err != nil {
			return report, fmt.Errorf("move records: %w", err)
		}
		ids = append(ids, p.ID)
	}
	for _, id := range ids {
		moved, held, err := m.move(ctx, id)
		switch {
		case err != nil:
			return report, fmt.Errorf("move record of protection %s: %w", id, err)
		case held != "":
			report.Held[id] = held
		case moved:
			report.Moved++
			m.log.Info("record has moved", "protection", id, "to", m.o.To)
			if m.o.Each != nil {
				m.o.Each(id)
			}
		default:
			report.Already++
		}
	}
	return report, nil
}

// move moves one record, or finds out who holds it, or that it has moved.
func (m *mover) move(ctx context.Context, id dr.ProtectionID) (moved bool, held dr.RunID, err error) {
	moving, gone := dr.RunID(movingMark+m.o.To), dr.RunID(movedMark+m.o.To)
	p, err := m.from.Load(ctx, id)
	if errors.Is(err, dr.ErrNotFound) {
		return false, "", nil // it was deleted
	}
	for err == nil && p.Run == "" {
		p, err = m.markIfVacant(ctx, p, moving)
	}
	if err != nil {
		return false, "", err
	}
	if p.Run == moving && m.o.Hold != nil {
		if err := m.o.Hold(ctx, id); err != nil {
			return false, "", err
		}
	}
	// A move that was cut off may be long ago: looked at again, as from here on
	// there is no way back but through the new place.
	for err == nil && p.Run == moving {
		p, err = m.markIfVacant(ctx, p, gone)
	}
	if err != nil {
		return false, "", err
	}
	if p.Run != gone {
		return false, p.Run, nil
	}
	moved, err = m.bring(ctx, p)
	return moved, "", err
}

// markIfVacant is mark, unless the new place has another record.
func (m *mover) markIfVacant(ctx context.Context, p dr.Protection, run dr.RunID) (dr.Protection, error) {
	if err := m.vacant(ctx, p.ID); err != nil {
		now, loadErr := m.from.Load(ctx, p.ID)
		if errors.Is(err, dr.ErrExists) && loadErr == nil && now.Version != p.Version {
			return now, nil // another Move was faster: it may be this very one
		}
		return p, err
	}
	return m.mark(ctx, p, run)
}

// mark saves the record with another Run, or returns what somebody else has made
// of it.
func (m *mover) mark(ctx context.Context, p dr.Protection, run dr.RunID) (dr.Protection, error) {
	p.Run = run
	saved, err := m.from.Save(ctx, p)
	if errors.Is(err, dr.ErrConflict) {
		return m.from.Load(ctx, p.ID)
	}
	return saved, err
}

// vacant refuses a new place that has a record which isn't one left behind.
func (m *mover) vacant(ctx context.Context, id dr.ProtectionID) error {
	there, err := m.to.Load(ctx, id)
	if errors.Is(err, dr.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ok := Moved(there); !ok {
		return fmt.Errorf("%w: %s has another record of that ID", dr.ErrExists, m.o.To)
	}
	return nil
}

// bring imports a frozen record, unless it was before: then the new place has
// that version, or a later one.
func (m *mover) bring(ctx context.Context, p dr.Protection) (bool, error) {
	p.Run, p.Version = "", p.Version+1
	there, err := m.to.Load(ctx, p.ID)
	if err != nil && !errors.Is(err, dr.ErrNotFound) {
		return false, err
	}
	_, left := Moved(there)
	if err == nil && !left && there.Version >= p.Version {
		return false, nil
	}
	if err == nil && !left {
		// What came from here has that version at least.
		return false, fmt.Errorf("%w: %s has another record of that ID, made since this one was marked as %s%s", dr.ErrExists, m.o.To, movedMark, m.o.To)
	}
	if err := m.importer.Import(ctx, p); errors.Is(err, dr.ErrConflict) {
		// Another Move was faster, and somebody has saved it since.
		if there, lerr := m.to.Load(ctx, p.ID); lerr == nil && there.Version > p.Version {
			return false, nil
		}
		return false, err
	} else if err != nil {
		return false, err
	}
	there, err = m.to.Load(ctx, p.ID)
	if err != nil {
		return false, err
	}
	if there.Version == p.Version && !same(there, p) {
		return false, fmt.Errorf("%w: what was written there is not what is read", dr.ErrCorrupt)
	}
	return true, nil
}

// same compares what records say, whatever made them.
func same(a, b dr.Protection) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

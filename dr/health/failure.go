package health

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Bounds of what one error becomes: a console shows it, and a person reads it.
const (
	maxMessage = 4 << 10 // bytes
	maxInner   = 32      // errors that were joined, over all depths
	maxDepth   = 8       // of joins within joins
)

// FromError makes a finding of an error that something returned while it was
// at the entity, at the given time. Code, level, category, summary and
// possible causes follow from the sentinel that the error wraps; the
// recommended action is the error's own Remedy, if there is one, else the
// sentinel's; the source is the side that the error names. Errors that were
// joined become inner errors, 32 at most. It returns false for nil.
//
// The ID follows from code and entity, and from operation, side, machine,
// point and disk of the outermost dr.Error, not from offsets and texts: the
// same trouble an hour later is the same finding.
func FromError(err error, about Entity, at time.Time) (Error, bool) {
	if err == nil {
		return Error{}, false
	}
	left := maxInner
	return fromError(err, about, at, 0, &left), true
}

// fromError makes left inner errors at most.
func fromError(err error, about Entity, at time.Time, depth int, left *int) Error {
	m := meaningOf(err)
	e := m.finding(about, clip(err.Error()), at)
	parts := branches(err)
	if len(parts) > 0 && depth < maxDepth {
		seen := map[string]int{}
		n := min(len(parts), *left)
		*left -= n
		for _, p := range parts[:n] {
			in := fromError(p, about, at, depth+1, left)
			if seen[in.ID]++; seen[in.ID] > 1 { // nothing but their texts tells them apart
				in.ID = ID(in.Code, about, in.ID, strconv.Itoa(seen[in.ID]))
			}
			e.Inner = append(e.Inner, in)
		}
		if n < len(parts) {
			e.Message = clip(fmt.Sprintf("%d errors, of which %d are not listed: %s", len(parts), len(parts)-n, err))
		}
		// The code is that of the worst row; the rest comes from the part
		// that it was found in.
		for i := range e.Inner {
			if in := &e.Inner[i]; in.Code == e.Code {
				e.Source, e.RecommendedAction = in.Source, in.RecommendedAction
				break
			}
		}
		for _, in := range e.Inner {
			e.Level = max(e.Level, in.Level)
		}
		return e
	}
	var d *dr.Error
	if errors.As(err, &d) {
		if d.Side != "" {
			e.Source = string(d.Side)
		}
		e.ID = ID(m.Code, about, d.Op, string(d.Side), d.Site, string(d.Machine), string(d.Point), string(d.Disk))
	}
	if r := remedy(err); r != "" {
		e.RecommendedAction = clip(r)
	}
	return e
}

// finding is one of this meaning. Its source is the category's, until more is known.
func (m Meaning) finding(about Entity, message string, at time.Time) Error {
	return Error{
		Source: string(m.Category), Type: m.Type, Level: m.Level, Category: m.Category, Code: m.Code, ID: ID(m.Code, about),
		Summary: m.Summary, Message: message, PossibleCauses: m.Causes, RecommendedAction: m.Action, Time: at, Entity: about,
	}
}

// remedy is the one nearest to the cause: who was there knew most.
func remedy(err error) string {
	last := ""
	for {
		var d *dr.Error
		if !errors.As(err, &d) {
			return last
		}
		if d.Remedy != "" {
			last = d.Remedy
		}
		err = d.Err
	}
}

// branches are the errors that were joined, or nil. What stands before the
// join is in the message; a sentinel that was wrapped beside a cause, as by
// fmt.Errorf("%w: %w"), classifies it and is no error of its own. One branch
// that is left is not a join.
func branches(err error) []error {
	for err != nil {
		if j, ok := err.(interface{ Unwrap() []error }); ok {
			var parts []error
			for _, p := range j.Unwrap() {
				if p != nil && !bare(p) {
					parts = append(parts, p)
				}
			}
			if len(parts) > 1 {
				return parts
			}
			if len(parts) == 0 {
				return nil
			}
			err = parts[0]
			continue
		}
		err = errors.Unwrap(err)
	}
	return nil
}

// bare reports whether err is a sentinel itself.
func bare(err error) bool {
	return slices.ContainsFunc(failures, func(f failure) bool { return f.sentinel != nil && err == f.sentinel })
}

func clip(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= maxMessage {
		return s
	}
	n := maxMessage
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

package dr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlanValidate(t *testing.T) {
	ok := Step{ID: "a", Action: "do"}
	for name, c := range map[string]struct {
		plan Plan
		want string // "" valid
	}{
		"empty":             {Plan{Flow: "f"}, ""},
		"a chain":           {Plan{Flow: "f", Steps: []Step{ok, {ID: "b", Gate: "?", After: []string{"a"}}}}, ""},
		"a nameless lock":   {Plan{Flow: "f", Locks: []string{"m", ""}}, "lock without a name"},
		"no flow":           {Plan{Steps: []Step{ok}}, "without a flow"},
		"no ID":             {Plan{Flow: "f", Steps: []Step{{Action: "do"}}}, "without an ID"},
		"doubled":           {Plan{Flow: "f", Steps: []Step{ok, ok}}, "two steps"},
		"neither":           {Plan{Flow: "f", Steps: []Step{{ID: "a"}}}, "either"},
		"both":              {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Gate: "?"}}}, "either"},
		"gate with undo":    {Plan{Flow: "f", Steps: []Step{{ID: "a", Gate: "?", Undo: "u"}}}, "can't be undone"},
		"gate of no return": {Plan{Flow: "f", Steps: []Step{{ID: "a", Gate: "?", NoReturn: true}}}, "can't be undone"},
		"negative attempts": {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Attempts: -1}}}, "negative"},
		"negative timeout":  {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Timeout: -1}}}, "negative"},
		"negative silence":  {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Silence: -1}}}, "negative"},
		"negative patience": {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Patience: -1}}}, "negative"},
		"patience":          {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Optional: true, Patience: 1}}}, ""},
		"patience in need":  {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Patience: 1}}}, "only an optional action"},
		"patience of gate":  {Plan{Flow: "f", Steps: []Step{{ID: "a", Gate: "?", Optional: true, Patience: 1}}}, "only an optional action"},
		"after itself":      {Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", After: []string{"a"}}}}, "no earlier step"},
		"after a later one": {Plan{Flow: "f", Steps: []Step{{ID: "b", Action: "do", After: []string{"a"}}, ok}}, "no earlier step"},
		"after nothing":     {Plan{Flow: "f", Steps: []Step{{ID: "b", Action: "do", After: []string{"x"}}}}, "no earlier step"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.plan.Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestPlanFrozen(t *testing.T) {
	p := Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Input: json.RawMessage(`{}`)}, {ID: "b", Action: "do", Attempts: 2}, {ID: "g", Gate: "?"}}}
	f, err := p.Frozen()
	require.NoError(t, err)
	require.Equal(t, []int{DefaultAttempts, 2, 0}, []int{f.Steps[0].Attempts, f.Steps[1].Attempts, f.Steps[2].Attempts})
	require.Zero(t, p.Steps[0].Attempts, "the caller's stays as it is")
	p.Steps[0].Input[0] = 'x'
	require.JSONEq(t, `{}`, string(f.Steps[0].Input))
	_, err = p.Frozen()
	require.ErrorIs(t, err, ErrInvalid, "an input that is no JSON")
	_, err = Plan{}.Frozen()
	require.ErrorIs(t, err, ErrInvalid)
}

// shape writes a plan as "a b(a) c(a,b)".
func shape(p Plan) string {
	var all []string
	for _, s := range p.Steps {
		one := s.ID
		if len(s.After) > 0 {
			one += "(" + strings.Join(s.After, ",") + ")"
		}
		all = append(all, one)
	}
	return strings.Join(all, " ")
}

func TestInsert(t *testing.T) {
	diamond := func() Plan {
		return Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do"}, {ID: "b", Action: "do", After: []string{"a"}},
			{ID: "c", Action: "do", After: []string{"a"}}, {ID: "d", Action: "do", After: []string{"b", "c"}}}}
	}
	x := Step{ID: "x", Action: "dns"}
	for name, c := range map[string]struct {
		insert func(Plan) (Plan, error)
		want   string
	}{
		"after the first":  {func(p Plan) (Plan, error) { return p.InsertAfter("a", x) }, "a x(a) b(a,x) c(a,x) d(b,c)"},
		"after one of two": {func(p Plan) (Plan, error) { return p.InsertAfter("b", x) }, "a b(a) x(b) c(a) d(b,c,x)"},
		"after the last":   {func(p Plan) (Plan, error) { return p.InsertAfter("d", x) }, "a b(a) c(a) d(b,c) x(d)"},
		"before the first": {func(p Plan) (Plan, error) { return p.InsertBefore("a", x) }, "x a(x) b(a) c(a) d(b,c)"},
		"before the last":  {func(p Plan) (Plan, error) { return p.InsertBefore("d", x) }, "a b(a) c(a) x(b,c) d(b,c,x)"},
	} {
		t.Run(name, func(t *testing.T) {
			was := diamond()
			p, err := c.insert(was)
			require.NoError(t, err)
			require.Equal(t, c.want, shape(p))
			require.NoError(t, p.Validate())
			require.Equal(t, diamond(), was, "the plan that it was made of stays")
		})
	}
	_, err := diamond().InsertAfter("no", x)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = diamond().InsertBefore("no", x)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = diamond().InsertAfter("a", Step{ID: "b", Action: "do"})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = diamond().InsertBefore("b", Step{ID: "x", Action: "do", After: []string{"d"}})
	require.ErrorIs(t, err, ErrInvalid)
	// Several steps inserted one after the other keep the order of asking.
	p, err := diamond().InsertBefore("d", x)
	require.NoError(t, err)
	p, err = p.InsertBefore("d", Step{ID: "y", Gate: "?"})
	require.NoError(t, err)
	require.Equal(t, "a b(a) c(a) x(b,c) y(b,c,x) d(b,c,x,y)", shape(p))
}

func TestMerge(t *testing.T) {
	do := func(context.Context, *Call) (json.RawMessage, error) { return nil, nil }
	all, err := Merge(Actions{"a": do}, nil, Actions{"b": do})
	require.NoError(t, err)
	require.Len(t, all, 2)
	_, err = Merge(Actions{"a": do}, Actions{"a": do})
	require.ErrorIs(t, err, ErrExists)
	require.ErrorContains(t, err, `"a"`)
}

func TestExec(t *testing.T) {
	for name, c := range map[string]struct {
		do        Action
		result    string
		permanent bool
		err       string
	}{
		"result":         {func(context.Context, *Call) (json.RawMessage, error) { return json.RawMessage(`{}`), nil }, "{}", false, ""},
		"none":           {func(context.Context, *Call) (json.RawMessage, error) { return nil, nil }, "", false, ""},
		"failure":        {func(context.Context, *Call) (json.RawMessage, error) { return json.RawMessage(`1`), errors.New("no") }, "", false, "no"},
		"for good":       {func(context.Context, *Call) (json.RawMessage, error) { return nil, Permanent(errors.New("no")) }, "", true, "no"},
		"sentinel":       {func(context.Context, *Call) (json.RawMessage, error) { return nil, fmt.Errorf("x: %w", ErrFenced) }, "", true, "fenced"},
		"busy":           {func(context.Context, *Call) (json.RawMessage, error) { return nil, ErrBusy }, "", false, "busy"},
		"panic":          {func(context.Context, *Call) (json.RawMessage, error) { panic("ouch") }, "", true, "ouch"},
		"no JSON":        {func(context.Context, *Call) (json.RawMessage, error) { return json.RawMessage(`{`), nil }, "", true, "not JSON"},
		"empty JSON":     {func(context.Context, *Call) (json.RawMessage, error) { return json.RawMessage{}, nil }, "", true, "not JSON"},
		"large":          {func(context.Context, *Call) (json.RawMessage, error) { return make(json.RawMessage, MaxResult+1), nil }, "", true, "bytes"},
		"not registered": {nil, "", true, "not registered"},
	} {
		t.Run(name, func(t *testing.T) {
			a := Actions{}
			if c.do != nil {
				a["do"], a["undo"] = c.do, c.do
			}
			for _, kind := range []TaskKind{TaskDo, TaskUndo} {
				res, err := a.Exec(t.Context(), Task{Kind: kind, Step: Step{Action: "do", Undo: "undo"}}, &Call{})
				require.Equal(t, c.result, string(res))
				if c.err == "" {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, c.err)
				require.Equal(t, c.permanent, IsPermanent(err))
				ev := Event{Kind: EventBegun, Step: "a", Attempt: 3}.End(ev0, res, err)
				require.Equal(t, Event{Kind: EventFailed, At: ev0, Step: "a", Attempt: 3, Err: err.Error(), Final: c.permanent}, ev)
			}
		})
	}
	long := Event{Kind: EventBegun}.End(ev0, nil, errors.New(strings.Repeat("ä", 5000)+"\xff"))
	require.Less(t, len(long.Err), 5000)
	require.True(t, json.Valid([]byte(`"`+long.Err+`"`)))
}

func TestStepKey(t *testing.T) {
	require.Equal(t, "r/a", StepKey("r", "a", false))
	require.Equal(t, "r/a/undo", StepKey("r", "a", true))
	seen := map[string]bool{}
	for _, run := range []RunID{"r", "r/a", "r/a/undo", "r%2Fa"} {
		for _, step := range []string{"a", "a/undo", "undo", "b"} {
			for _, undo := range []bool{false, true} {
				k := StepKey(run, step, undo)
				require.False(t, seen[k], k)
				seen[k] = true
			}
		}
	}
}

func TestNeeds(t *testing.T) {
	p := Plan{Flow: "f", Steps: []Step{
		{ID: "a", Action: "do@1", Undo: "undo@1"}, {ID: "b", Action: "do@2", Queue: "q", After: []string{"a"}, NoReturn: true},
		{ID: "g", Gate: "?", After: []string{"b"}}, {ID: "c", Action: "do@1", After: []string{"g"}}}}
	r := NewRun("r", p)
	apply := func(events ...Event) {
		for _, e := range events {
			require.NoError(t, r.Apply(e))
		}
	}
	require.Equal(t, []string{"do@1", "undo@1", "do@2"}, r.Needs())
	require.Equal(t, []string{"do@1", "undo@1"}, r.Needs("other"))
	require.Equal(t, []string{"do@1", "undo@1", "do@2"}, r.Needs("other", "q"))
	apply(Event{Kind: EventClaimed}, Event{Kind: EventBegun, Step: "a", Attempt: 1}, Event{Kind: EventDone, Step: "a", Attempt: 1},
		Event{Kind: EventBegun, Step: "b", Attempt: 1})
	require.Equal(t, []string{"do@2", "do@1"}, r.Needs(), "nothing is undone any more")

	r = NewRun("r", p)
	apply(Event{Kind: EventClaimed}, Event{Kind: EventBegun, Step: "a", Attempt: 1}, Event{Kind: EventCancelled})
	require.Equal(t, []string{"do@1", "undo@1"}, r.Needs(), "to settle it, and to undo it")
	apply(Event{Kind: EventFailed, Step: "a", Attempt: 1})
	require.Equal(t, []string{"undo@1"}, r.Needs())
}

// TestPoison: a step that takes the process with it each time fails in the
// end; deaths in between others' don't add up.
func TestPoison(t *testing.T) {
	r := NewRun("r", Plan{Flow: "f", Steps: []Step{{ID: "a", Action: "do", Attempts: 1}}})
	require.NoError(t, r.Apply(Event{Kind: EventClaimed}))
	begun := 0
	for {
		e := r.Next()[0].Begin(ev0)
		require.NoError(t, r.Apply(e))
		if e.Kind != EventBegun {
			require.Contains(t, e.Err, "process died")
			break
		}
		begun++
		if begun == 15 { // a shutdown in between shows that it can live
			require.NoError(t, r.Apply(Event{Kind: EventStopped, Step: "a", Attempt: begun}))
		}
	}
	require.Equal(t, 15+maxLost, begun)
	require.Equal(t, RunUndoing, r.Status().State)
}

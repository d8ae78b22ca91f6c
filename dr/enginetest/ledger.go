package enginetest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ledger remembers across all deaths what the actions were called with and
// what they did.
type ledger struct {
	mu    sync.Mutex
	calls []call
	clock int
}

// call is one call of an action. Moments are counted, not timed.
type call struct {
	run     dr.RunID
	step    string
	key     string
	undo    bool
	attempt int
	life    *life
	from    int
	to      int  // 0: it has not returned, or died
	ok      bool // it returned success
	made    bool // it made the effect; else it found it made, or came to nothing
	at      int  // when the effect was made, or found
	results []string
	left    []string
	epochs  map[string]uint64
}

// enter returns the call's number, or -1 if the process is dead.
func (l *ledger) enter(on *life, c *dr.Call) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on.isDead() {
		return -1
	}
	l.clock++
	l.calls = append(l.calls, call{run: c.Run, step: c.Step, key: c.Key, undo: c.Undo, attempt: c.Attempt, life: on,
		from: l.clock, results: slices.Sorted(maps.Keys(c.Results)), left: slices.Clone(c.Left), epochs: maps.Clone(c.Epochs)})
	return len(l.calls) - 1
}

func (l *ledger) leave(n int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	l.calls[n].to, l.calls[n].ok = l.clock, ok
}

// effect makes the call's effect unless its key made it already. False: the
// process is dead.
func (l *ledger) effect(on *life, c *dr.Call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on.isDead() {
		return false
	}
	l.clock++
	found := slices.ContainsFunc(l.calls, func(x call) bool { return x.made && x.key == c.Key })
	for i := len(l.calls) - 1; i >= 0; i-- {
		if x := &l.calls[i]; x.life == on && x.key == c.Key && x.attempt == c.Attempt {
			x.made, x.at = !found, l.clock
			return true
		}
	}
	return true
}

// of are the calls of a run, as they came.
func (l *ledger) of(run dr.RunID) []call {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []call
	for _, c := range l.calls {
		if c.run == run {
			all = append(all, c)
		}
	}
	return all
}

// made names the effects of a run in their order; those of undoing with "~".
func (l *ledger) made(run dr.RunID) []string {
	var all []call
	for _, c := range l.of(run) {
		if c.made {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b call) int { return a.at - b.at })
	names := []string{}
	for _, c := range all {
		names = append(names, c.name())
	}
	return names
}

func (c call) name() string {
	if c.undo {
		return c.step + "~"
	}
	return c.step
}

// attempts are the attempt numbers that an action was called with.
func (l *ledger) attempts(run dr.RunID, name string) []int {
	var all []int
	for _, c := range l.of(run) {
		if c.name() == name {
			all = append(all, c.attempt)
		}
	}
	return all
}

// last is the latest call of an action.
func (l *ledger) last(t T, run dr.RunID, name string) call {
	t.Helper()
	all := l.of(run)
	i := len(all) - 1
	for ; i >= 0 && all[i].name() != name; i-- {
	}
	require.GreaterOrEqual(t, i, 0, "%s was called", name)
	return all[i]
}

// check holds what happened against what every run promises, whatever its
// plan: one key a step and direction and none shared, attempts counted on, no
// action beside itself, nothing forward once undoing has begun, and no effect
// twice.
func (l *ledger) check(t T, run dr.RunID) {
	t.Helper()
	keys, owner := map[string]string{}, map[string]string{}
	last := map[string]call{}
	effects := map[string]int{}
	undoing := false
	for _, c := range l.of(run) {
		n := c.name()
		if k, ok := keys[n]; ok {
			require.Equal(t, k, c.key, "%s is called with one key only", n)
		}
		if o, ok := owner[c.key]; ok {
			require.Equal(t, o, n, "key %s names one effect only", c.key)
		}
		keys[n], owner[c.key] = c.key, n
		if p, ok := last[n]; ok {
			require.Greater(t, c.attempt, p.attempt, "attempts of %s are counted on, across deaths", n)
			require.True(t, p.life != c.life || p.to != 0 && p.to < c.from, "%s must not run beside itself", n)
			require.False(t, p.life == c.life && p.ok, "%s was called again after it had succeeded, and nobody died", n)
		} else if c.life.n == 1 { // later, one may have been lost before its action was called
			require.Equal(t, 1, c.attempt, "the first attempt of %s", n)
		}
		last[n] = c
		undoing = undoing || c.undo
		require.True(t, c.undo || !undoing, "step %s was called after undoing had begun", n)
		if c.undo {
			for _, d := range l.of(run) {
				if !d.undo && d.life == c.life {
					require.True(t, d.to != 0 && d.to < c.from, "%s was undone while %s was running", c.step, d.step)
				}
			}
		}
		if c.made {
			effects[n]++
		}
	}
	for n, count := range effects {
		require.Equal(t, 1, count, "how often %s took effect", n)
	}
}

// follows holds the calls against the plan: nothing before what it comes
// after has taken effect, and nothing again once something after it was
// called, because its end was journaled by then.
func (l *ledger) follows(t T, run dr.RunID, p dr.Plan) {
	t.Helper()
	calls := l.of(run)
	for _, st := range p.Steps {
		for _, a := range st.After {
			before, _ := p.Step(a)
			first := slices.IndexFunc(calls, func(c call) bool { return c.name() == st.ID })
			if first < 0 || before.Gate != "" || before.Optional {
				continue
			}
			done := slices.ContainsFunc(calls, func(c call) bool { return c.name() == a && c.at != 0 && c.at < calls[first].from })
			require.True(t, done, "%s ran before %s, which it comes after, was done", st.ID, a)
			for _, c := range calls[first:] {
				require.NotEqual(t, a, c.name(), "%s was called again after its end was journaled: %s", a, fmt.Sprint(l.made(run)))
			}
		}
	}
}

// undone holds a failed or cancelled run's effects against each other: what
// was done and has an undo was undone, last first.
func (l *ledger) undone(t T, run dr.RunID, p dr.Plan) {
	t.Helper()
	var want, got []string
	made := l.made(run)
	for _, st := range slices.Backward(p.Steps) {
		if st.Undo != "" && slices.ContainsFunc(l.of(run), func(c call) bool { return c.name() == st.ID }) {
			want = append(want, st.ID+"~")
		}
	}
	for _, n := range made {
		if n[len(n)-1] == '~' {
			got = append(got, n)
		}
	}
	require.Equal(t, want, got, "what was undone, in order; all effects: %v", made)
}

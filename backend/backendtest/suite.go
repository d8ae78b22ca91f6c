package backendtest

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Run checks every promise of package backend on the harness's backend, each
// in a subtest of t. Subtests run one after the other, on machines of their
// own. At the end it logs what was skipped.
func Run(t *testing.T, h Harness) {
	run(tester{t}, h, func(string) bool { return true })
}

// runner is a T that has subtests. It is a seam: the suite's own tests record
// what fails.
type runner interface {
	T
	Run(name string, f func(runner)) bool
}

type tester struct{ *testing.T }

func (t tester) Run(name string, f func(runner)) bool {
	return t.T.Run(name, func(t *testing.T) { f(tester{t}) })
}

// promise is a sentence of the contract that can be checked. Its name is what
// someone reads when it was broken.
type promise struct {
	name  string
	check func(*env)
}

var groups = []struct {
	name     string
	promises []promise
}{
	{"Machine", machinePromises},
	{"Capture", capturePromises},
	{"Image", imagePromises},
	{"Changes", changesPromises},
	{"Settle", settlePromises},
	{"Prepare", preparePromises},
	{"Draft", draftPromises},
	{"Torn", tornPromises},
	{"Holds", holdsPromises},
	{"Power", powerPromises},
	{"Remove", removePromises},
	{"Fences", fencesPromises},
	{"Ability", abilityPromises},
	{"Concurrent", concurrentPromises},
	{"History", historyPromises},
}

// run checks the groups that are wanted.
func run(t runner, h Harness, want func(group string) bool) {
	if h.Seed == 0 {
		h.Seed = rand.Uint64()
	}
	if h.SizeUnit == 0 {
		h.SizeUnit = 512
	}
	if h.Histories == 0 {
		h.Histories = 20
	}
	t.Logf("seed %d", h.Seed)
	s := &suite{h: h, b: h.Backend}
	for _, g := range groups {
		if !want(g.name) {
			continue
		}
		t.Run(g.name, func(t runner) {
			for _, p := range g.promises {
				t.Run(p.name, func(t runner) { s.check(t, p) })
			}
		})
	}
	slices.Sort(s.skipped)
	if skipped := slices.Compact(s.skipped); len(skipped) > 0 {
		t.Logf("not checked for lack of: %s", strings.Join(skipped, ", "))
	}
}

// suite is one run on one platform.
type suite struct {
	h Harness

	mu      sync.Mutex
	b       backend.Backend
	skipped []string
}

func (s *suite) check(t T, p promise) {
	e := &env{T: t, s: s, h: s.h, b: s.b, rng: rand.New(rand.NewPCG(s.h.Seed, 1))}
	p.check(e)
}

// env is one subtest: the suite's hands, the backend, and shorthands that end
// the subtest when they fail.
type env struct {
	T
	s   *suite
	h   Harness
	b   backend.Backend
	rng *rand.Rand
}

// lacks skips the subtest, by the name of what it would have needed.
func (e *env) lacks(what string) {
	e.Helper()
	e.s.mu.Lock()
	e.s.skipped = append(e.s.skipped, what)
	e.s.mu.Unlock()
	e.Skipf("no %s", what)
}

// need returns the ability T of v, or skips the subtest.
func need[A any](e *env, v any, name string) A {
	e.Helper()
	a, ok := dr.As[A](v)
	if !ok {
		e.lacks(name)
	}
	return a
}

func (e *env) ok(err error, msg ...any) {
	e.Helper()
	require.NoError(e, err, msg...)
}

// reopen lets the backend's process die, or skips the subtest.
func (e *env) reopen() {
	e.Helper()
	if e.h.Reopen == nil {
		e.lacks("Harness.Reopen")
	}
	b, err := e.h.Reopen()
	e.ok(err)
	e.b, e.s.b = b, b
}

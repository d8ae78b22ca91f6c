package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// effects counts what actions did, by key.
type effects struct {
	mu   sync.Mutex
	made map[string]int
}

// make looks for the effect before it makes it, as every action must.
func (x *effects) make(_ context.Context, c *dr.Call) (json.RawMessage, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.made[c.Key] == 0 {
		x.made[c.Key]++
	}
	return json.Marshal(c.Step)
}

func (x *effects) keys() []string {
	var ks []string
	for k := range x.made {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

// TestEveryWriteFails cuts the journal off at its first write, before and
// after it, then at its second, until a whole history passes; each time
// another engine goes on with what there is.
func TestEveryWriteFails(t *testing.T) {
	errDisk := errors.New("input/output error")
	for _, end := range []string{"done", "failed", "cancelled"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			everyWriteFails(t, end, errDisk, func() Options { return Options{} })
		})
	}
}

// everyWriteFails opens each history's engines with what options returns.
func everyWriteFails(t *testing.T, end string, errDisk error, options func() Options) {
	cuts := 0
	for n := int64(1); ; n++ {
		hit := false
		for _, after := range []bool{false, true} {
			cut := func(w Write) error {
				if w.N == n && w.After == after {
					hit = true
					return errDisk
				}
				return nil
			}
			o := options()
			o.Intercept = cut
			history(t, end, o, errDisk)
		}
		if !hit {
			break
		}
		cuts += 2
	}
	require.Greater(t, cuts, 10)
	t.Logf("%d cuts", cuts)
}

func history(t *testing.T, end string, o Options, errDisk error) {
	x := &effects{made: map[string]int{}}
	path := filepath.Join(t.TempDir(), "journal")
	acts := dr.Actions{"do": x.make, "undo": x.make, "fail": func(context.Context, *dr.Call) (json.RawMessage, error) {
		return nil, dr.Permanent(errors.New("broken"))
	}}
	p := dr.Plan{Flow: end, Locks: []string{"m"}, Steps: []dr.Step{
		{ID: "a", Action: "do", Undo: "undo"},
		{ID: "b", Action: "do", Undo: "undo", After: []string{"a"}},
		{ID: "c", Action: "do", Undo: "undo", After: []string{"a"}},
		{ID: "g", Gate: "?", After: []string{"b", "c"}},
		{ID: "d", Action: "do", Undo: "undo", After: []string{"g"}},
	}}
	want := map[string]dr.RunState{"done": dr.RunDone, "failed": dr.RunFailed, "cancelled": dr.RunCancelled}[end]
	if end == "failed" {
		p.Steps[4].Action = "fail"
	}
	for ; ; o.Intercept = nil {
		e, err := Open(path, o)
		require.NoError(t, err)
		s, err := oneLife(e, acts, end, p)
		require.NoError(t, e.Close())
		if err != nil {
			require.NotNil(t, o.Intercept, "only the first life has a failing disk")
			require.ErrorIs(t, err, errDisk)
			continue
		}
		require.Equal(t, want, s.State, s.Reason)
		break
	}
	keys := []string{"r/a", "r/b", "r/c", "r/d"}
	switch end {
	case "failed":
		keys = []string{"r/a", "r/a/undo", "r/b", "r/b/undo", "r/c", "r/c/undo", "r/d/undo"}
	case "cancelled":
		keys = []string{"r/a", "r/a/undo", "r/b", "r/b/undo", "r/c", "r/c/undo"}
	}
	require.Equal(t, keys, x.keys())
}

// oneLife does what is left to be done. Its error is the engine's.
func oneLife(e *Engine, acts dr.Actions, end string, p dr.Plan) (dr.Status, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	if err := e.Start(ctx, "r", p); err != nil && !errors.Is(err, dr.ErrRunExists) {
		return dr.Status{}, err
	}
	go func() { served <- e.Serve(ctx, acts) }()
	var last dr.Status
	for s, err := range e.Watch(ctx, "r") {
		if err != nil {
			return s, errors.Join(err, <-served) // Serve returns by itself
		}
		last = s
		g, _ := s.Step("g")
		switch {
		case g.State != dr.StepWaiting:
		case end == "cancelled":
			_ = e.Cancel(ctx, "r", "why")
		default:
			_ = e.Decide(ctx, "r", "g", dr.Decision{Verdict: dr.Approve, By: "me"})
		}
	}
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		return last, err
	}
	return last, nil
}

func TestNothingGoesOnAfterAFailedWrite(t *testing.T) {
	errDisk := errors.New("no space left on device")
	fail := make(chan struct{})
	e := open(t, filepath.Join(t.TempDir(), "journal"), Options{Intercept: func(w Write) error {
		select {
		case <-fail:
			return errDisk
		default:
			return nil
		}
	}})
	calls := make(chan string, 10)
	acts := dr.Actions{"do": func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		calls <- c.Step
		close(fail)
		return nil, nil
	}}
	require.NoError(t, e.Start(t.Context(), "r", dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "a", Action: "do"}, {ID: "b", Action: "do", After: []string{"a"}}}}))
	err := e.Serve(t.Context(), acts)
	require.ErrorIs(t, err, errDisk)
	require.ErrorContains(t, err, e.path)
	require.Len(t, calls, 1, "b was not begun")
	for _, err := range []error{
		e.Start(t.Context(), "r2", dr.Plan{Flow: "f"}), e.Serve(t.Context(), acts), e.Cancel(t.Context(), "r", ""),
		second(e.Status(t.Context(), "r")), second(e.Save(t.Context(), dr.Protection{ID: "p"})), second(e.Load(t.Context(), "p")),
		second(e.Acquire(t.Context(), "m", "me")), second(e.Purge(t.Context(), 0)),
	} {
		require.ErrorIs(t, err, errDisk)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAnotherOwnerFences(t *testing.T) {
	e := open(t, filepath.Join(t.TempDir(), "journal"), Options{})
	_, err := e.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	// A file system whose locks do nothing lets another process in.
	db, _, err := openDB(e.path)
	require.NoError(t, err)
	defer db.Close()
	_, err = e.Acquire(t.Context(), "n", "me")
	require.ErrorIs(t, err, dr.ErrFenced)
	require.ErrorIs(t, e.Serve(t.Context(), nil), dr.ErrFenced)
}

func TestForeignFiles(t *testing.T) {
	for name, spoil := range map[string]struct {
		sql  string
		want error
	}{
		"a later schema":   {`PRAGMA user_version = 99`, dr.ErrUnsupported},
		"a later fold":     {`UPDATE run SET fold = 99`, dr.ErrUnsupported},
		"a damaged plan":   {`UPDATE run SET plan = '{'`, dr.ErrCorrupt},
		"a plan of no use": {`UPDATE run SET plan = '{}'`, dr.ErrCorrupt},
		"a damaged event":  {`UPDATE event SET body = 'x'`, dr.ErrCorrupt},
		"a lost event":     {`INSERT INTO event SELECT run, 3, '{"kind":"done","step":"a","attempt":1}' FROM event LIMIT 1`, dr.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			e := open(t, path, Options{})
			require.NoError(t, e.Start(t.Context(), "r", dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "a", Action: "do"}}}))
			require.NoError(t, e.Close())
			db, err := sql.Open("sqlite", path)
			require.NoError(t, err)
			_, err = db.Exec(spoil.sql)
			require.NoError(t, err)
			require.NoError(t, db.Close())
			_, err = Open(path, Options{})
			require.ErrorIs(t, err, spoil.want)
			require.ErrorContains(t, err, "r")
			_, err = Open(path, Options{})
			require.NotErrorIs(t, err, dr.ErrBusy, "a failed Open lets go of the file")
		})
	}
}

func TestPathsOfAnyKind(t *testing.T) {
	for _, name := range []string{"plain", "with space", "what?&x=1#y%41", "ä"} {
		path := filepath.Join(t.TempDir(), name)
		e := open(t, path, Options{})
		require.NoError(t, e.Start(t.Context(), "r", dr.Plan{Flow: "f"}))
		require.NoError(t, e.Close())
		require.FileExists(t, path)
		e = open(t, path, Options{})
		_, err := e.Status(t.Context(), "r")
		require.NoError(t, err)
	}
	_, err := Open(filepath.Join(t.TempDir(), "no", "folder"), Options{})
	require.Error(t, err)
}

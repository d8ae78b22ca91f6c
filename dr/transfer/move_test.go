package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func open(t *testing.T) *embedded.Engine {
	e, err := embedded.Open(filepath.Join(t.TempDir(), "journal"), embedded.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

func save(t *testing.T, r dr.Records, p dr.Protection) dr.Protection {
	p, err := r.Save(t.Context(), p)
	require.NoError(t, err)
	return p
}

func TestMove(t *testing.T) {
	ctx := t.Context()
	here, there := open(t), open(t)
	from := Leaving(here)
	a := save(t, from, dr.Protection{ID: "a", Name: "first", Epoch: 4})
	a = save(t, from, a)
	save(t, from, dr.Protection{ID: "b", Run: "r1"})
	var holds []dr.ProtectionID
	o := Options{To: "new", Hold: func(_ context.Context, id dr.ProtectionID) error {
		holds = append(holds, id)
		// What goes on is stopped, and saves what it came to.
		p, err := from.Load(ctx, id)
		require.NoError(t, err)
		p.Name = "last words"
		_, err = from.Save(ctx, p)
		return err
	}}
	r, err := Move(ctx, from, there, o)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "protection b by run r1")
	require.Equal(t, Report{Moved: 1, Held: map[dr.ProtectionID]dr.RunID{"b": "r1"}}, r)
	require.Equal(t, []dr.ProtectionID{"a"}, holds)

	moved, err := there.Load(ctx, "a")
	require.NoError(t, err)
	require.Greater(t, moved.Version, a.Version)
	require.Equal(t, dr.Protection{ID: "a", Name: "last words", Epoch: 4, Version: moved.Version}, moved)
	left, err := from.Load(ctx, "a")
	require.NoError(t, err)
	to, ok := Moved(left)
	require.True(t, ok)
	require.Equal(t, "new", to)
	require.Less(t, left.Version, moved.Version)
	_, err = from.Save(ctx, left)
	require.ErrorIs(t, err, dr.ErrNotAllowed)
	require.ErrorContains(t, err, "new")
	left.Run = ""
	_, err = from.Save(ctx, left)
	require.ErrorIs(t, err, dr.ErrNotAllowed)
	require.Equal(t, []dr.ProtectionID{"b"}, ids(t, from))
	require.Equal(t, []dr.ProtectionID{"a"}, ids(t, there))
	require.ErrorIs(t, left.Allow(dr.OpReplicate), dr.ErrNotAllowed)

	// The new place goes on; moving again doesn't touch what has moved.
	moved.Name = "goes on"
	moved = save(t, there, moved)
	b, err := from.Load(ctx, "b")
	require.NoError(t, err)
	b.Run = ""
	save(t, from, b)
	r, err = Move(ctx, from, there, o)
	require.NoError(t, err)
	require.Equal(t, 1, r.Moved)
	require.Equal(t, 1, r.Already)
	again, err := there.Load(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, moved, again)

	// And back.
	back, err := Move(ctx, Leaving(there), here, Options{To: "old"})
	require.NoError(t, err)
	require.Equal(t, 2, back.Moved)
	home, err := from.Load(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, home.Run)
	require.Equal(t, "goes on", home.Name)
	require.Greater(t, home.Version, moved.Version)
	save(t, from, home)
	require.Empty(t, ids(t, Leaving(there)))
	r, err = Move(ctx, from, there, Options{To: "new"})
	require.NoError(t, err)
	require.Equal(t, 2, r.Moved, "and there again")
}

func ids(t *testing.T, l dr.RecordLister) (all []dr.ProtectionID) {
	for p, err := range l.Protections(t.Context()) {
		require.NoError(t, err)
		all = append(all, p.ID)
	}
	return all
}

func TestMoveRefuses(t *testing.T) {
	here, there := open(t), open(t)
	p := save(t, here, dr.Protection{ID: "a", Name: "mine"})
	save(t, there, dr.Protection{ID: "a", Name: "another"})
	_, err := Move(t.Context(), Leaving(here), there, Options{To: "new"})
	require.ErrorIs(t, err, dr.ErrExists)
	require.ErrorContains(t, err, "protection a")
	q, err := here.Load(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, p, q, "nothing was done to it")
	for _, to := range []string{"", "two words"} {
		_, err = Move(t.Context(), Leaving(here), there, Options{To: to})
		require.ErrorIs(t, err, dr.ErrInvalid)
	}
	bare := struct{ dr.Records }{here}
	_, err = Move(t.Context(), Leaving(here), bare, Options{To: "new"})
	require.ErrorIs(t, err, dr.ErrUnsupported)
	_, err = Move(t.Context(), Leaving(bare), there, Options{To: "new"})
	require.ErrorIs(t, err, dr.ErrUnsupported)
}

// TestMoveWaits for runs, and gives up with its context.
func TestMoveWaits(t *testing.T) {
	path := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		here, err := embedded.Open(filepath.Join(path, "here"), embedded.Options{})
		require.NoError(t, err)
		defer here.Close()
		there, err := embedded.Open(filepath.Join(path, "there"), embedded.Options{})
		require.NoError(t, err)
		defer there.Close()
		from := Leaving(here)
		p := save(t, from, dr.Protection{ID: "a", Run: "r1"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour+30*time.Second)
		defer cancel()
		_, err = Move(ctx, from, there, Options{To: "new", Wait: time.Minute})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, dr.ErrBusy)
		time.AfterFunc(time.Hour, func() {
			p.Run = ""
			_, err := from.Save(context.Background(), p)
			require.NoError(t, err)
		})
		begun := time.Now()
		r, err := Move(t.Context(), from, there, Options{To: "new", Wait: time.Minute})
		require.NoError(t, err)
		require.Equal(t, Report{Moved: 1, Held: map[dr.ProtectionID]dr.RunID{}}, r)
		require.Less(t, time.Since(begun), time.Hour+2*time.Minute)
	})
}

func TestAbort(t *testing.T) {
	here, there := open(t), open(t)
	from := Leaving(here)
	save(t, from, dr.Protection{ID: "a"})
	save(t, from, dr.Protection{ID: "b"})
	errHold := errors.New("it doesn't stop")
	n := 0
	_, err := Move(t.Context(), from, there, Options{To: "new", Hold: func(context.Context, dr.ProtectionID) error {
		if n++; n == 2 {
			return errHold
		}
		return nil
	}})
	require.ErrorIs(t, err, errHold)
	b, err := from.Load(t.Context(), "b")
	require.NoError(t, err)
	b.Run = "r1"
	_, err = from.Save(t.Context(), b)
	require.ErrorIs(t, err, dr.ErrBusy, "a run doesn't take it from under the move")
	require.NoError(t, Abort(t.Context(), from))
	b, err = from.Load(t.Context(), "b")
	require.NoError(t, err)
	require.Empty(t, b.Run)
	require.Equal(t, []dr.ProtectionID{"b"}, ids(t, from), "a has moved, and stays so")
}

// breaking are records whose n-th call fails, before or after its effect.
type breaking struct {
	*table
	left  *atomic.Int64
	after bool
}

func (b breaking) broken(do func() error) error {
	if b.left.Add(-1) != 0 {
		return do()
	}
	if b.after {
		_ = do()
	}
	return errBroken
}

var errBroken = errors.New("the process died")

func (b breaking) Load(ctx context.Context, id dr.ProtectionID) (p dr.Protection, err error) {
	err = b.broken(func() error { p, err = b.table.Load(ctx, id); return err })
	return p, err
}

func (b breaking) Save(ctx context.Context, p dr.Protection) (q dr.Protection, err error) {
	err = b.broken(func() error { q, err = b.table.Save(ctx, p); return err })
	return q, err
}

func (b breaking) Import(ctx context.Context, p dr.Protection) error {
	return b.broken(func() error { return b.table.Import(ctx, p) })
}

// TestMoveIsCutOff at its first call, then at its second, before and after it,
// until a whole move passes; each time both places are written to as they may
// be, and another move ends it. No save is lost, none is made in two places.
func TestMoveIsCutOff(t *testing.T) {
	cuts := 0
	for n := int64(1); ; n++ {
		hit := false
		for _, after := range []bool{false, true} {
			here, there := inMemory(), inMemory()
			var left atomic.Int64
			left.Store(n)
			from := Leaving(here)
			for _, id := range []dr.ProtectionID{"a", "b"} {
				save(t, from, dr.Protection{ID: id, Name: "0"})
			}
			hold := func(context.Context, dr.ProtectionID) error {
				count(t, from, there, nil)
				return nil
			}
			_, err := Move(t.Context(), Leaving(breaking{here, &left, after}), breaking{there, &left, after}, Options{To: "new", Hold: hold})
			want := map[dr.ProtectionID]int{}
			if err != nil {
				require.ErrorIs(t, err, errBroken)
				hit = true
				cuts++
			}
			for _, id := range []dr.ProtectionID{"a", "b"} {
				want[id] = max(value(t, here, id), value(t, there, id))
			}
			count(t, from, there, want)
			_, err = Move(t.Context(), from, there, Options{To: "new"})
			require.NoError(t, err)
			for id, v := range want {
				require.Equal(t, v, value(t, there, id), "%s: cut at %d, after %v", id, n, after)
				p, err := here.Load(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, dr.RunID("moved:new"), p.Run)
			}
		}
		if !hit {
			break
		}
	}
	t.Logf("%d cuts", cuts)
	require.Greater(t, cuts, 20)
}

func value(t *testing.T, r dr.Records, id dr.ProtectionID) int {
	p, err := r.Load(t.Context(), id)
	if errors.Is(err, dr.ErrNotFound) {
		return -1
	}
	require.NoError(t, err)
	n, err := strconv.Atoi(p.Name)
	require.NoError(t, err)
	return n
}

// count adds one to each record wherever that is allowed, and notes it in want.
// It must not be allowed in both places.
func count(t *testing.T, from, to dr.Records, want map[dr.ProtectionID]int) {
	for _, id := range []dr.ProtectionID{"a", "b"} {
		saved := 0
		for _, r := range []dr.Records{from, to} {
			p, err := r.Load(t.Context(), id)
			if err != nil {
				require.ErrorIs(t, err, dr.ErrNotFound)
				continue
			}
			p.Name = fmt.Sprint(value(t, r, id) + 1)
			if _, err := r.Save(t.Context(), p); err == nil {
				saved++
			} else {
				require.ErrorIs(t, err, dr.ErrNotAllowed)
			}
		}
		require.LessOrEqual(t, saved, 1)
		if want != nil {
			want[id] += saved
		}
	}
}

// TestWritersGoOn: while records move, writers of both places count in them as
// cycles do; what was acknowledged is in the record at the end.
func TestWritersGoOn(t *testing.T) {
	here, there := open(t), open(t)
	from := Leaving(here)
	const records = 20
	for i := range records {
		save(t, from, dr.Protection{ID: dr.ProtectionID(fmt.Sprint("p", i)), Name: "0"})
	}
	var acknowledged [records]atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 4 {
		env := &replication.Env{Records: dr.Records(from)}
		if w%2 == 1 {
			env.Records = there
		}
		writers.Go(func() {
			for ctx.Err() == nil {
				i := rand.IntN(records)
				_, err := env.Amend(ctx, dr.ProtectionID(fmt.Sprint("p", i)), func(p *dr.Protection) error {
					n, err := strconv.Atoi(p.Name)
					p.Name = fmt.Sprint(n + 1)
					return err
				})
				switch {
				case err == nil:
					acknowledged[i].Add(1)
				case ctx.Err() != nil, errors.Is(err, dr.ErrNotFound), errors.Is(err, dr.ErrNotAllowed):
				default:
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	for range 2 {
		_, err := Move(t.Context(), from, there, Options{To: "new", Wait: time.Millisecond})
		require.NoError(t, err)
	}
	stop()
	writers.Wait()
	total := int64(0)
	for i := range records {
		n := acknowledged[i].Load()
		total += n
		// A writer that was stopped may have saved without hearing of it.
		require.InDelta(t, n, value(t, there, dr.ProtectionID(fmt.Sprint("p", i))), 4)
		require.GreaterOrEqual(t, int64(value(t, there, dr.ProtectionID(fmt.Sprint("p", i)))), n)
	}
	t.Logf("%d saves while %d records moved", total, records)
}

func TestEpochs(t *testing.T) {
	ctx := t.Context()
	from, to := open(t), open(t)
	const far = uint64(1) << 40 // ahead of all clocks
	require.NoError(t, from.Raise(ctx, "a", far))
	for i := range 5 {
		owner := fmt.Sprint("r", i)
		_, err := from.Acquire(ctx, "a", owner)
		require.NoError(t, err)
		require.NoError(t, from.Release(ctx, "a", owner))
	}
	_, err := from.Acquire(ctx, "held", "r9")
	require.NoError(t, err)
	require.NoError(t, from.Raise(ctx, "c", far+7))
	_, err = to.Acquire(ctx, "c", "new1")
	require.NoError(t, err)

	n, err := Epochs(ctx, from, to)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "r9")
	require.ErrorContains(t, err, "new1")
	require.Equal(t, 2, n)
	require.NoError(t, from.Release(ctx, "held", "r9"))
	require.NoError(t, to.Release(ctx, "c", "new1"))
	n, err = Epochs(ctx, from, to)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	for resource, above := range map[string]uint64{"a": far + 5, "c": far + 7, "held": 1} {
		epoch, err := to.Acquire(ctx, resource, "new")
		require.NoError(t, err)
		require.Greater(t, epoch, above, resource)
	}
	_, err = Epochs(ctx, struct{ dr.Claims }{from}, to)
	require.ErrorIs(t, err, dr.ErrUnsupported)
	_, err = Epochs(ctx, from, struct{ dr.Claims }{to})
	require.ErrorIs(t, err, dr.ErrUnsupported)
}

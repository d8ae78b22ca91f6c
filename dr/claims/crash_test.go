package claims

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
)

// world is a disk with two processes on it, and what is known of one claim.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	disk  *crashfs.FS
	procs [2]*Claims

	owner  string // who holds it, or may
	phase  phase
	epoch  uint64 // the holder's; 0: not told yet
	most   uint64 // of all that were given
	owners int

	cuts, kills, holdings int
}

type phase int

const (
	free      phase = iota
	acquiring       // it failed, and may have had effect
	held
	releasing // likewise
)

func (w *world) start(i int) {
	kill := 0
	if w.rng.IntN(2) == 0 {
		kill = 1 + w.rng.IntN(25)
	}
	w.procs[i] = newDir(crashfs.NewProcess(w.disk, kill, w.rng.Uint64()), "/srv/claims", Options{})
}

func (w *world) arm() {
	if w.rng.IntN(4) > 0 {
		w.disk.Inject(crashfs.Fault{N: 1 + w.rng.IntN(40), Match: crashfs.Mutating, Torn: true})
	}
	w.start(0)
	w.start(1)
}

// failed brings back what an error has taken away.
func (w *world) failed(i int, err error) {
	switch {
	case errors.Is(err, crashfs.ErrPowerLost):
		w.cuts++
		w.disk = w.disk.Restart()
		w.arm()
	case errors.Is(err, crashfs.ErrKilled):
		w.kills++
		w.start(i)
	default:
		require.NoError(w.t, err)
	}
}

func (w *world) newOwner() string {
	w.owners++
	return fmt.Sprint("owner", w.owners)
}

func (w *world) given(owner string, epoch uint64) {
	require.Greater(w.t, epoch, w.most, "given to %s", owner)
	w.owner, w.phase, w.epoch, w.most = owner, held, epoch, epoch
	w.holdings++
}

func (w *world) step() {
	i := w.rng.IntN(2)
	c, ctx := w.procs[i], context.Background()
	if w.phase == held && w.rng.IntN(2) == 0 || w.phase == releasing && w.rng.IntN(2) == 0 {
		err := c.Release(ctx, "m", w.owner)
		if w.phase = free; err != nil {
			w.phase = releasing
			w.failed(i, err)
		}
		return
	}
	owner := w.newOwner()
	if w.phase == held && w.rng.IntN(2) == 0 || w.phase == acquiring && w.rng.IntN(2) == 0 {
		owner = w.owner
	}
	epoch, err := c.Acquire(ctx, "m", owner)
	switch {
	case err == nil && owner == w.owner && w.phase == held && w.epoch != 0:
		require.Equal(w.t, w.epoch, epoch, "who holds it gets the same epoch")
	case err == nil && owner == w.owner:
		w.given(owner, epoch)
	case err == nil:
		require.NotEqual(w.t, held, w.phase, "%s holds it, and %s got it", w.owner, owner)
		w.given(owner, epoch)
	case errors.Is(err, dr.ErrBusy):
		require.NotEqual(w.t, free, w.phase)
		require.NotEqual(w.t, w.owner, owner)
		require.ErrorContains(w.t, err, "held by "+w.owner)
		if w.phase == acquiring {
			w.phase, w.epoch = held, 0 // somebody was told so
		}
	default:
		if w.phase == free {
			w.owner, w.phase, w.epoch = owner, acquiring, 0
		} else if owner != w.owner && w.phase != held {
			// Either of the two may hold it now; the release of the one, or the
			// refusal of the other, settles it, as it does for an engine.
			w.settle(owner)
			return
		}
		w.failed(i, err)
	}
}

// settle gives back what either of two may hold.
func (w *world) settle(other string) {
	w.failed(0, crashfs.ErrKilled)
	w.failed(1, crashfs.ErrKilled)
	for _, owner := range []string{w.owner, other} {
		for {
			i := w.rng.IntN(2)
			err := w.procs[i].Release(context.Background(), "m", owner)
			if err == nil {
				break
			}
			w.failed(i, err)
		}
	}
	w.phase = free
}

// TestCrashes kills processes and cuts the power at any operation on the
// directory, again and again: no epoch is given twice, there is one holder, and
// what anybody was told stays so.
func TestCrashes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var cuts, kills, holdings int
	for range 200 {
		w := &world{t: t, rng: rng, disk: crashfs.New(rng.Uint64())}
		require.NoError(t, w.disk.MkdirAll("/srv", 0o700))
		require.NoError(t, w.disk.SyncDir("/"))
		w.arm()
		for range 100 {
			w.step()
		}
		cuts, kills, holdings = cuts+w.cuts, kills+w.kills, holdings+w.holdings
	}
	t.Logf("%d power cuts, %d kills, %d holdings", cuts, kills, holdings)
	require.Greater(t, min(cuts, kills, holdings), 300)
}

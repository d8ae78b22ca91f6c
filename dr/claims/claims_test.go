package claims

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault/azbucket"
)

var (
	_ dr.Claims      = (*Claims)(nil)
	_ dr.ClaimLister = (*Claims)(nil)
	_ dr.EpochRaiser = (*Claims)(nil)
	_ dr.ClaimSeizer = (*Claims)(nil)
)

// quick tries again at once.
var quick = container.ClientOptions{ClientOptions: policy.ClientOptions{Retry: policy.RetryOptions{RetryDelay: 1, MaxRetryDelay: 1}}}

// places are where claims are kept.
var places = map[string]func(t *testing.T) func() *Claims{
	"directory": func(t *testing.T) func() *Claims {
		path := filepath.Join(t.TempDir(), "claims")
		return func() *Claims { return NewDir(path, Options{}) }
	},
	"vault's directory": func(t *testing.T) func() *Claims {
		path := t.TempDir()
		return func() *Claims { return New(vault.NewDir(fsys.OS(), path), Options{}) }
	},
	"Azurite": func(t *testing.T) func() *Claims {
		c := azurite.Start(t).Container(t, "", func(o *container.ClientOptions) { o.Retry = quick.Retry })
		return func() *Claims { return New(azbucket.New(c, azbucket.Options{}), Options{}) }
	},
	"azuretest": func(t *testing.T) func() *Claims {
		b := azuretest.NewBlobs(azuretest.BlobOptions{})
		t.Cleanup(b.Close)
		_, err := b.Container(t.Context(), "account", "vault")
		require.NoError(t, err)
		url, key := b.Account("account")
		cred, err := azblob.NewSharedKeyCredential("account", key)
		require.NoError(t, err)
		c, err := container.NewClientWithSharedKeyCredential(url+"/vault", cred, &quick)
		require.NoError(t, err)
		return func() *Claims { return New(azbucket.New(c, azbucket.Options{}), Options{}) }
	},
}

// each runs a test on each place; open opens the same claims again and again.
func each(t *testing.T, test func(t *testing.T, open func() *Claims)) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, place(t))
		})
	}
}

func TestContract(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			enginetest.Claims(t, func(t enginetest.T) dr.Claims { return place(t.(*testing.T))() })
		})
	}
}

func TestAnotherProcessSeesTheSame(t *testing.T) {
	each(t, func(t *testing.T, open func() *Claims) {
		ctx := t.Context()
		epoch, err := open().Acquire(ctx, "protection/Web-01", "r1@j")
		require.NoError(t, err)
		_, err = open().Acquire(ctx, "protection/Web-01", "r2@j")
		require.ErrorIs(t, err, dr.ErrBusy)
		require.ErrorContains(t, err, "r1@j")
		_, err = open().Acquire(ctx, "protection/web-01", "r2@j")
		require.NoError(t, err, "another machine, though only in its case")
		again, err := open().Acquire(ctx, "protection/Web-01", "r1@j")
		require.NoError(t, err)
		require.Equal(t, epoch, again)
		require.NoError(t, open().Release(ctx, "protection/Web-01", "r1@j"))
		next, err := open().Acquire(ctx, "protection/Web-01", "r1@j")
		require.NoError(t, err)
		require.Greater(t, next, epoch, "another holding, though of the same run")
	})
}

// far is an epoch ahead of all clocks: those after it rise by one.
const far = uint64(1) << 40

func TestListRaiseAndSeize(t *testing.T) {
	each(t, func(t *testing.T, open func() *Claims) {
		ctx := t.Context()
		c := open()
		long := strings.Repeat("protection of büro ", 20)
		given := map[string]uint64{}
		for _, r := range []string{"b", long + "2", "a/ä", long + "1"} {
			epoch, err := c.Acquire(ctx, r, "run@"+r)
			require.NoError(t, err)
			given[r] = epoch
		}
		require.NoError(t, c.Release(ctx, "b", "run@b"))

		require.ErrorIs(t, c.Raise(ctx, long+"1", far), dr.ErrBusy)
		require.NoError(t, c.Raise(ctx, long+"1", 1), "that is no rise")
		require.NoError(t, c.Raise(ctx, "b", far+41))
		require.NoError(t, c.Raise(ctx, "b", far+40), "it is never lowered")
		require.NoError(t, c.Raise(ctx, "new", 3))
		epoch, err := open().Acquire(ctx, "b", "late")
		require.NoError(t, err)
		require.Equal(t, far+42, epoch)

		_, err = c.Seize(ctx, "b", "somebody", "me")
		require.ErrorIs(t, err, dr.ErrConflict)
		require.ErrorContains(t, err, "late")
		_, err = c.Seize(ctx, "new", "somebody", "me")
		require.ErrorIs(t, err, dr.ErrConflict)
		_, err = c.Seize(ctx, "new", "", "me")
		require.ErrorIs(t, err, dr.ErrInvalid)
		epoch, err = c.Seize(ctx, "b", "late", "me")
		require.NoError(t, err)
		require.Equal(t, far+43, epoch)
		require.NoError(t, c.Release(ctx, "b", "late"), "it isn't the holder any more")
		epoch, err = c.Seize(ctx, "a/ä", "run@a/ä", "")
		require.NoError(t, err)
		require.Greater(t, epoch, given["a/ä"])

		want := []dr.Claim{{Resource: "a/ä", Epoch: epoch}, {Resource: "b", Owner: "me", Epoch: far + 43}, {Resource: "new", Epoch: 3},
			{Resource: long + "1", Owner: "run@" + long + "1", Epoch: given[long+"1"]}, {Resource: long + "2", Owner: "run@" + long + "2", Epoch: given[long+"2"]}}
		var got []dr.Claim
		for claim, err := range open().Claims(ctx) {
			require.NoError(t, err)
			require.WithinDuration(t, time.Now(), claim.Since, time.Minute)
			claim.Since = time.Time{}
			got = append(got, claim)
		}
		require.Equal(t, want, got)
	})
}

func TestWhatMakesNoSense(t *testing.T) {
	c := NewDir(t.TempDir(), Options{})
	for _, x := range []struct{ resource, owner string }{{"", "me"}, {"m", ""}, {"m", "\xff"}, {"\xff", "me"}, {"m", strings.Repeat("x", maxName+1)}} {
		_, err := c.Acquire(t.Context(), x.resource, x.owner)
		require.ErrorIs(t, err, dr.ErrInvalid, "%q", x)
	}
	require.NoError(t, c.Release(t.Context(), "m", ""))
	for range c.Claims(t.Context()) {
		require.Fail(t, "nothing was claimed")
	}
	require.NoError(t, c.Raise(t.Context(), "m", 1<<62))
	require.ErrorIs(t, c.Raise(t.Context(), "m", 1<<63), dr.ErrInvalid)
}

// lossy is a bucket whose swaps fail as they are told: without effect, with it,
// or with an effect that comes later.
type lossy struct {
	mu   sync.Mutex
	data []byte
	n    int
	fate func() fate
	late []func()
}

type fate int

const (
	fine fate = iota
	unsent
	lost
	delayed // the caller hears nothing, and it has its effect when flush is called
	unread  // also the next read fails
)

var errLine = errors.New("connection reset")

func (l *lossy) ReadHead(context.Context, string) ([]byte, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fate() == unread {
		return nil, "", errLine
	}
	if l.n == 0 {
		return nil, "", nil
	}
	return l.data, fmt.Sprint(l.n), nil
}

func (l *lossy) SwapHead(_ context.Context, _ string, old string, data []byte) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	swap := func() error {
		if old == "" && l.n != 0 || old != "" && old != fmt.Sprint(l.n) {
			return dr.ErrConflict
		}
		l.n++
		l.data = data
		return nil
	}
	switch l.fate() {
	case unsent, unread:
		return "", errLine
	case lost:
		_ = swap() // nobody hears of its error either
		return "", errLine
	case delayed:
		l.late = append(l.late, func() { _ = swap() })
		return "", errLine
	}
	return fmt.Sprint(l.n), swap()
}

func (l *lossy) List(context.Context, string) iter.Seq2[entry, error] { return nil }

// flush lets what is on its way have its effect, or a part of it.
func (l *lossy) flush(rng *rand.Rand) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rng.Shuffle(len(l.late), func(i, j int) { l.late[i], l.late[j] = l.late[j], l.late[i] })
	for len(l.late) > 0 && rng.IntN(4) > 0 {
		l.late[0]()
		l.late = l.late[1:]
	}
}

// TestLostAnswers lets two processes claim and release over a line that loses
// requests, loses answers and delivers late. What they were told must be so:
// who was given an epoch holds it until it gives it back or is told otherwise,
// epochs rise, and a Release that was acknowledged isn't undone by an Acquire
// of before it that comes late.
func TestLostAnswers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	acquired := 0
	for range 300 {
		bad := rng.IntN(100)
		l := &lossy{}
		l.fate = func() fate {
			if rng.IntN(100) >= bad {
				return fine
			}
			return fate(rng.IntN(int(unread) + 1))
		}
		a, b := New(l, Options{}), New(l, Options{})
		var last uint64
		holder := ""
		for range 60 {
			c, owner := a, "a"
			if rng.IntN(2) == 0 {
				c, owner = b, "b"
			}
			if rng.IntN(2) == 0 {
				epoch, err := c.Acquire(t.Context(), "m", owner)
				switch {
				case err == nil && holder == owner:
					require.Equal(t, last, epoch)
				case err == nil:
					require.Empty(t, holder)
					require.Greater(t, epoch, last)
					holder, last = owner, epoch
					acquired++
				case errors.Is(err, dr.ErrBusy):
					require.NotEqual(t, holder, owner)
				}
				if err != nil && holder != owner {
					// As an engine does: it gives up, and back.
					for c.Release(t.Context(), "m", owner) != nil {
						l.flush(rng)
					}
				}
			} else if err := c.Release(t.Context(), "m", owner); err == nil && holder == owner {
				holder = ""
			} else if err != nil && holder == owner {
				for c.Release(t.Context(), "m", owner) != nil {
					l.flush(rng)
				}
				holder = ""
			}
			l.flush(rng)
		}
		l.fate = func() fate { return fine }
		for _, late := range l.late {
			late()
		}
		if holder == "" {
			_, err := New(l, Options{}).Acquire(t.Context(), "m", "other")
			require.NoError(t, err, "nobody holds it, and nobody's request comes late")
		} else {
			_, err := New(l, Options{}).Acquire(t.Context(), "m", "other")
			require.ErrorIs(t, err, dr.ErrBusy)
			require.ErrorContains(t, err, "held by "+holder)
		}
	}
	require.Greater(t, acquired, 1000)
}

// TestConflictsEnd: a place where every swap is a conflict is given up.
func TestConflictsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(alwaysFaster{&lossy{fate: func() fate { return fine }}}, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.Acquire(ctx, "m", "me")
		require.ErrorIs(t, err, dr.ErrConflict)
		cancel()
		_, err = c.Acquire(ctx, "m", "me")
		require.ErrorIs(t, err, context.Canceled)
	})
}

type alwaysFaster struct{ *lossy }

func (a alwaysFaster) SwapHead(context.Context, string, string, []byte) (string, error) {
	return "", dr.ErrConflict
}

// locked is a bucket that somebody has locked for a while, as a vault in it may.
type locked struct{ vault.Bucket }

func (locked) SwapHead(context.Context, string, vault.Version, []byte) (vault.Version, error) {
	return "", fmt.Errorf("%w: the lock of the vault", dr.ErrBusy)
}

// TestBusyPlace: that the place can't be written to is not that somebody holds
// the claim: a run would be refused for good.
func TestBusyPlace(t *testing.T) {
	b := vault.NewDir(fsys.OS(), t.TempDir())
	_, err := New(locked{b}, Options{}).Acquire(t.Context(), "m", "me")
	require.ErrorContains(t, err, "the lock of the vault")
	require.NotErrorIs(t, err, dr.ErrBusy)
}

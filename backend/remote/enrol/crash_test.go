package enrol

import (
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
)

// Power is cut, or the disk fails, at each operation of an enrolment in turn. Whatever was
// answered stays so, the key may ask again, and no second key gets anything.
func TestATokenIsGoodOnceOverPowerCuts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for what, fail := range map[string]error{"power": nil, "a failing disk": &os.PathError{Op: "write", Path: "x", Err: syscall.EIO}} {
		for n := 1; ; n++ {
			disk := crashfs.New(seed + uint64(n))
			a, err := OpenAuthority("/a", AuthorityOptions{files: disk})
			require.NoError(t, err)
			token, err := a.NewToken(t.Context(), theAgent)
			require.NoError(t, err)
			first, second := plain(t), plain(t)
			disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Err: fail, Torn: true})
			was, _, err := a.enrol(t.Context(), token, first)
			fired := disk.Fired()
			if fired > 0 && fail == nil {
				require.Error(t, err)
			}
			answered := err == nil
			if n%2 == 0 && !answered { // the same, asked again before power goes
				was, _, err = a.enrol(t.Context(), token, first)
				answered = err == nil
			}
			disk = disk.Restart()
			a, err = OpenAuthority("/a", AuthorityOptions{files: disk})
			require.NoError(t, err)
			// The other key first: it may only win if nobody was answered.
			_, _, err = a.enrol(t.Context(), token, second)
			won := err == nil
			require.False(t, answered && won, "%s at %d: a token was accepted twice", what, n)
			again, _, err := a.enrol(t.Context(), token, first)
			if won {
				require.ErrorIs(t, err, ErrToken, "%s at %d", what, n)
			} else {
				require.NoError(t, err, "%s at %d", what, n)
			}
			if answered {
				require.Equal(t, was.Chain, again.Chain)
			}
			records, err := a.issuedRecords()
			require.NoError(t, err)
			require.Len(t, records, 1, "%s at %d", what, n)
			if fired == 0 {
				require.Greater(t, n, 8)
				break
			}
		}
	}
}

// An identity that was cut off in its renewal is the old one or the new one.
func TestAnIdentityIsWholeOverPowerCuts(t *testing.T) {
	x := open(t, AuthorityOptions{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		id, err := Enrol(t.Context(), "/id", x.invite(theAgent), IdentityOptions{files: disk})
		require.NoError(t, err)
		was := id.Certificate()
		disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true})
		err = errors.Join(id.Renew(t.Context()), id.Refresh(t.Context()))
		fired := disk.Fired()
		disk = disk.Restart()
		id, e := OpenIdentity("/id", IdentityOptions{files: disk})
		require.NoError(t, e, "cut at %d", n)
		require.NoError(t, id.Renew(t.Context()))
		require.NotEqual(t, was.SerialNumber, id.Certificate().SerialNumber)
		if fired == 0 {
			require.NoError(t, err)
			break
		}
	}
}

// An enrolment that was cut off anywhere is done by asking again.
func TestAnEnrolmentIsRepeatedOverPowerCuts(t *testing.T) {
	x := open(t, AuthorityOptions{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true})
		i := x.invite(theAgent)
		_, err := Enrol(t.Context(), "/id", i, IdentityOptions{files: disk})
		fired := disk.Fired()
		disk = disk.Restart()
		_, e := OpenIdentity("/id", IdentityOptions{files: disk})
		if err == nil {
			require.NoError(t, e)
		}
		if e != nil {
			_, err = Enrol(t.Context(), "/id", i, IdentityOptions{files: disk})
			require.NoError(t, err, "cut at %d", n)
		}
		if fired == 0 {
			break
		}
	}
}

// A disk that fails to make an acceptance durable, and power that goes behind the answer to
// a later try: what that answered on must not be undone.
func TestWhatAnAnswerStandsOnIsDurable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	lost := 0
	for i := range uint64(40) {
		disk := crashfs.New(seed + i)
		a, err := OpenAuthority("/a", AuthorityOptions{files: disk})
		require.NoError(t, err)
		token, err := a.NewToken(t.Context(), theAgent)
		require.NoError(t, err)
		first, second := plain(t), plain(t)
		for range 2 { // the next one may have got further
			disk.Inject(crashfs.Fault{N: 1, Match: func(o crashfs.Op) bool { return o.Kind == crashfs.SyncDir && o.Path == "/a/tokens" }, Err: syscall.EIO})
			_, _, err = a.enrol(t.Context(), token, first)
			require.Error(t, err)
		}
		if i%2 == 0 {
			_, _, err = a.enrol(t.Context(), token, first)
			require.NoError(t, err)
		}
		a, err = OpenAuthority("/a", AuthorityOptions{files: disk.Restart()})
		require.NoError(t, err)
		_, _, err = a.enrol(t.Context(), token, second)
		if i%2 == 0 {
			require.ErrorIs(t, err, ErrToken)
		} else if err == nil {
			lost++
		}
	}
	require.Positive(t, lost, "without a later try it may be undone: else this shows nothing")
}

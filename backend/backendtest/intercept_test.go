package backendtest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A wrapped backend keeps every promise and every ability, and lacks those
// that the backend lacks.
func TestWrappedBackendConforms(t *testing.T) {
	for name, o := range map[string]memory.Options{
		"every ability": {},
		"no ability": {
			NoTracker: true, NoMap: true, NoSums: true, NoZero: true, NoResume: true, NoList: true,
			NoShutdown: true, NoQuiesce: true, NoSweep: true, NoProbe: true, NoPreflight: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := memory.New(o)
			var k Counter
			h := Simulated(Wrap(b, k.Intercept, FailNth(1, Before, "NoSuchMethod").Intercept), b)
			h.Granularity = 64 << 10
			h.Histories = 5
			Run(t, h)
			require.Positive(t, k.Calls(OpCapture))
			require.Equal(t, o.NoTracker, k.Calls(OpChanges) == 0)
			require.Equal(t, o.NoSums, k.Calls(OpSums) == 0)
			require.Equal(t, o.NoZero, k.Calls(OpZero) == 0)
			require.Equal(t, o.NoSweep, k.Calls(OpSweep) == 0)
		})
	}
}

// trip takes what the machine holds to a replica. It may be tried again
// after a failure anywhere, and asks as a flow would.
func trip(ctx context.Context, b backend.Backend, id dr.MachineID) (dr.MachineID, error) {
	img, err := b.Capture(ctx, id, "p", dr.CrashConsistent)
	if err != nil {
		return "", err
	}
	defer img.Close()
	p := img.Point()
	r, err := b.Prepare(ctx, backend.Placement{Key: "trip", Machine: p.Machine})
	if err != nil {
		return "", err
	}
	if r.Holds != p.ID {
		d, err := b.Draft(ctx, r.ID, p)
		if err != nil {
			return "", err
		}
		defer d.Close()
		m, ok := dr.As[dr.Mapper](img)
		if !ok {
			return "", dr.ErrUnsupported
		}
		z, ok := dr.As[dr.Zeroer](d)
		if !ok {
			return "", dr.ErrUnsupported
		}
		for _, disk := range p.Machine.Disks {
			for x, err := range m.Extents(ctx, disk.ID) {
				if err != nil {
					return "", err
				}
				if x.Zero {
					if err := z.Zero(ctx, disk.ID, x.Off, x.Len); err != nil {
						return "", err
					}
					continue
				}
				buf := make([]byte, x.Len)
				if _, err := img.ReadAt(ctx, disk.ID, buf, x.Off); err != nil {
					return "", err
				}
				if _, err := d.WriteAt(ctx, disk.ID, buf, x.Off); err != nil {
					return "", err
				}
			}
		}
		if err := d.Commit(ctx, p); err != nil {
			return "", err
		}
	}
	if err := b.Release(ctx, id, "p"); err != nil {
		return "", err
	}
	return r.ID, b.Start(ctx, r.ID)
}

// The first call fails, then the second, until none is left: each time the
// repetition ends with one replica that has the source's bytes.
func TestFailuresAnywhereCanBeRepeated(t *testing.T) {
	for _, when := range []When{Before, After} {
		fired := 0
		for n := 1; ; n++ {
			b := memory.New(memory.Options{})
			require.NoError(t, b.Add(dr.Machine{ID: "m", Power: dr.On, Disks: []dr.Disk{{ID: diskA, Size: 1 << 20}}}))
			require.NoError(t, b.Write("m", diskA, []byte("content"), 300<<10))
			f := FailNth(n, when)
			w := Wrap(b, f.Intercept)
			_, err := trip(t.Context(), w, "m")
			if !f.Fired() {
				require.NoError(t, err)
				break
			}
			fired++
			require.ErrorIs(t, err, ErrInjected, "call %d", n)
			b.Crash()
			// A failure after Start leaves a running replica, which is not
			// prepared again.
			if id := dr.MachineID("replica-1"); n > 1 {
				_ = b.Stop(t.Context(), id)
			}
			id, err := trip(t.Context(), w, "m")
			require.NoError(t, err, "call %d", n)
			require.Equal(t, dr.MachineID("replica-1"), id)
			disk, err := b.Disk(id, diskA)
			require.NoError(t, err)
			got := make([]byte, 7)
			_, err = disk.ReadAt(got, 300<<10)
			require.NoError(t, err)
			require.Equal(t, "content", string(got))
		}
		require.GreaterOrEqual(t, fired, 9)
	}
}

func TestFailedSequences(t *testing.T) {
	for _, when := range []When{Before, After} {
		b := memory.New(memory.Options{})
		require.NoError(t, b.Add(dr.Machine{ID: "m", Disks: []dr.Disk{{ID: diskA, Size: 1 << 20}}}))
		img, err := Wrap(b, FailNth(1, when, OpExtents).Intercept).Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		m, ok := dr.As[dr.Mapper](img)
		require.True(t, ok)
		var extents, failures int
		for _, err := range m.Extents(t.Context(), diskA) {
			if err != nil {
				require.ErrorIs(t, err, ErrInjected)
				failures++
			} else {
				extents++
			}
		}
		require.Equal(t, 1, failures)
		require.Equal(t, when == After, extents == 1)
	}
}

func TestCounterCountsBytes(t *testing.T) {
	b := memory.New(memory.Options{})
	require.NoError(t, b.Add(dr.Machine{ID: "m", Power: dr.On, Disks: []dr.Disk{{ID: diskA, Size: 1 << 20}}}))
	require.NoError(t, b.Write("m", diskA, []byte{1}, 0))
	var k Counter
	_, err := trip(t.Context(), Wrap(b, k.Intercept), "m")
	require.NoError(t, err)
	require.EqualValues(t, 64<<10, k.Read())
	require.EqualValues(t, 64<<10, k.Written())
	require.EqualValues(t, 1<<20-64<<10, k.Bytes(OpZero))
	require.Equal(t, 1, k.Calls(OpCommit))
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Options{})
		require.NoError(t, b.Add(dr.Machine{ID: "m", Disks: []dr.Disk{{ID: diskA, Size: 1 << 20}}}))
		w := Wrap(b, Latency(func(c Call) time.Duration {
			if c.Op == OpStart {
				return time.Hour
			}
			return 0
		}))
		began := time.Now()
		require.NoError(t, w.Start(t.Context(), "m"))
		require.Equal(t, time.Hour, time.Since(began))

		require.NoError(t, w.Stop(t.Context(), "m"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, w.Start(ctx, "m"), context.DeadlineExceeded)
		m, err := w.Machine(t.Context(), "m")
		require.NoError(t, err)
		require.Equal(t, dr.Off, m.Power)
	})
}

// An ability that this package doesn't know is seen through the wrapper.
func TestUnknownAbilitiesStayVisible(t *testing.T) {
	type mine interface{ Mine() error }
	w := Wrap(special{memory.New(memory.Options{})}, func(context.Context, Call, func() error) error { return errors.New("all fails") })
	m, ok := dr.As[mine](w)
	require.True(t, ok)
	require.NoError(t, m.Mine())
}

type special struct{ *memory.Backend }

func (special) Mine() error { return nil }

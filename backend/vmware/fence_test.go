package vmware

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func claimed(epoch uint64) context.Context {
	return dr.WithFences(context.Background(), map[string]uint64{"protection": epoch})
}

// costs is what a call adds to the simulator's, by method, without the looks at
// tasks, whose number is a matter of time.
func costs(t *testing.T, p *pit, f func() error) map[string]int {
	t.Helper()
	before := p.sim.AllCalls()
	require.NoError(t, f())
	now := p.sim.AllCalls()
	for call, n := range before {
		now[call] -= n
	}
	maps.DeleteFunc(now, func(call string, n int) bool {
		return n == 0 || call == "RetrievePropertiesEx" || call == "RetrieveProperties"
	})
	return now
}

// What changes a machine costs one change of its record under a new epoch, none
// if that is changed anyhow, and nothing under an epoch that it remembers.
func TestWhatFencesCost(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	start := func(ctx context.Context) func() error { return func() error { return p.v.Start(ctx, p.id) } }
	stop := func(ctx context.Context) func() error { return func() error { return p.v.Stop(ctx, p.id) } }
	none := context.Background()
	require.NoError(t, p.v.Start(none, p.id))
	off := costs(t, p, stop(none))
	on := costs(t, p, start(none))
	require.NotContains(t, on, "ReconfigVM_Task")
	require.NoError(t, p.v.Stop(none, p.id))

	first := costs(t, p, start(claimed(1)))
	require.Equal(t, 1, first["ReconfigVM_Task"])
	require.Equal(t, off, costs(t, p, stop(claimed(1))))
	require.Equal(t, on, costs(t, p, start(claimed(1))))
	higher := costs(t, p, stop(claimed(2)))
	require.Equal(t, 1, higher["ReconfigVM_Task"])

	// A machine that holds a point forgets it when it starts, and that change
	// carries the epoch as well.
	point := p.point("p")
	fill := func(ctx context.Context) func() error {
		return func() error {
			d, err := p.v.Draft(ctx, p.id, point)
			if err != nil {
				return err
			}
			_, err = d.WriteAt(ctx, p.ids[0], []byte("bytes"), 0)
			return errors.Join(err, d.Commit(ctx, point), d.Close())
		}
	}
	filled := costs(t, p, fill(none))
	require.Equal(t, filled, costs(t, p, fill(claimed(2))))
	require.Equal(t, costs(t, p, start(claimed(3))), first)
}

// Whoever reconfigures a machine under fences is no hindrance to people who do,
// and stops where another worker has raised an epoch.
func TestReconfigurationsOfTwoOwners(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	other := connect(t, p.w.o)
	note := func(text string) types.VirtualMachineConfigSpec {
		return types.VirtualMachineConfigSpec{Annotation: text}
	}
	change := func(meanwhile func()) error {
		return p.v.changing(claimed(1), p.id, func(m *machine) error {
			require.NoError(t, p.v.remember(context.Background(), m))
			meanwhile()
			return p.v.reconfigure(context.Background(), m, note("ours"))
		})
	}
	require.NoError(t, change(func() {
		require.NoError(t, other.reconfigure(context.Background(), p.look(), note("somebody's")))
	}))
	require.Equal(t, "ours", p.look().config.Annotation)
	err := change(func() {
		require.NoError(t, other.Stop(claimed(2), p.id))
		require.NoError(t, other.reconfigure(context.Background(), p.look(), note("theirs")))
	})
	require.ErrorIs(t, err, dr.ErrFenced)
	require.Equal(t, "theirs", p.look().config.Annotation)
}

// A session that died while its worker stood still is replaced, and what it was
// to carry is not sent by the new one before the record was looked at.
func TestAFencedCallIsNotSentByTheNextSession(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	other := connect(t, p.w.o)
	p.v.fresh = time.Hour
	sent := 0
	p.v.session.next = &meanwhile{RoundTripper: p.v.session.next, call: "PowerOnVM_Task", before: func() {
		if sent++; sent == 1 {
			require.NoError(t, other.Stop(claimed(2), p.id))
			p.sim.ExpireSessions()
			p.v.fresh = 0
		}
	}}
	require.NoError(t, p.v.Stop(claimed(1), p.id))
	require.ErrorIs(t, p.v.Start(claimed(1), p.id), dr.ErrFenced)
	require.Equal(t, 1, sent)
	require.Equal(t, dr.Off, powerOf(p.look().props.Runtime))
}

// refusing answers for vSphere while err is one.
type refusing struct {
	soap.RoundTripper
	err func() error
}

func (r *refusing) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	if err := r.err(); err != nil {
		return err
	}
	return r.RoundTripper.RoundTrip(ctx, req, res)
}

// A disk that is written long after the last look is looked after first, and a
// machine whose record can't be told in time is left alone.
func TestADraftLooksAgain(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	other := connect(t, p.w.o)
	point := p.point("p")
	d, err := p.v.Draft(claimed(1), p.id, point)
	require.NoError(t, err)
	defer d.Close()
	write := func() error {
		_, err := d.WriteAt(context.Background(), p.ids[0], []byte("bytes"), 0)
		return err
	}
	require.NoError(t, write())
	p.v.fresh, p.v.patience = -1, 0 // a look is always too old
	require.ErrorIs(t, write(), dr.ErrBusy)
	p.v.fresh, p.v.patience = freshFor, time.Minute
	require.NoError(t, write())
	// vSphere is away for more than a call's own retries: the disks, which are
	// written past it, needn't be filled from the beginning.
	away := 0
	p.v.session.next = &refusing{p.v.session.next, func() error {
		if away++; away <= 2*retries {
			return errors.New("connection refused")
		}
		return nil
	}}
	d.(*draft).looked = time.Time{}
	require.NoError(t, write())
	require.Greater(t, away, 2*retries)
	p.v.patience, away = 0, 0
	d.(*draft).looked = time.Time{}
	require.ErrorContains(t, write(), "connection refused")
	away = 2 * retries
	require.NoError(t, other.Stop(claimed(2), p.id))
	d.(*draft).looked = time.Time{}
	require.ErrorIs(t, write(), dr.ErrFenced)
	require.ErrorIs(t, d.(dr.Zeroer).Zero(context.Background(), p.ids[0], 0, 4096), dr.ErrFenced)
	require.ErrorIs(t, d.Commit(context.Background(), point), dr.ErrFenced)
	require.True(t, p.look().record.Torn)
}
